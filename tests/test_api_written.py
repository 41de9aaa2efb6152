"""Transcripts and streams in written form with the included model and the real English grammar."""

from pathlib import Path

import numpy as np
import pytest

import unichoir
from unichoir.audio.io import load_audio
from unichoir.text.written import WrittenForm

RATE = 16000
CLIP = Path(__file__).resolve().parent.parent / "demo" / "audio" / "clip-3.flac"
SAID, WRITTEN = "NINE ONE EIGHT TWO", "9182"
ENGLISH = WrittenForm(itn="en")


@pytest.fixture(scope="module")
def model() -> unichoir.Model:
    return unichoir.load_model()


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
