"""Transcripts and streams in written form with a small model and the real English grammar."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tests.samples import CLIPS, SMALL_MODEL

import unichoir
from unichoir.audio.io import load_audio
from unichoir.errors import DecodingError
from unichoir.serving.logs import configure_logs
from unichoir.text import itn
from unichoir.text.written import WrittenForm

RATE = 16000
CLIP = CLIPS[2]
SAID, WRITTEN = "NINE ONE EIGHT TWO", "9182"
ENGLISH = WrittenForm(itn="en")


@pytest.fixture(scope="module")
def model() -> unichoir.Model:
    return unichoir.load_model(SMALL_MODEL)


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    return load_audio(CLIP, sample_rate=RATE)


def test_files_and_samples(model: unichoir.Model, samples: np.ndarray) -> None:
    said = model.transcribe(CLIP)
    for found in (
        model.transcribe(CLIP, written=ENGLISH),
        model.transcribe(samples, sample_rate=RATE, written=ENGLISH),
    ):
        assert found.text == found.nbest[0].text == WRITTEN
        assert [word.text for word in found.words] == [WRITTEN]
        assert (found.words[0].start_ms, found.words[0].end_ms) == (said.words[0].start_ms, said.words[-1].end_ms)
        assert found.tokens == said.tokens
    assert said.text == SAID


def test_final_results_alone_are_in_written_form(model: unichoir.Model, samples: np.ndarray) -> None:
    blocks = [samples, np.zeros(RATE, np.float32)]
    plain = list(model.stream(blocks, sample_rate=RATE))
    written = list(model.stream(blocks, sample_rate=RATE, written=ENGLISH))
    assert [result.text for result in plain if result.is_final] == [SAID]
    assert [result.text for result in written if result.is_final] == [WRITTEN]
    partials = [result for result in written if not result.is_final]
    assert partials == [result for result in plain if not result.is_final]
    assert partials[0].text
    assert SAID.startswith(partials[0].text)


def test_a_stream_of_ones_own_pace(model: unichoir.Model, samples: np.ndarray) -> None:
    stream = model.create_stream(written=ENGLISH)
    stream.accept_waveform(samples, RATE)
    stream.input_finished()
    finals = [result for result in stream.results() if result.is_final]
    assert [result.text for result in finals if result.text] == [WRITTEN]
    assert [word.text for final in finals for word in final.words] == [WRITTEN]


@pytest.fixture
def fails_on_nine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The real grammar, except that it fails on texts with a nine."""
    real = itn.load_grammar("en")

    class Grammar:
        def normalize(self, text: str) -> str:
            if "nine" in text:
                raise RuntimeError("no path")
            return real.normalize(text)

        def normalize_with_mapping(self, text: str) -> Any:
            return real.normalize_with_mapping(text)

    monkeypatch.setattr(itn, "load_grammar", lambda language: Grammar())
    itn._write_window.cache_clear()
    yield
    itn._write_window.cache_clear()


@pytest.mark.usefixtures("fails_on_nine")
def test_where_the_written_form_fails_the_words_stay_as_they_were_said(model, samples, caplog) -> None:
    said = model.transcribe(samples, sample_rate=RATE)
    assert model.transcribe(samples, sample_rate=RATE, written=ENGLISH) == said
    assert [record.getMessage() for record in caplog.records] == [
        "inverse text normalisation fails on 'nine one eight two': no path: the words stay as they were said"
    ]
    other = load_audio(CLIPS[1], sample_rate=RATE)
    pause = np.zeros(2 * RATE, np.float32)
    blocks = [samples, pause, other, pause]
    finals = [result.text for result in model.stream(blocks, sample_rate=RATE, written=ENGLISH) if result.is_final]
    assert finals == [SAID, "6483"]
    with pytest.raises(DecodingError, match="nine one eight two"):
        ENGLISH(SAID)


@pytest.mark.usefixtures("fails_on_nine")
def test_a_servers_log_does_not_tell_which_text_it_was(model, samples, monkeypatch) -> None:
    names = ("unichoir.serving", "unichoir.transcript", "uvicorn", "asyncio", "python_multipart")
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    lines = io.StringIO()
    monkeypatch.setattr("sys.stderr", lines)
    try:
        configure_logs()
        model.transcribe(samples, sample_rate=RATE, written=ENGLISH)
    finally:
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
    (line,) = lines.getvalue().splitlines()
    assert json.loads(line)["event"] == "written_form_failed"
    assert "nine" not in line.lower()
