"""Recordings that were joined, or cut without decoding: every part is read."""

import io
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.audio.ffmpeg import RATE, Ffmpeg, assert_alike, assert_same, decoded, needs_ffmpeg, read
from tests.samples import CLIPS

from unichoir.audio.io import load_audio, resample
from unichoir.errors import AudioError

pytest.importorskip("av")


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
