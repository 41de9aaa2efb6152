"""Damaged and hostile recordings: missing parts are named, memory stays bounded, and no second file is opened."""

import contextlib
import io
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.audio.ffmpeg import RATE, Ffmpeg, assert_alike, decoded, needs_ffmpeg, read, wav
from tests.samples import CLIPS

from unichoir.audio import decoders
from unichoir.audio.io import audio_blocks, load_audio
from unichoir.errors import AudioError

av = pytest.importorskip("av")


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
