"""Real-world recordings: joined, cut, damaged, hostile. The decoded audio is compared with ffmpeg's."""

import contextlib
import io
import os
import re
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.samples import CLIPS

from unichoir.audio import decoders
from unichoir.audio.io import array_recording, audio_blocks, audio_duration, load_audio, open_recording, resample
from unichoir.errors import AudioError

RATE = 16000
av = pytest.importorskip("av")
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
Ffmpeg = Callable[..., Path]


@pytest.fixture
def ffmpeg(tmp_path: Path) -> Ffmpeg:
    """Runs ffmpeg with these arguments; the last is the name of the output file."""

    def ffmpeg(*arguments: object) -> Path:
        path = tmp_path / str(arguments[-1])
        words = [str(each) for each in arguments[:-1]]
        subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-y", *words, str(path)], check=True)
        return path

    return ffmpeg


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Four clips, 7.7 s."""
    path = tmp_path / "speech.flac"
    soundfile.write(path, np.concatenate([soundfile.read(clip, dtype="int16")[0] for clip in CLIPS[:4]]), RATE)
    return path


@pytest.fixture(params=["av", "plain"])
def install(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the extra `av` installed, and without it."""
    if request.param == "plain":
        monkeypatch.setattr("unichoir.audio.decoders.has", lambda library: library != "av")
    return request.param


def decoded(path: Path, rate: int, channels: int = 1) -> np.ndarray:
    """Decode a file with ffmpeg: (N,), or (N, channels) for several channels."""
    command = ["ffmpeg", "-v", "quiet", "-nostdin", "-i", str(path), "-f", "f32le", "-ar", str(rate), "-"]
    samples = np.frombuffer(subprocess.run(command, capture_output=True, check=False).stdout, np.float32)
    return samples if channels == 1 else samples.reshape(-1, channels)


def read(path: Path, rate: int) -> tuple[np.ndarray, list[str]]:
    """Read a file at its own rate: samples (N,), and the warnings about missing parts."""
    warnings: list[str] = []
    return load_audio(path, sample_rate=rate, name="it", warn=warnings.append, strict=False), warnings


def assert_alike(found: np.ndarray, expected: np.ndarray, most: int) -> None:
    """Assert equal audio, shifted by at most so many samples: containers round times, and codecs add noise."""
    size = 1 << int(np.ceil(np.log2(len(found) + len(expected))))
    product = np.fft.irfft(np.fft.rfft(found, size) * np.conj(np.fft.rfft(expected, size)), size)
    assert min(product.argmax(), size - product.argmax()) <= most
    assert product.max() > 0.98 * np.linalg.norm(found) * np.linalg.norm(expected)


