"""Recordings as found in the field: the decoded audio is compared with ffmpeg's."""

import io
import os
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.audio.ffmpeg import RATE, Ffmpeg, assert_alike, assert_same, decoded, needs_ffmpeg, read, wav
from tests.samples import CLIPS

from unichoir.audio import decoders
from unichoir.audio.io import array_recording, audio_duration, load_audio, open_recording, resample
from unichoir.errors import AudioError

av = pytest.importorskip("av")


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


def test_without_miniaudio_flac_is_read_and_mp3_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Linux on ARM; libsndfile's decoder for MP3 writes to standard error."""
    monkeypatch.setattr("unichoir.audio.decoders.has", lambda library: False)
    np.testing.assert_array_equal(load_audio(CLIPS[0]), soundfile.read(CLIPS[0], dtype="float32")[0])
    content = io.BytesIO()
    soundfile.write(content, np.zeros(RATE), RATE, format="MP3")
    with pytest.raises(AudioError, match=r"^it: cannot be decoded \(MP3\); pip install 'unichoir\[av\]' reads more"):
        load_audio(content.getvalue(), name="it")


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


@pytest.mark.parametrize("size", [0, 1, 2_000_000_000, 0x7FFFFFFF, 0x7F000000, 0xFFFFFFFF, 32008, 32036, 32044])
def test_a_wav_whose_size_is_a_placeholder_is_read_to_its_end(size: int) -> None:
    samples = (3000 * np.sin(np.arange(RATE) / 9)).astype(np.int16)
    np.testing.assert_array_equal(load_audio(wav(samples, size)) * 32768, samples)


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
@pytest.mark.parametrize("suffix", ["flac", "m4a", "mkv", "ogg", "mp3", "wav"])
def test_a_late_part_of_a_long_recording_is_that_of_the_whole(ffmpeg: Ffmpeg, speech: Path, suffix: str) -> None:
    rate = 44100 if suffix in ("m4a", "mp3") else RATE
    path = ffmpeg("-stream_loop", 9, "-i", speech, "-ar", rate, f"long.{suffix}")
    whole = load_audio(path, sample_rate=rate)
    part = load_audio(path, sample_rate=rate, start=50.25, end=53.5)
    first = round(50.25 * rate)
    assert_alike(part, whole[first : first + round(3.25 * rate)], 0)


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


def test_a_length_that_is_a_placeholder_limits_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a recording of hours that was written to a pipe; here the number is a small one."""
    samples = np.arange(4000, dtype=np.int16)
    monkeypatch.setattr(decoders, "PLACEHOLDER", 1000)
    np.testing.assert_array_equal(load_audio(wav(samples, 1000)), samples / np.float32(32768))


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
