"""Streaming from Python with a real model, compared with the recogniser's own methods."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from tests.samples import CLIPS, SMALL_MODEL

import unichoir
from unichoir import api
from unichoir.audio.io import load_audio
from unichoir.errors import AudioError, DecodingError
from unichoir.text.wer import word_errors
from unichoir.transcript.results import Reading

RATE = 16000
SAID = "SIX OH FOUR FIVE NINE ONE TWO SIX FOUR EIGHT THREE NINE ONE EIGHT TWO"
RULES = unichoir.EndpointRules(silence_after_speech=0.6, silence_before_speech=0.4)


@pytest.fixture(scope="module")
def model() -> unichoir.Model:
    return unichoir.load_model(SMALL_MODEL)


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """Three clips, two seconds of silence after each."""
    parts = [load_audio(path, sample_rate=RATE) for path in CLIPS[:3]]
    return np.concatenate([np.concatenate([part, np.zeros(2 * RATE, np.float32)]) for part in parts])


def in_blocks(samples: np.ndarray, length: int) -> Iterator[np.ndarray]:
    return (samples[start : start + length] for start in range(0, len(samples), length))


def all_results(
    model: unichoir.Model, samples: np.ndarray, options: unichoir.StreamingOptions
) -> list[unichoir.StreamResult]:
    """Return all results of the recogniser's own methods for the samples at once: a partial or finals per chunk."""
    recognizer, found = model.recognizer, []
    stream = recognizer.streams.create_stream(options)
    stream.accept_waveform(samples, RATE)
    stream.input_finished()
    while recognizer.streams.is_ready(stream) or recognizer.streams.is_endpoint(stream):
        if recognizer.streams.is_endpoint(stream):
            found.append(recognizer.streams.get_result(stream))
            recognizer.streams.reset(stream)
            continue
        recognizer.streams.decode_streams([stream])
        if not recognizer.streams.is_endpoint(stream):
            found.append(recognizer.streams.get_result(stream))
    return found


@pytest.mark.parametrize("length", [160, 7777, 10**6])
def test_streaming_gives_what_is_new(model: unichoir.Model, speech: np.ndarray, length: int) -> None:
    options = unichoir.StreamingOptions(chunk_size=12, endpoint=RULES)
    everything = all_results(model, speech, options)
    finals = [result for result in everything if result.is_final]
    assert word_errors(SAID, " ".join(final.text for final in finals if final.text)).rate < 0.25
    blocks = in_blocks(speech, length)
    other = unichoir.StreamingOptions(chunk_size=25, endpoint=RULES)
    found = list(model.stream(blocks, sample_rate=RATE, chunk_size=12, options=other))
    assert [result for result in found if result.is_final] == [final for final in finals if final.text]
    partials = [result for result in found if not result.is_final]
    assert all(result in everything for result in partials)
    # For somebody who reads along: after every result of the recogniser the newest text is there.
    for number in {result.utterance for result in everything}:
        changes = [""] + [one.text for one in everything if one.utterance == number and not one.is_final]
        expected = [after for before, after in pairwise(changes) if after != before]
        assert [one.text for one in partials if one.utterance == number] == expected
    assert len(partials) >= 6


def test_with_empty_finals_nothing_is_left_out(model: unichoir.Model, speech: np.ndarray) -> None:
    options = unichoir.StreamingOptions(endpoint=RULES)
    results = model.stream(in_blocks(speech, 1600), sample_rate=RATE, options=options, empty_finals=True)
    finals = [result for result in results if result.is_final]
    assert finals == [result for result in all_results(model, speech, options) if result.is_final]
    assert not all(final.words for final in finals)
    assert [final.start_ms for final in finals] == [0, *(final.end_ms for final in finals[:-1])]
    assert finals[-1].end_ms == round(len(speech) / 16)


def test_results_come_while_the_audio_does(model: unichoir.Model, speech: np.ndarray) -> None:
    taken = 0

    def blocks() -> Iterator[np.ndarray]:
        nonlocal taken
        for block in in_blocks(speech, 1600):
            taken += len(block)
            yield block

    for result in model.stream(blocks(), sample_rate=RATE):
        # A chunk looks 45 ms ahead, and is decoded with the block of 100 ms that fills it.
        assert result.is_final or taken / 16 <= result.end_ms + 45 + 100
        assert taken < len(speech)  # after the last word there are two seconds of silence


def test_a_stream_of_ones_own_pace(model: unichoir.Model, speech: np.ndarray) -> None:
    expected = list(model.stream([speech], sample_rate=RATE, decoding="ctc_prefix_beam_search", empty_finals=True))
    stream = model.create_stream(decoding="ctc_prefix_beam_search")
    assert (stream.options.mode, stream.accepted_ms) == ("ctc_prefix_beam_search", 0)
    found = []
    for block in in_blocks((speech * 32768).astype(np.int16), 2 * RATE):
        stream.accept_waveform(np.stack([block, block], axis=1), RATE)
        for result in stream.results():
            found.append(result)
            break  # whoever stops here loses nothing
    stream.input_finished()
    assert stream.accepted_ms == pytest.approx(len(speech) / 16)
    found += list(stream.results())
    assert [each.text for each in found if each.is_final] == [each.text for each in expected if each.is_final]
    assert list(stream.results()) == []
    with pytest.raises(AudioError, match="after the end"):
        stream.accept_waveform(speech, RATE)


def test_what_was_shown_and_is_not_so_is_taken_back() -> None:
    def result(text: str, final: bool, utterance: int = 0) -> unichoir.StreamResult:
        best = Reading(text=text, tokens=(), words=(), score=0.0)
        return unichoir.StreamResult(utterance=utterance, is_final=final, start_ms=0, end_ms=0, nbest=(best,))

    stale, back = result("A", False), result("", True)
    following = [result("", False, 1), result("", True, 1), result("A", False, 2), result("A", False, 2)]
    assert list(api._changes([stale, back, *following], empty_finals=False)) == [stale, back, following[2]]


def test_bad_streams_are_refused_at_once(model: unichoir.Model, speech: np.ndarray) -> None:
    with pytest.raises(DecodingError, match="chunk_size"):
        model.stream([speech], sample_rate=RATE, chunk_size=26)
    with pytest.raises(DecodingError, match="mode: 'attention' is not one of"):
        model.create_stream(decoding="attention")  # type: ignore[arg-type]
    results = model.stream([speech, speech * np.nan], sample_rate=RATE)
    with pytest.raises(AudioError, match="not a finite number"):
        list(results)
    assert list(model.stream([], sample_rate=RATE)) == []