def assert_same(found: np.ndarray, expected: np.ndarray, slack: int = 0) -> None:
    """Versions of ffmpeg round differently (ADPCM most), and may differ by some samples at the end."""
    assert abs(len(found) - len(expected)) <= slack
    length = min(len(found), len(expected))
    np.testing.assert_allclose(found[:length], expected[:length], atol=5e-3)


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "rate", "options"),
    [
        ("vbr.mp3", RATE, ["-q:a", "5", "-write_xing", "0"]),
        ("inside.wav", RATE, ["-c:a", "libmp3lame"]),
        ("adpcm.wav", RATE, ["-c:a", "adpcm_ima_wav"]),
        ("law.wav", RATE, ["-c:a", "pcm_mulaw"]),
        ("wide.wav", RATE, ["-c:a", "pcm_s24le"]),
        ("float.wav", RATE, ["-c:a", "pcm_f64le"]),
        ("film.m4a", 44100, ["-ar", "44100"]),
        ("a.opus", 48000, []),
        ("a.ogg", RATE, ["-c:a", "libvorbis"]),
        ("a.wv", RATE, []),
        ("a.wma", 44100, ["-ar", "44100"]),
    ],
)
def test_what_ffmpeg_decodes_is_what_is_read(ffmpeg: Ffmpeg, speech: Path, name: str, rate: int, options: list) -> None:
    path = ffmpeg("-i", speech, *options, name)
    found, warnings = read(path, rate)
    assert_same(found, decoded(path, rate), slack=2048 if name.endswith((".wma", ".m4a", ".opus")) else 0)
    assert warnings == []
    assert audio_duration(path) == pytest.approx(len(found) / rate, abs=1e-6)
    assert len(found) / rate == pytest.approx(7.7, abs=0.12)


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vbr.mp3", ["-q:a", "5", "-write_xing", "0"]),
        ("cbr.mp3", ["-b:a", "64k", "-ac", "2"]),
        ("inside.wav", ["-c:a", "libmp3lame"]),
        ("law.wav", ["-c:a", "pcm_alaw"]),
        ("byte.wav", ["-c:a", "pcm_u8"]),
        ("float.wav", ["-c:a", "pcm_f32le"]),
        ("rf64.wav", ["-rf64", "always"]),
        ("adpcm.wav", ["-c:a", "adpcm_ms"]),
        ("a.aiff", []),
        ("law.au", ["-c:a", "pcm_mulaw"]),
        ("a.w64", []),
        ("a.caf", ["-c:a", "pcm_s24be"]),
        ("wide.flac", ["-sample_fmt", "s32"]),
        ("fast.flac", ["-ar", "192000"]),
        ("many.flac", ["-ac", "8"]),
        ("many.wav", ["-ac", "8"]),
        ("a.oga", ["-c:a", "flac"]),
    ],
)
def test_both_installs_read(ffmpeg: Ffmpeg, speech: Path, install: str, name: str, options: list[str]) -> None:
    path = ffmpeg("-t", 3, "-i", speech, *options, name)
    info = av.open(str(path)).streams.audio[0]
    found, warnings = read(path, info.rate)
    expected = decoded(path, info.rate, info.channels)
    expected = expected if expected.ndim == 1 else expected.mean(axis=1)
    # dr_mp3 leaves the padding at the end.
    assert_same(found, expected, slack=2 * 1152 if name.endswith("mp3") and install == "plain" else 0)
    assert warnings == []


def tag(size: int) -> bytes:
    """Make an ID3v2 tag of so many bytes, with a picture."""
    return b"ID3\x04\0\0" + bytes(size >> place & 0x7F for place in (21, 14, 7, 0)) + b"APIC" + bytes(size - 4)


APE = b"APETAGEX" + struct.pack("<4I", 2000, 53, 1, 0xA0000000) + bytes(8)
APE += struct.pack("<2I", 8, 0) + b"Title\0a cough!!!"[:13] + APE[:20] + b"\0\0\0\x80" + bytes(8)


@needs_ffmpeg
@pytest.mark.parametrize("between", [b"", tag(300), b"TAG" + bytes(125), APE, APE + b"TAG" + bytes(125)])
def test_two_mp3_in_one_file_are_both_read(ffmpeg: Ffmpeg, tmp_path: Path, install: str, between: bytes) -> None:
    parts = [ffmpeg("-i", clip, "-id3v2_version", 0, f"{number}.mp3") for number, clip in enumerate(CLIPS[:2])]
    path = tmp_path / "both.mp3"
    path.write_bytes(tag(1 << 20) + parts[0].read_bytes() + between + parts[1].read_bytes() + between)
    found, warnings = read(path, RATE)
    assert_alike(found, decoded(path, RATE), 0)
    assert len(found) > sum(len(decoded(part, RATE)) for part in parts)  # the padding of the second is heard
    assert warnings == []


@needs_ffmpeg
def test_two_aac_in_one_file_are_both_read(ffmpeg: Ffmpeg, tmp_path: Path) -> None:
    parts = [ffmpeg("-i", clip, f"{number}.aac") for number, clip in enumerate(CLIPS[:2])]
    path = tmp_path / "both.aac"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    found, warnings = read(path, RATE)
    assert_same(found, decoded(path, RATE))
    assert len(found) == sum(len(decoded(part, RATE)) for part in parts)
    assert warnings == []


