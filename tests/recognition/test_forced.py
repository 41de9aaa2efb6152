"""Forced alignment of clips at known places; texts that do not fit; what the command writes."""

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.samples import CLIPS, REFERENCES, SMALL_MODEL, SPOKEN, WITH_SMALL_MODEL

from unichoir.api import Model, load_model
from unichoir.errors import DecodingError
from unichoir.recognition import forced
from unichoir.recognition.forced import LOW_CONFIDENCE, words_by_line
from unichoir.recognition.options import DecodingOptions
from unichoir.text.tokenizer import CharTokenizer, build_char_units
from unichoir.transcript.results import Word

RATE = 16000
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(SMALL_MODEL, num_threads=1)


@pytest.fixture(scope="module")
def recording() -> tuple[np.ndarray, str, list[tuple[int, int]]]:
    """Clips cut where they are loud, with silence around each; a line of text and a place in ms for each."""
    rng = np.random.default_rng(0)
    parts, lines, places, length = [], [], [], 0
    for line in REFERENCES.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        samples, rate = soundfile.read(SPOKEN / entry["wav"], dtype="float32")
        assert rate == RATE
        loud = np.flatnonzero(np.abs(samples) > 0.05 * np.abs(samples).max())
        samples = samples[loud[0] : loud[-1] + 1]
        pause = np.zeros(int(rng.uniform(0.3, 0.6) * RATE), dtype=np.float32)
        start, length = length + len(pause), length + len(pause) + len(samples)
        parts += [pause, samples]
        lines.append(entry["txt"])
        places.append((start * 1000 // RATE, length * 1000 // RATE))
    audio = np.concatenate([*parts, np.zeros(RATE // 2, dtype=np.float32)])
    return audio + rng.normal(0, 3e-4, len(audio)).astype(np.float32), "\n".join(lines), places


def assert_close(words: list[list[Word]], places: list[tuple[int, int]]) -> None:
    starts = [abs(line[0].start_ms - start) for line, (start, _) in zip(words, places, strict=True)]
    ends = [abs(line[-1].end_ms - end) for line, (_, end) in zip(words, places, strict=True)]
    assert max(np.median(starts), np.median(ends), starts[0], ends[-1]) <= 60, (starts, ends)


@pytest.mark.parametrize("max_segment_seconds", [None, 4.0])
@pytest.mark.parametrize("chunk_size", [None, 16])
def test_known_texts_are_found_where_they_are(
    model: Model,
    recording: tuple[np.ndarray, str, list[tuple[int, int]]],
    chunk_size: int | None,
    max_segment_seconds: float | None,
) -> None:
    audio, text, places = recording
    options = DecodingOptions(chunk_size=chunk_size, max_segment_seconds=max_segment_seconds)
    transcript = model.align(audio, text, sample_rate=RATE, options=options)
    assert [word.text for word in transcript.words] == text.split()
    assert transcript.confidence > LOW_CONFIDENCE
    assert_close(words_by_line(transcript.words, text), places)


@pytest.mark.parametrize("how", ["full", "chunk", "stream"])
def test_recognised_words_are_where_they_are_said(
    model: Model, recording: tuple[np.ndarray, str, list[tuple[int, int]]], how: str
) -> None:
    audio, _, places = recording
    if how == "stream":
        results = model.stream(np.array_split(audio, 30), sample_rate=RATE, decoding="ctc_prefix_beam_search")
        words = [word for result in results if result.is_final for word in result.words]
    else:
        chunk_size = 16 if how == "chunk" else None
        words = list(model.transcribe(audio, sample_rate=RATE, chunk_size=chunk_size).words)
    starts = [min(abs(word.start_ms - start) for word in words) for start, _ in places]
    ends = [min(abs(word.end_ms - end) for word in words) for _, end in places]
    assert max(np.median(starts), np.median(ends)) <= 60, (starts, ends)
    assert all(word.start_ms < word.end_ms for word in words)
    assert all(before.end_ms <= after.start_ms for before, after in pairwise(words))


def test_words_are_written_as_in_the_text_and_marks_alone_are_not_words(
    model: Model, recording: tuple[np.ndarray, str, list[tuple[int, int]]]
) -> None:
    audio, text, _ = recording
    written = text.replace("SIX", "Six,", 1).replace("ONE TWO", "one \u2013 two!", 1)
    transcript = model.align(audio, written, sample_rate=RATE)
    assert [word.text for word in transcript.words] == [word for word in written.split() if word != "\u2013"]
    expected = model.align(audio, text, sample_rate=RATE)
    assert [word.start_ms for word in transcript.words] == [word.start_ms for word in expected.words]


def test_another_text_has_low_confidence(
    model: Model, recording: tuple[np.ndarray, str, list[tuple[int, int]]]
) -> None:
    audio, _, places = recording
    clip = audio[places[1][0] * 16 - 2000 : places[1][1] * 16 + 2000]
    assert model.align(clip, "OCTOBER TWENTY", sample_rate=RATE).confidence < LOW_CONFIDENCE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no words"),
        (" \n \u2013 ...\n", "no words"),
        ("SIX 48", "'48'"),
        ("SIX \u4e2d", "'\u4e2d'"),
        ("SIX " * 500, "500 words cannot be spoken in 3.0 s"),
    ],
)
def test_texts_that_do_not_fit_are_refused(model: Model, text: str, message: str) -> None:
    with pytest.raises(DecodingError, match=message):
        model.align(np.zeros(3 * RATE, dtype=np.float32) + 1e-4, text, sample_rate=RATE)


def test_marks_are_not_said_in_bytes_and_rare_characters_are() -> None:
    tokenizer = CharTokenizer(build_char_units(["ABC"], byte_fallback=True))
    found = forced._encode("A, B! \u00c9c?", tokenizer)
    assert found.words == ["A,", "B!", "\u00c9c?"]
    assert [tokenizer.tokens[index] for index in found.ids] == [
        *("A", "\u2581", "B", "\u2581", "<0xC3>", "<0x89>", "C"),
    ]  # fmt: skip
    arabic = CharTokenizer(build_char_units(["\u062e\u0644\u0641"], byte_fallback=True))
    vowelled = "\u062e\u064e\u0644\u0652\u0641\u060c"
    assert forced._encode(vowelled, arabic, "ar").ids == arabic.encode("\u062e\u0644\u0641")


@pytest.mark.parametrize("length", [1, 100, 1000])
def test_hardly_any_sound_is_too_short_for_a_text(model: Model, length: int) -> None:
    with pytest.raises(DecodingError, match=r"1 words cannot be spoken in 0\.[01] s"):
        model.align(np.full(length, 1e-3, dtype=np.float32), "SIX", sample_rate=RATE)


def test_the_command_writes_and_warns(run_command: Run, tmp_path: Path) -> None:
    clip, align = CLIPS[1], ("align", *WITH_SMALL_MODEL)
    text, output = tmp_path / "text.txt", tmp_path / "out.json"
    text.write_text("\ufeffSIX FOUR\n\nEIGHT THREE\n", encoding="utf-8")
    code, out, err = run_command(*align, clip, text, "--output", output)
    assert (code, out, err) == (0, "", "")
    segments = json.loads(output.read_text(encoding="utf-8"))["segments"]
    assert [segment["text"] for segment in segments] == ["SIX FOUR", "EIGHT THREE"]
    code, out, err = run_command(*align, clip, text, "--format", "srt", "--max-line-length", "5")
    assert (code, re.findall("^[A-Z]+$", out, re.MULTILINE)) == (0, ["SIX", "FOUR", "EIGHT", "THREE"])
    assert out.count("-->") == 2, "one for each line of the text"
    code, out, err = run_command(*align, clip, "--text", "OCTOBER TWENTY", "--format", "ctm")
    assert (code, len(out.splitlines())) == (0, 2)
    assert err.startswith(f"warning: {clip}")
    assert run_command(*align, clip)[0] == run_command(*align, clip, text, "--text", "SIX")[0] == 2
    text.write_bytes(b"\xff\xfe")
    code, _, err = run_command(*align, clip, text)
    assert code == 1
    assert "not UTF-8" in err


def test_the_silence_behind_a_recording_has_no_room_for_words() -> None:
    """The included model hears 0.3 s of silence behind what there is."""
    included = load_model(num_threads=1)
    assert included.recognizer.fbank_config.trail_frames
    samples = np.random.default_rng(0).normal(0, 0.1, 800).astype(np.float32)
    with pytest.raises(DecodingError, match=r"3 words cannot be spoken in 0\.1 s"):
        included.align(samples, "SIX FOUR FIVE", sample_rate=RATE)
