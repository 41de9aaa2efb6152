"""Endpoints against the rules applied frame by frame, and the longest pause against an exhaustive search."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from unichoir.audio.fbank import compute_fbank
from unichoir.engine.encoding import encode_utterance
from unichoir.recognition.endpoint import EndpointDetector
from unichoir.recognition.options import EndpointRules, StreamingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.search.prefix_beam import ctc_prefix_beam_search
from unichoir.transcript.results import StreamResult

FRAME_MS = 40
SHORT = EndpointRules(silence_before_speech=0.6, silence_after_speech=0.24, max_utterance=1.2)
Listen = Callable[..., Any]


def ends(rules: EndpointRules, blanks: list[float], words: list[bool]) -> bool:
    """Whether an utterance of these frames is over, from its frames in ms."""
    silence = next((n for n, blank in enumerate(reversed(blanks)) if blank <= rules.blank_threshold), len(blanks))
    rule = rules.silence_after_speech if words[-1] else rules.silence_before_speech
    too_silent = rule is not None and silence * FRAME_MS >= rule * 1000 - 1e-6
    return too_silent or (rules.max_utterance is not None and len(blanks) * FRAME_MS >= rules.max_utterance * 1000)


def pauses(blanks: list[float], threshold: float) -> list[tuple[int, int]]:
    """Find every run of silence in the second half, by trying all: first frame, and the frame after the last."""
    frames = range(len(blanks) // 2, len(blanks) + 1)
    silent = [blank > threshold for blank in blanks]
    return [(a, b) for a in frames for b in frames if a < b and all(silent[a:b])]


seconds = st.one_of(st.none(), st.sampled_from([0.04, 0.05, 0.08, 0.12, 0.28, 0.3, 1.0, 1.24]))


@settings(max_examples=300, deadline=None)
@given(
    before=seconds,
    after=seconds,
    longest=st.sampled_from([None, 1.0, 1.01, 2.4]),
    threshold=st.sampled_from([0.0, 0.5, 0.8, 1.0]),
    runs=st.lists(
        st.tuples(st.integers(1, 40), st.sampled_from([0.0, 0.3, 0.8, 0.81, 1.0]), st.booleans()), min_size=1
    ),
)
def test_every_frame_is_judged_as_the_rules_say(
    before: float | None,
    after: float | None,
    longest: float | None,
    threshold: float,
    runs: list[tuple[int, float, bool]],
) -> None:
    rules = EndpointRules(
        silence_before_speech=before, silence_after_speech=after, max_utterance=longest, blank_threshold=threshold
    )
    frames = [(blank, has_words) for length, blank, has_words in runs for _ in range(length)]
    detector, blanks, words = EndpointDetector(rules, FRAME_MS), [], []
    for blank, has_words in frames:
        blanks.append(blank)
        words.append(has_words)
        over = detector.advance(blank, has_words)
        assert over == ends(rules, blanks, words)
        assert detector.is_too_long == (longest is not None and len(blanks) * FRAME_MS >= longest * 1000)
        if over:
            break


@pytest.mark.parametrize(
    ("blanks", "has_words", "frames"),
    [
        ([1.0] * 200, False, 125),  # 5 s of silence with nothing recognised
        ([0.1] * 30 + [0.81] * 40, True, 55),  # 1 s after speech
        ([0.1] * 30 + [0.8] * 40, True, None),  # 0.8 is not more than 0.8
        ([0.1, *[0.9] * 20] * 40, True, 500),  # 20 s
    ],
)
def test_wenets_rules_by_default(blanks: list[float], has_words: bool, frames: int | None) -> None:
    detector = EndpointDetector(EndpointRules(), FRAME_MS)
    over = (place for place, blank in enumerate(blanks, 1) if detector.advance(blank, has_words))
    assert next(over, None) == frames


def test_a_rule_that_is_off_ends_nothing() -> None:
    detector = EndpointDetector(
        EndpointRules(silence_before_speech=None, silence_after_speech=None, max_utterance=None), FRAME_MS
    )
    assert not any(detector.advance(1.0, place % 2 == 0) for place in range(5000))


@settings(max_examples=200, deadline=None)
@given(blanks=st.lists(st.sampled_from([0.1, 0.9, 0.95]), min_size=1, max_size=40))
def test_the_cut_is_in_the_longest_pause_of_the_second_half(blanks: list[float]) -> None:
    detector = EndpointDetector(EndpointRules(), FRAME_MS)
    for blank in blanks:
        detector.advance(blank, True)
    cut, found = detector.longest_pause(), pauses(blanks, 0.8)
    if not found:
        assert cut == len(blanks)
        return
    assert cut == middle_of_longest(found, len(blanks))
    assert len(blanks) // 2 < cut <= len(blanks)


def middle_of_longest(found: list[tuple[int, int]], num_frames: int) -> int:
    """Of equally long pauses the last; all of the one with which the utterance ends."""
    first, last = max(found, key=lambda pause: (pause[1] - pause[0], pause[0]))
    return last if last == num_frames else (first + last + 1) // 2


def test_frames_of_another_length() -> None:
    detector = EndpointDetector(EndpointRules(silence_before_speech=0.3), frame_ms=80.0)
    assert [detector.advance(1.0, False) for _ in range(4)] == [False, False, False, True]


def utterances(log_probs: np.ndarray, options: StreamingOptions) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """First frame, the one after the last, and the tokens of each utterance: every frame judged from its beginning."""
    rules, blanks, start = options.endpoint, np.exp(log_probs[:, 0]).tolist(), 0
    assert rules is not None
    while True:
        words, end = [], start
        while end < len(log_probs) and not (words and ends(rules, blanks[start:end], words)):
            end += 1
            words.append(ctc_prefix_beam_search(log_probs[start:end], options.beam_size)[0].tokens != ())
        over = words != [] and ends(rules, blanks[start:end], words)
        if over and rules.max_utterance is not None and (end - start) * FRAME_MS >= rules.max_utterance * 1000:
            found = pauses(blanks[start:end], rules.blank_threshold)
            end = start + middle_of_longest(found, end - start) if found else end
        yield start, end, ctc_prefix_beam_search(log_probs[start:end], options.beam_size)[0].tokens
        if not over:
            return
        start = end


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    runs=st.lists(st.tuples(st.sampled_from([0, 0, 3, 4, 5]), st.integers(2, 60)), max_size=14),
    chunk_size=st.integers(1, 25),
    rules=st.sampled_from(
        [
            SHORT,
            EndpointRules(silence_before_speech=None, silence_after_speech=0.08, max_utterance=None),
            EndpointRules(silence_before_speech=0.12, silence_after_speech=None, max_utterance=2.0),
            EndpointRules(silence_before_speech=None, silence_after_speech=None, max_utterance=1.0),
        ]
    ),
    early=st.booleans(),
)
@example(runs=[(0, 2), (0, 2), (3, 3), (0, 10), (5, 2), (0, 2)], chunk_size=1, rules=SHORT, early=True)
def test_a_stream_is_cut_where_the_rules_say(
    runs: list[tuple[int, int]],
    chunk_size: int,
    rules: EndpointRules,
    early: bool,
    recognizer: Recognizer,
    play,
    listen: Listen,
) -> None:
    """Tones and silences (0) of so many hundredths of a second; `early`: all is there before it is decoded."""
    times = np.cumsum([0, *(length / 100 for _, length in runs)]).tolist()
    tones = [(tone, times[place], times[place + 1]) for place, (tone, _) in enumerate(runs) if tone]
    samples = play(tones, max(times[-1], 0.01))
    options = StreamingOptions(chunk_size=chunk_size, mode="ctc_prefix_beam_search", beam_size=4, endpoint=rules)
    feats = compute_fbank(samples, recognizer.fbank_config)
    encoder_out, _ = encode_utterance(recognizer.backend, feats[None], np.array([len(feats)]))
    expected = list(utterances(recognizer.backend.ctc_log_probs(encoder_out)[0], options))
    stream = recognizer.streams.create_stream(options)
    if early:
        stream.accept_waveform(samples, 16000)
        stream.input_finished()
        finals = decode_all(recognizer, stream)
    else:
        finals = listen(recognizer, stream, np.split(samples, range(700, len(samples), 700))).finals
    duration = round(len(samples) / 16)
    borders = [(first * FRAME_MS, end * FRAME_MS) for first, end, _ in expected]
    borders[-1] = borders[-1][0], duration  # what makes no frame any more is the last one's
    assert [(result.start_ms, result.end_ms) for result in finals] == borders
    assert [tuple(token.id for token in result.tokens) for result in finals] == [tokens for _, _, tokens in expected]
    for result in finals:
        assert all(result.start_ms <= token.start_ms < token.end_ms <= result.end_ms for token in result.tokens)


def decode_all(recognizer: Recognizer, stream: Any) -> list[StreamResult]:
    finals = []
    while recognizer.streams.is_ready(stream) or recognizer.streams.is_endpoint(stream):
        if recognizer.streams.is_endpoint(stream):
            finals.append(recognizer.streams.get_result(stream))
            recognizer.streams.reset(stream)
        else:
            recognizer.streams.decode_streams([stream])
    return finals


@pytest.mark.parametrize("asked_before", [False, True])
@pytest.mark.parametrize("extra", [0, 1, 159, 160, 639, 640])
def test_an_input_that_ends_at_an_endpoint(recognizer: Recognizer, play, extra: int, asked_before: bool) -> None:
    """Whether the input ends before or after the result of the endpoint has been asked for changes no result."""
    tone, frames, chunk = (3, 0.0, 0.4), 30, 10
    rules = EndpointRules(silence_after_speech=0.8)  # 20 frames: the tone is heard in just 10
    samples = play([tone], 10.0)[: 400 + 160 * (4 * (frames - 1) + 6) + extra]
    stream = recognizer.streams.create_stream(StreamingOptions(chunk_size=chunk, endpoint=rules))
    stream.accept_waveform(samples, 16000)
    while not recognizer.streams.is_endpoint(stream):
        recognizer.streams.decode_streams([stream])
    first = recognizer.streams.get_result(stream) if asked_before else None
    stream.input_finished()
    finals = decode_all(recognizer, stream)
    assert first is None or finals[0] == first
    assert (finals[0].text, finals[0].start_ms, finals[0].end_ms) == ("low", 0, frames * FRAME_MS)
    (rest,) = finals[1:]
    assert (rest.text, rest.start_ms, rest.end_ms) == ("", frames * FRAME_MS, round(len(samples) / 16))