@needs_ffmpeg
def test_amr(tmp_path: Path) -> None:
    """Nobody encodes it here; any bytes are a sound."""
    frames = (7 * np.arange(100)[:, None] + 13 * np.arange(31)).astype(np.uint8)
    path = tmp_path / "call.amr"
    path.write_bytes(b"#!AMR\n" + b"".join(b"\x3c" + frame.tobytes() for frame in frames))
    found, warnings = read(path, 8000)
    assert_same(found, decoded(path, 8000))
    assert (len(found), warnings) == (16000, [])


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
@pytest.mark.parametrize("length", [0, 1, 3])
def test_hardly_any_samples(install: str, kind: str, length: int) -> None:
    content, samples = io.BytesIO(), np.arange(1, length + 1, dtype=np.int16)
    soundfile.write(content, samples, RATE, format=kind)
    if length:
        np.testing.assert_array_equal(load_audio(content.getvalue()) * 32768, samples)
    else:
        with pytest.raises(AudioError, match=r"^it: (no samples|the file is empty)"):
            load_audio(content.getvalue(), name="it")


@needs_ffmpeg
def test_without_pyav_mp3_of_different_rates_are_refused(
    ffmpeg: Ffmpeg, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dr_mp3 would go on with the first rate."""
    monkeypatch.setattr("unichoir.audio.decoders.has", lambda library: library != "av")
    parts = [ffmpeg("-i", speech, "-ar", rate, f"{rate}.mp3") for rate in (RATE, 44100)]
    path = tmp_path / "both.mp3"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(AudioError, match=r"its rate or number of channels changes\); pip install 'unichoir\[av\]'"):
        load_audio(path)


def test_without_miniaudio_flac_is_read_and_mp3_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Linux on ARM; libsndfile's decoder for MP3 writes to standard error."""
    monkeypatch.setattr("unichoir.audio.decoders.has", lambda library: False)
    np.testing.assert_array_equal(load_audio(CLIPS[0]), soundfile.read(CLIPS[0], dtype="float32")[0])
    content = io.BytesIO()
    soundfile.write(content, np.zeros(RATE), RATE, format="MP3")
    with pytest.raises(AudioError, match=r"^it: cannot be decoded \(MP3\); pip install 'unichoir\[av\]' reads more"):
        load_audio(content.getvalue(), name="it")


@needs_ffmpeg
@pytest.mark.parametrize(
    "kinds",
    [
        [["-c:a", "libopus"], ["-c:a", "libopus"]],
        [["-c:a", "libvorbis", "-ar", "44100", "-ac", "2"], ["-c:a", "libvorbis"]],
        [["-c:a", "libvorbis"], ["-c:a", "libopus"], ["-c:a", "libvorbis", "-ar", "8000"]],
    ],
    ids=["opus", "rates", "three"],
)
def test_every_link_of_a_chained_ogg_is_read(ffmpeg: Ffmpeg, tmp_path: Path, kinds: list[list[str]]) -> None:
    parts = [
        ffmpeg("-i", clip, *kind, "-f", "ogg", f"{number}.ogg")
        for number, (clip, kind) in enumerate(zip(CLIPS, kinds, strict=False))
    ]
    path = tmp_path / "chain.ogg"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    expected = []
    for part in parts:
        info = soundfile.info(str(part))
        rate = 48000 if "opus" in info.subtype.lower() else info.samplerate
        samples = decoded(part, rate, info.channels)
        expected.append(resample(samples if samples.ndim == 1 else samples.mean(axis=1), rate, RATE))
    found, warnings = read(path, RATE)
    assert_same(found, np.concatenate(expected), slack=4)
    assert warnings == []


def test_a_link_that_cannot_be_decoded_is_said() -> None:
    sound, links = soundfile.read(CLIPS[0], dtype="float32")[0], []
    for _ in range(2):
        content = io.BytesIO()
        soundfile.write(content, sound, RATE, format="OGG", subtype="VORBIS")
        links.append(content.getvalue())
    damaged = links[1].replace(b"\x01vorbis", b"\x01nothing"[:7])
    warnings: list[str] = []
    found = load_audio(links[0] + damaged, name="it", warn=warnings.append, strict=False)
    assert len(found) == pytest.approx(len(sound), abs=512)
    assert len(warnings) == 1
    assert warnings[0].startswith("it: damaged at ")


@needs_ffmpeg
@pytest.mark.parametrize(
    ("suffix", "rate", "slack"), [("flac", RATE, 0), ("opus", 48000, 2048), ("webm", 48000, 2048), ("mp3", RATE, 2500)]
)
def test_what_was_cut_without_decoding_is_read(
    ffmpeg: Ffmpeg, speech: Path, suffix: str, rate: int, slack: int
) -> None:
    whole = ffmpeg("-i", speech, "-c:a", {"flac": "flac", "mp3": "libmp3lame"}.get(suffix, "libopus"), f"w.{suffix}")
    path = ffmpeg("-ss", 2.4, "-i", whole, "-c", "copy", f"cut.{suffix}")
    found, warnings = read(path, rate)
    assert abs(len(found) - len(decoded(path, rate))) <= slack
    assert_alike(found, decoded(path, rate), slack)
    assert warnings == []


@needs_ffmpeg
def test_a_long_flac_that_was_cut_without_decoding_does_not_jump_back(
    ffmpeg: Ffmpeg, speech: Path, install: str
) -> None:
    """Its frames go on counting where they were cut out, and its header may tell the length of the whole."""
    whole = ffmpeg("-stream_loop", 9, "-i", speech, "whole.flac")
    path = ffmpeg("-ss", 2.4, "-i", whole, "-c", "copy", "cut.flac")
    found, warnings = read(path, RATE)
    np.testing.assert_array_equal(found, decoded(path, RATE))
    assert len(found) > 70 * RATE
    assert [line.split(":")[1] for line in warnings] == ([] if install == "av" else [" truncated"])


@needs_ffmpeg
def test_a_flac_from_a_pipe_has_no_length(speech: Path, tmp_path: Path, install: str) -> None:
    path = tmp_path / "piped.flac"
    command = ["ffmpeg", "-v", "error", "-nostdin", "-i", str(speech), "-f", "flac", "-"]
    path.write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
    found, warnings = read(path, RATE)
    np.testing.assert_array_equal(found, soundfile.read(speech, dtype="float32")[0])
    assert warnings == []


@needs_ffmpeg
@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("wav", "adpcm_ms"),
        ("asf", "wmav2"),
        ("matroska", "aac"),
        ("webm", "libopus"),
        ("caf", "pcm_s16be"),
        ("flv", "aac"),
        ("mpegts", "aac"),
        ("avi", "pcm_s16le"),
    ],
)
def test_what_is_written_to_a_pipe_promises_nothing(speech: Path, tmp_path: Path, container: str, codec: str) -> None:
    """FFmpeg guesses the length of such files, often too long."""
    path = tmp_path / "piped"
    command = ["ffmpeg", "-v", "error", "-nostdin", "-i", str(speech), "-ar", "48000", "-c:a", codec, "-f", container]
    path.write_bytes(subprocess.run([*command, "-"], capture_output=True, check=True).stdout)
    found, warnings = read(path, 48000)
    assert_same(found, decoded(path, 48000), slack=2048)
    assert warnings == []


