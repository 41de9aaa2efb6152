"""What goes into a stream: nothing at all, blocks that are refused, samples after the end; and when it begins."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from unichoir.errors import AudioError, DecodingError
from unichoir.recognition.options import EndpointRules, StreamingOptions
from unichoir.recognition.recognizer import Recognizer

Listen = Callable[..., Any]


def test_a_stream_of_nothing(recognizer: Recognizer, listen: Listen) -> None:
    for blocks in ([], [np.zeros(0, np.float32)], [np.zeros((0, 2), np.int16)] * 2):
        stream = recognizer.streams.create_stream()
        (final,) = listen(recognizer, stream, blocks).finals
        assert (final.text, final.words, final.start_ms, final.end_ms, final.is_final) == ("", (), 0, 0, True)
        assert stream.accepted_ms == 0
        stream.input_finished()  # once more changes nothing
        assert not recognizer.streams.is_endpoint(stream)
        after = recognizer.streams.get_result(stream)
        assert (after.utterance, after.is_final, after.start_ms, after.end_ms) == (1, False, 0, 0)


def test_after_the_end(recognizer: Recognizer, play, listen: Listen) -> None:
    samples = play([(3, 0.2, 0.9)], 1.234)
    stream = recognizer.streams.create_stream()
    (final,) = listen(recognizer, stream, [samples]).finals
    assert (final.text, final.end_ms) == ("low", 1234)
    for block in (samples, samples[:0]):
        with pytest.raises(AudioError, match="stream: samples after the end of the input"):
            stream.accept_waveform(block, 16000)
    with pytest.raises(DecodingError, match="only be reset at an endpoint"):
        recognizer.streams.reset(stream)
    after = recognizer.streams.get_result(stream)
    assert (after.utterance, after.start_ms, after.end_ms, after.text) == (1, 1234, 1234, "")


@pytest.mark.parametrize(
    ("block", "rate", "message"),
    [
        (np.full(10, np.nan, np.float32), 16000, "stream: a sample is not a finite number"),
        (np.array([[0.0, 0.0], [np.inf, -np.inf]]), 16000, "stream: a sample is not a finite number"),
        (np.full((3, 2), 3e38, np.float32), 16000, "stream: a sample is not a finite number"),
        (np.array([0.0, np.inf]), 16000, "stream: a sample is not a finite number"),
        (np.full(10, 3e4), 16000, r"stream: float samples should lie in \[-1, 1\], found 30000"),
        (np.zeros(10, np.int32), 16000, "stream: expected float or int16 samples, found int32"),
        (np.zeros(10, np.complex64), 16000, "stream: expected float or int16 samples, found complex64"),
        (np.array(["a"]), 16000, "stream: expected float or int16 samples"),
        (np.zeros((2, 2, 2), np.float32), 16000, "stream: expected shape"),
        (np.zeros((5, 0), np.float32), 16000, "stream: expected shape"),
        (np.float32(0.5), 16000, "stream: expected shape"),
        (np.zeros(10, np.float32), 48000, "the sample rate cannot change from 16000 to 48000 Hz"),
        (np.zeros(0, np.float32), 8000, "the sample rate cannot change from 16000 to 8000 Hz"),
    ],
)
def test_refused_blocks_change_nothing(
    recognizer: Recognizer, play, listen: Listen, block: np.ndarray, rate: int, message: str
) -> None:
    samples = play([(3, 0.2, 0.9), (4, 1.4, 1.7)], 2.0)
    expected = listen(recognizer, recognizer.streams.create_stream(), [samples]).finals
    stream = recognizer.streams.create_stream()
    if "rate cannot change" not in message:  # as the very first, too
        with pytest.raises(AudioError, match=message):
            stream.accept_waveform(block, rate)
    stream.accept_waveform(samples[:7777], 16000)
    with pytest.raises(AudioError, match=message):
        stream.accept_waveform(block, rate)
    assert stream.accepted_ms == 7777 / 16
    assert listen(recognizer, stream, [samples[7777:]]).finals == expected


@pytest.mark.parametrize("rate", [0, -16000, 1999, 1_000_000, float("nan")])
def test_an_impossible_rate(recognizer: Recognizer, rate: float) -> None:
    stream = recognizer.streams.create_stream()
    with pytest.raises(AudioError, match="stream: sample rate"):
        stream.accept_waveform(np.zeros(100, np.float32), rate)
    stream.accept_waveform(np.zeros(100, np.float32), 8000)  # it has not been taken for the stream's


def test_times_count_from_when_the_stream_began(recognizer: Recognizer, play, listen: Listen) -> None:
    samples = play([(3, 0.2, 0.6), (4, 0.9, 1.2), (3, 1.8, 2.1)], 2.5)
    rules = EndpointRules(silence_after_speech=0.2)
    options = StreamingOptions(endpoint=rules, partial_words=True)
    first = listen(recognizer, recognizer.streams.create_stream(options), [samples])
    later = listen(recognizer, recognizer.streams.create_stream(options, start_ms=1000), [samples])
    assert len(first.finals) > 2
    for found, expected in zip(later.finals + later.partials, first.finals + first.partials, strict=True):
        assert (found.start_ms, found.end_ms) == (expected.start_ms + 1000, expected.end_ms + 1000)
        assert [(word.start_ms, word.end_ms) for word in found.words] == [
            (word.start_ms + 1000, word.end_ms + 1000) for word in expected.words
        ]


def test_what_a_model_lacks(recognizer: Recognizer, backend) -> None:
    backend.info = replace(backend.info, has_reverse_decoder=False, reverse_weight=0.0)
    with pytest.raises(DecodingError, match=r"reverse_weight 0\.3: this model has no right-to-left decoder"):
        recognizer.streams.create_stream(StreamingOptions(reverse_weight=0.3))
    recognizer.streams.create_stream(StreamingOptions(reverse_weight=0.0))
