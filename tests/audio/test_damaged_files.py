"""Truncated and damaged files, and files without audio, are rejected; an unknown length is no damage."""

import contextlib
import io
import struct

import numpy as np
import pytest
import soundfile
from tests.audio.encoding import FORMATS, encoded, speech_like, tone

from unichoir.audio.decoders import Section, _wav
from unichoir.audio.io import audio_duration, load_audio
from unichoir.errors import AudioError


@pytest.mark.parametrize("form", FORMATS)
def test_a_truncated_file_is_an_error_wherever_it_is_cut(form):
    content = encoded(speech_like(5.0, 16000), 16000, form)
    rng = np.random.default_rng(1)
    boundaries = ogg_pages(content) if content[:4] == b"OggS" else set()
    cuts = {
        1,
        3,
        10,
        27,
        40,
        50,
        100,
        len(content) - 3000,  # 0.1 s of 16 bits, or more
        *rng.integers(100, len(content) - 3000, 20),
    }
    whole, num_read = load_audio(content), 0
    for cut in sorted(cuts - boundaries):
        with pytest.raises(AudioError, match=r"^clip: "):
            load_audio(content[:cut], name="clip")
        warnings = []
        try:
            found = load_audio(content[:cut], name="clip", warn=warnings.append, strict=False)
        except AudioError:
            continue  # nothing at all
        num_read += 1
        assert len(warnings) == 1
        assert warnings[0].startswith("clip: truncated: ")
        inside = max(0, len(found) - 1200)  # what a codec makes of the last frame depends on the next one
        np.testing.assert_allclose(found[:inside], whole[:inside], atol=1e-4)
    assert num_read >= 12


def ogg_pages(content):
    return {position for position in range(len(content)) if content[position : position + 4] == b"OggS"}


def test_an_ogg_stream_that_ends_between_pages_is_whole():
    content = encoded(speech_like(20.0, 16000), 16000, "vorbis")
    cut = sorted(ogg_pages(content))[-2]
    loaded, whole = load_audio(content[:cut]), load_audio(content)
    assert 0 < len(loaded) < len(whole)
    np.testing.assert_allclose(loaded, whole[: len(loaded)], atol=1e-6)


def test_damage_between_ogg_pages_is_an_error():
    content = encoded(speech_like(20.0, 16000), 16000, "opus")
    page = sorted(ogg_pages(content))[4]
    with pytest.raises(AudioError, match="damaged: no audio is found after"):
        load_audio(content[:page] + bytes(len(content) - page))


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFF000 + 8])
def test_a_wav_written_to_a_pipe_has_no_length_and_is_read_to_its_end(length):
    content = bytearray(encoded(tone(1.0, 16000), 16000, "wav16"))
    content[40:44] = struct.pack("<I", length)
    assert len(load_audio(bytes(content))) == 16000


def test_bytes_after_the_audio_of_a_wav_are_ignored():
    content = encoded(tone(1.0, 16000), 16000, "wav16")
    assert len(load_audio(content + b"LIST\x04\x00\x00\x00abcd")) == 16000


@pytest.mark.parametrize("form", ["AIFF", "AU", "CAF", "RF64", "W64"])
def test_other_formats_are_read_and_not_cut_short_either(form):
    samples = tone(1.0, 16000)
    out = io.BytesIO()
    soundfile.write(out, samples, 16000, format=form, subtype="PCM_16")
    content = out.getvalue()
    np.testing.assert_allclose(load_audio(content), samples, atol=1e-4)
    for end in (len(content) - 4000, len(content) // 2, len(content) // 2 + 1, 5200):
        with pytest.raises(AudioError, match=r"^call: (truncated|damaged)"):
            load_audio(content[:end], name="call")


@pytest.mark.parametrize(
    ("form", "place", "unknown"),
    [
        ("AU", 8, b"\xff" * 4),
        ("AIFF", b"SSND", b"\x7f\0\0\x08"),
        ("CAF", b"data", b"\xff" * 8),
        ("RF64", 28, b"\xff" * 8),
    ],
)
def test_a_length_that_is_not_known_is_not_missed(form, place, unknown):
    """As programs write it that write to a pipe."""
    out = io.BytesIO()
    soundfile.write(out, tone(1.0, 16000), 16000, format=form, subtype="PCM_16")
    content = bytearray(out.getvalue())
    at = place if isinstance(place, int) else content.index(place) + 4
    content[at : at + len(unknown)] = unknown
    np.testing.assert_allclose(load_audio(bytes(content)), tone(1.0, 16000), atol=1e-4)


def test_a_header_of_nothing_but_empty_chunks_is_not_gone_through_to_its_end():
    class Counted(io.BytesIO):
        reads = 0

        def read(self, size: int | None = -1) -> bytes:
            self.reads += 1
            return super().read(size)

    stream = Counted(b"RIFF\0\0\0\0WAVE" + bytes(1_000_000))
    assert _wav(Section(stream)) is None
    assert stream.reads < 20_000


def test_an_mp3_with_id3_tags_is_read():
    content = encoded(tone(1.0, 16000), 16000, "mp3")
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, 2, 0]) + bytes(256)
    np.testing.assert_allclose(load_audio(tag + content + b"TAG" + bytes(125)), load_audio(content), atol=1e-6)
    with pytest.raises(AudioError, match="truncated"):
        load_audio(tag + content[:-1000])


def test_flac_of_unknown_length_is_read_to_its_end():
    content = bytearray(encoded(tone(1.0, 16000), 16000, "flac"))
    content[21] &= 0xF0  # the number of samples, 36 bits, in the first header block
    content[22:26] = bytes(4)
    np.testing.assert_allclose(load_audio(bytes(content)), tone(1.0, 16000), atol=1e-4)


@pytest.mark.parametrize("form", ["wav16", "wav_float"])
def test_audio_without_samples_is_an_error(form):
    with pytest.raises(AudioError, match=r"empty\.file: no samples"):
        load_audio(encoded(np.zeros(0, dtype=np.float32), 16000, form), name="empty.file")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.wav", b"", "the file is empty"),
        ("notes.wav", b"this is not audio at all, only text", "cannot be decoded"),
        ("headerless.raw", bytes(32000), "cannot be decoded"),
        ("zeros.mp3", bytes(32000), "cannot be decoded"),
        ("clip.m4a", b"\x00\x00\x00\x20ftypM4A " + bytes(1000), "cannot be decoded"),
        ("page.mp3", b"<html><head><title>404 Not Found</title></head></html>", "cannot be decoded"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,
)
def test_what_is_no_audio_is_an_error_of_one_line_naming_the_file(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    for read in (load_audio, audio_duration):
        with pytest.raises(AudioError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


def test_random_bytes_never_raise_anything_else():
    rng = np.random.default_rng(0)
    good = [encoded(speech_like(0.5, 16000), 16000, form) for form in FORMATS if form != "mp3"]
    for _ in range(150):
        content = bytearray(good[int(rng.integers(len(good)))])
        for position in rng.integers(0, min(len(content), 200), 4):
            content[position] = rng.integers(256)
        with contextlib.suppress(AudioError):
            assert np.isfinite(load_audio(bytes(content))).all()