def wav(samples: np.ndarray, size: int | None = None) -> bytes:
    """Make a 16-bit WAV; `size`: the number of bytes of samples according to its header."""
    content = io.BytesIO()
    soundfile.write(content, samples, RATE, format="WAV", subtype="PCM_16")
    told = bytearray(content.getvalue())
    if size is not None:
        told[40:44] = struct.pack("<I", size)
    return bytes(told)


@pytest.mark.parametrize("size", [0, 1, 2_000_000_000, 0x7FFFFFFF, 0x7F000000, 0xFFFFFFFF, 32008, 32036, 32044])
def test_a_wav_whose_size_is_a_placeholder_is_read_to_its_end(size: int) -> None:
    samples = (3000 * np.sin(np.arange(RATE) / 9)).astype(np.int16)
    np.testing.assert_array_equal(load_audio(wav(samples, size)) * 32768, samples)


def test_a_wav_whose_header_promises_more_is_read_as_far_as_it_goes() -> None:
    samples, warnings = (3000 * np.sin(np.arange(RATE) / 9)).astype(np.int16), list[str]()
    content = wav(samples, 64000)
    np.testing.assert_array_equal(load_audio(content, name="a", warn=warnings.append, strict=False) * 32768, samples)
    assert warnings == ["a: truncated: the audio ends at 1.000 s of 2.000 s"]
    with pytest.raises(AudioError, match=r"^a: truncated"):
        load_audio(content, name="a")
    assert len(load_audio(content, end=0.5)) == RATE // 2  # of which nothing is missing


@needs_ffmpeg
@pytest.mark.parametrize(
    ("suffix", "rate"), [("flac", RATE), ("ogg", RATE), ("opus", 48000), ("mkv", 48000), ("m4a", 48000), ("mp3", RATE)]
)
def test_a_hole_is_said_and_what_comes_after_it_is_at_its_place(
    ffmpeg: Ffmpeg, speech: Path, suffix: str, rate: int
) -> None:
    options = ["-c:a", "libvorbis"] if suffix == "ogg" else ["-ar", rate]
    path = ffmpeg("-i", speech, *options, f"hole.{suffix}")
    content = bytearray(path.read_bytes())
    expected, middle, hole = decoded(path, rate), len(content) // 2, len(content) // 20
    content[middle : middle + hole] = bytes(hole)
    path.write_bytes(content)
    found, warnings = read(path, rate)
    assert len(warnings) == 1
    assert warnings[0].startswith("it: ")
    assert any(word in warnings[0] for word in ("no sound from 3", "damaged at 3", "truncated"))
    np.testing.assert_allclose(found[: 2 * rate], expected[: 2 * rate], atol=2e-3)
    if suffix != "mp3":  # whose frames do not say when they are
        assert_alike(found[6 * rate : 7 * rate], expected[6 * rate : 7 * rate], rate // 50)
    with pytest.raises(AudioError, match=r"^it: "):
        load_audio(path, name="it")


def test_channels_that_cancel_are_heard_all_the_same() -> None:
    sound = soundfile.read(CLIPS[0], dtype="float32")[0]
    content, warnings = io.BytesIO(), list[str]()
    soundfile.write(content, np.stack([0.7 * sound, -sound], axis=1), RATE, format="WAV", subtype="FLOAT")
    found = load_audio(content.getvalue(), name="it", warn=warnings.append, strict=False)
    np.testing.assert_allclose(found, -sound, atol=1e-6)
    assert warnings == ["it: the channels cancel each other; the loudest channel is used there"]
    for channel, expected in ((1, 0.7 * sound), (2, -sound)):
        np.testing.assert_allclose(load_audio(content.getvalue(), channel=channel), expected, atol=1e-6)
    with pytest.raises(AudioError, match=r"^it: no channel 3: the recording has 2"):
        load_audio(content.getvalue(), name="it", channel=3)


def ogg(samples: np.ndarray) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, samples, RATE, format="OGG", subtype="VORBIS")
    return content.getvalue()


def test_a_channel_goes_on_where_their_number_changes() -> None:
    """In a chained Ogg: what was said in mono belongs to every channel; a channel that ends is silent. A warning says
    so."""
    sound = np.sin(np.arange(RATE) / 9) / 2
    stereo, mono = np.stack([sound, np.zeros(RATE)], axis=1), sound
    for links, second, what in (
        ([stereo, mono], [0, 0.5], "1 instead of 2 channels"),
        ([mono, stereo], None, "2 instead of 1 channels"),
        ([stereo, np.stack([sound] * 3, axis=1)], [0, 0.5], "3 instead of 2 channels"),
    ):
        content, warnings = b"".join(map(ogg, links)), list[str]()
        for channel in (1,) if second is None else (1, 2):
            found = load_audio(content, channel=channel, name="it", warn=warnings.append, strict=False)
            loudest = [float(np.abs(part).max()) for part in (found[1000 : RATE - 1000], found[RATE + 1000 : -1000])]
            assert loudest == pytest.approx([0.5, 0.5] if channel == 1 else second, abs=0.05)
        for warning in warnings:
            assert re.fullmatch(rf"it: {what} from (0\.98|1\.0)\d+ s on", warning)
        assert len(warnings) == (1 if second is None else 2)
    three = np.stack([sound] * 3, axis=1)
    found = load_audio(ogg(three) + ogg(stereo), channel=3, warn=lambda line: None, strict=False)
    assert np.abs(found[RATE + 1000 :]).max() == 0
    with pytest.raises(AudioError, match=r"^it: no channel 2: the recording has 1"):
        load_audio(ogg(mono) + ogg(stereo), channel=2, name="it")


@pytest.mark.parametrize("channels", [2, 8, 64])
def test_channels_that_have_nothing_to_do_with_each_other_do_not_cancel(channels: int) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (RATE, channels)).astype(np.float32)
    content, warnings = io.BytesIO(), list[str]()
    soundfile.write(content, noise, RATE, format="WAV", subtype="FLOAT")
    np.testing.assert_allclose(load_audio(content.getvalue(), warn=warnings.append), noise.mean(axis=1), atol=1e-6)
    assert warnings == []


@pytest.mark.skipif(os.name != "posix", reason="names are bytes, and pipes have names, on POSIX")
def test_names_are_bytes_and_pipes_are_files(tmp_path: Path) -> None:
    expected = soundfile.read(CLIPS[0], dtype="float32")[0]
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/n\xe9.flac"))
    path.write_bytes(CLIPS[0].read_bytes())
    np.testing.assert_array_equal(load_audio(path), expected)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=[CLIPS[0].read_bytes()])
    writer.start()
    np.testing.assert_array_equal(load_audio(pipe), expected)
    writer.join()


@needs_ffmpeg
@pytest.mark.parametrize("name", ["a.mp3", "in.wav", "in.w64", "a.mp2", "a.m4a", "a.flac", "a.opus", "a.ogg", "a.mkv"])
def test_no_library_writes_to_standard_error(
    ffmpeg: Ffmpeg, speech: Path, capfd: pytest.CaptureFixture[str], install: str, name: str
) -> None:
    path = ffmpeg("-i", speech, *(["-c:a", "libmp3lame"] if name.startswith("in.") else []), name)
    good = path.read_bytes()
    holed, spoilt = bytearray(good), bytearray(good)
    holed[len(good) // 2 : len(good) // 2 + 3000] = bytes(3000)
    for place in range(len(good) // 3, len(good), 997):
        spoilt[place] ^= 0x55
    headless = b"\xff\xfb\x90\x44" + good[1000:]
    capfd.readouterr()
    for content in (good, holed, spoilt, good[: len(good) // 2], headless, good + good):
        with contextlib.suppress(AudioError):
            load_audio(bytes(content), warn=lambda line: None, strict=False)
    assert capfd.readouterr() == ("", "")


@needs_ffmpeg
@pytest.mark.parametrize("suffix", ["flac", "m4a", "mkv", "ogg", "mp3", "wav"])
def test_a_late_part_of_a_long_recording_is_that_of_the_whole(ffmpeg: Ffmpeg, speech: Path, suffix: str) -> None:
    rate = 44100 if suffix in ("m4a", "mp3") else RATE
    path = ffmpeg("-stream_loop", 9, "-i", speech, "-ar", rate, f"long.{suffix}")
    whole = load_audio(path, sample_rate=rate)
    part = load_audio(path, sample_rate=rate, start=50.25, end=53.5)
    first = round(50.25 * rate)
    assert_alike(part, whole[first : first + round(3.25 * rate)], 0)


# What is hostile.


def test_a_gap_of_a_month_is_left_out() -> None:
    content, sound = io.BytesIO(), np.round(3000 * np.sin(np.arange(RATE) / 9)).astype(np.int16)
    with av.open(content, "w", format="matroska") as out:
        stream = out.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for pts in (0, 30 * 86400 * RATE):
            frame = av.AudioFrame.from_ndarray(sound[None], "s16", "mono")
            frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), pts
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    warnings: list[str] = []
    found = load_audio(content.getvalue(), name="it", warn=warnings.append, strict=False)
    np.testing.assert_array_equal(found * 32768, np.tile(sound, 2))
    assert len(warnings) == 1
    assert warnings[0].endswith(" s, left out")


def test_gaps_together_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unichoir.audio.ffmpeg.MAX_SILENCE_SECONDS", 25.0)
    content, sound = io.BytesIO(), np.full(RATE, 3000, np.int16)
    with av.open(content, "w", format="matroska") as out:
        stream = out.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for place in range(6):
            frame = av.AudioFrame.from_ndarray(sound[None], "s16", "mono")
            frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), place * 11 * RATE
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    found = load_audio(content.getvalue(), warn=print, strict=False)
    assert len(found) / RATE == pytest.approx(6 + 20, abs=0.01)


def test_a_recording_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    soundfile.write(content, np.zeros((30 * RATE, 2)), RATE, format="FLAC")
    monkeypatch.setattr("unichoir.audio.io.MAX_VALUES", 40 * RATE)
    with pytest.raises(AudioError, match=r"^it: more than 640000 samples of all channels"):
        load_audio(content.getvalue(), name="it")
    with pytest.raises(AudioError, match=r"^it: 65 channels at 16000 Hz are too many"):
        load_audio(wav(np.zeros((100, 65), np.int16)), name="it")


@needs_ffmpeg
def test_pictures_of_a_film_are_not_decoded(ffmpeg: Ffmpeg) -> None:
    """A picture of 8,000 x 8,000 points takes 190 MB and more where it is."""
    picture = ["-f", "lavfi", "-i", "color=s=8000x8000:r=1:d=1", "-i", CLIPS[0], "-c:v", "png", "-pix_fmt", "rgb24"]
    path = ffmpeg(*picture, "film.mov")
    script = (
        "import resource, sys; from unichoir.audio.io import load_audio; load_audio(sys.argv[1])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; print(len(load_audio(sys.argv[2])))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    plain = ffmpeg("-i", CLIPS[0], "plain.mov")
    command = [sys.executable, "-c", script, str(plain), str(path)]
    length, kilobytes = map(int, subprocess.run(command, capture_output=True, check=True).stdout.split())
    assert length == pytest.approx(soundfile.info(CLIPS[0]).frames, abs=2048)
    assert kilobytes < 60_000


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    path = tmp_path / "long.flac"
    with soundfile.SoundFile(path, "w", 48000, 2, "PCM_16") as out:
        for _ in range(20):
            out.write(np.zeros((48000 * 30, 2), np.int16))
    blocks = [len(block) for block in audio_blocks(path)]
    assert sum(blocks) == 600 * RATE
    assert max(blocks) <= 60 * RATE


SECOND_FILES = {
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nfile://{0}/secret.wav\n#EXT-X-ENDLIST\n",
    "m3u": "#EXTM3U\n{0}/secret.wav\n",
    "pls": "[playlist]\nFile1={0}/secret.wav\nNumberOfEntries=1\n",
    "ffconcat": "ffconcat version 1.0\nfile '{0}/secret.wav'\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    "mpd": '<?xml version="1.0"?><MPD><Period><BaseURL>file://{0}/secret.wav</BaseURL></Period></MPD>',
    "xspf": '<?xml version="1.0"?><playlist><trackList><track><location>{0}/secret.wav</location></track></trackList>'
    "</playlist>",
    "asx": '<asx version="3.0"><entry><ref href="file://{0}/secret.wav"/></entry></asx>',
    "ram": "file://{0}/secret.wav\n",
    "cue": 'FILE "{0}/secret.wav" WAVE\n  TRACK 01 AUDIO\n    INDEX 01 00:00:00\n',
    "smil": '<smil><body><audio src="{0}/secret.wav"/></body></smil>',
    "lavfi": "amovie={0}/secret.wav",
    "ffmeta": ";FFMETADATA1\ntitle={0}/secret.wav\n",
}


@pytest.mark.parametrize("kind", SECOND_FILES)
def test_no_second_file_is_opened(tmp_path: Path, kind: str) -> None:
    (tmp_path / "secret.wav").write_bytes(wav(np.ones(RATE, np.int16)))
    path = tmp_path / f"list.{kind}"
    path.write_text(SECOND_FILES[kind].format(tmp_path))
    for source in (path, path.read_bytes()):
        with pytest.raises(AudioError, match="cannot be decoded"):
            load_audio(source)


@pytest.mark.parametrize("scheme", ["file:", "concat:", "http://127.0.0.1:1/", "subfile,,start,0,end,0,,:", "async:"])
def test_a_name_is_no_url(tmp_path: Path, scheme: str) -> None:
    (tmp_path / "secret.wav").write_bytes(wav(np.ones(RATE, np.int16)))
    with pytest.raises(AudioError, match="No such file"):
        load_audio(f"{scheme}{tmp_path}/secret.wav")


def test_without_pyav_what_is_left_unread_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain install reads with libsndfile."""
    monkeypatch.setattr("unichoir.audio.decoders.has", lambda library: library != "av")
    sound = soundfile.read(CLIPS[0], dtype="float32")[0]
    np.testing.assert_array_equal(load_audio(CLIPS[0]), sound)
    np.testing.assert_array_equal(load_audio(CLIPS[0], start=0.5), sound[8000:])
    with open_recording(CLIPS[0]) as recording:
        assert recording.estimate() == pytest.approx(len(sound) / RATE)
    parts = []
    for rate in (RATE, 24000):
        content = io.BytesIO()
        soundfile.write(content, sound, rate, format="OGG", subtype="VORBIS")
        parts.append(content.getvalue())
    assert len(load_audio(b"".join(parts))) == pytest.approx(len(sound) * (1 + RATE / 24000), abs=4)
    content = io.BytesIO()
    soundfile.write(content, sound, RATE, format="AIFF", subtype="PCM_16")
    with pytest.raises(AudioError, match=r"^it: [0-9]+ bytes are not read: pip install 'unichoir\[av\]' reads more"):
        load_audio(content.getvalue() + bytes(9000), name="it")
    with pytest.raises(AudioError, match=r"^it: cannot be decoded .*; pip install 'unichoir\[av\]' reads more formats"):
        load_audio(b"\x00\x00\x00\x20ftypM4A " + bytes(1000), name="it")


def test_links_in_which_nothing_is_found_have_an_end(speech: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two empty pages are a link of 54 bytes: a small file can have a million."""
    good = io.BytesIO()
    samples = soundfile.read(speech, dtype="float32")[0]
    soundfile.write(good, samples, RATE, format="OGG")
    pages = b"".join(b"OggS\0" + flags + b"\0" * 21 for flags in (b"\2", b"\0"))
    opened = []
    library = decoders._library
    monkeypatch.setattr(decoders, "_library", lambda section: opened.append(1) or library(section))
    warnings: list[str] = []
    found = load_audio(good.getvalue() + 5000 * pages, strict=False, warn=warnings.append)
    assert len(found) == len(samples)
    assert len(warnings) == 1
    assert len(opened) < 200


def test_a_length_that_is_a_placeholder_limits_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a recording of hours that was written to a pipe; here the number is a small one."""
    samples = np.arange(4000, dtype=np.int16)
    monkeypatch.setattr(decoders, "PLACEHOLDER", 1000)
    np.testing.assert_array_equal(load_audio(wav(samples, 1000)), samples / np.float32(32768))


def test_a_part_knows_nothing_of_damage_before_it(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 30 * RATE).astype(np.float32)
    soundfile.write(tmp_path / "whole.mp3", samples, RATE)
    content = bytearray((tmp_path / "whole.mp3").read_bytes())
    hole = len(content) // 6
    content[hole : hole + 3000] = bytes(3000)
    assert len(load_audio(bytes(content), start=15, end=20)) == 5 * RATE
    for part in ({}, {"start": 3, "end": 8}):
        with pytest.raises(AudioError, match=r"no sound from|damaged at"):
            load_audio(bytes(content), **part)


def test_a_part_beyond_the_end_says_where_the_end_is() -> None:
    with pytest.raises(AudioError, match=r"starts at 5 s, the audio lasts 2\.000 s"):
        load_audio(wav(np.ones(2 * RATE, np.int16)), start=5)


@pytest.mark.parametrize("kind", [np.float64, np.float16])
def test_arrays_of_any_floats(kind: type) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 44100).astype(kind)
    expected = resample(samples.astype(np.float32), 44100, RATE)
    found = np.concatenate(list(array_recording(samples, 44100).blocks(RATE)))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)
