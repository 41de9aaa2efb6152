"""Latencies against their definitions, worked out from the whole history of a stream."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unichoir.recognition.latency import LatencyMeter, LatencyReport, percentiles
from unichoir.transcript.results import Reading, StreamResult, Word

Event = tuple[str, object, float]
NAMES = ("first_partial", "partial_lag", "final_after_speech", "final_after_input")


def result(number: int, start: int, end: int, *, final: bool, text: str = "", words: tuple = ()) -> StreamResult:
    said = tuple(Word(text="A", start_ms=first, end_ms=last, confidence=1.0) for first, last in words)
    text = text or " ".join(word.text for word in said)
    best = Reading(text=text, tokens=(), words=said, score=0.0)
    return StreamResult(utterance=number, is_final=final, start_ms=start, end_ms=end, nbest=(best,))


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """What happens to a stream: blocks arrive, utterances get results, at last the input may be finished."""
    gap = st.integers(1, 300)
    now, audio, events = 0, 0, []

    def after() -> float:
        nonlocal now
        now += draw(gap)
        return now / 1000

    utterance_start = 0
    for number in range(draw(st.integers(1, 4))):
        heard = utterance_start
        for _ in range(draw(st.integers(1, 4))):
            for _ in range(draw(st.integers(1, 3))):
                audio += draw(gap)
                events.append(("accepted", audio, after()))
            heard = draw(st.integers(heard, audio))
            text = draw(st.sampled_from(["", "A"]))
            events.append(("shown", result(number, utterance_start, heard, final=False, text=text), after()))
        # A final result may end before what was heard: the utterance was cut.
        end = draw(st.integers(utterance_start, audio))
        edges = sorted(draw(st.lists(st.integers(utterance_start, end), max_size=6)))
        words = tuple(zip(edges[::2], edges[1::2], strict=False))
        events.append(("shown", result(number, utterance_start, end, final=True, words=words), after()))
        utterance_start = end
    if draw(st.booleans()):
        events.append(("finished", None, after()))
        for number in range(draw(st.integers(0, 2))):
            final = result(9 + number, utterance_start, audio, final=True, words=((utterance_start, audio),))
            events.append(("shown", final, after()))
            utterance_start = audio
    return events


def play(events: list[Event]) -> LatencyReport:
    meter = LatencyMeter()
    for verb, what, now in events:
        meter.finished(now) if verb == "finished" else getattr(meter, verb)(what, now)
    return meter.report()


def by_definition(events: list[Event]) -> LatencyReport:
    def arrival(ms: float) -> float:
        return min(now for verb, audio, now in events if verb == "accepted" and audio >= ms)

    shown = [(one, now) for verb, one, now in events if verb == "shown"]
    partials = [(one, now) for one, now in shown if not one.is_final]
    finals = [(one, now) for one, now in shown if one.is_final]
    first = []
    for final, at in finals:
        texts = [(one, now) for one, now in shown if one.utterance == final.utterance and one.text]
        before = [one.end_ms for one, _ in shown if one.utterance < final.utterance]
        if texts:
            start = final.words[0].start_ms if final.words else final.start_ms
            if any(end_ms > start for end_ms in before):
                continue
            first.append(min((now for one, now in texts if one.end_ms > start), default=at) - arrival(start))
    ends = [now for verb, _, now in events if verb == "finished"]
    after = [now for _, now in finals if ends and now > ends[0]]
    return LatencyReport(
        first_partial=tuple(first),
        partial_lag=tuple(now - arrival(one.end_ms) for one, now in partials),
        final_after_speech=tuple(now - arrival(one.words[-1].end_ms) for one, now in finals if one.words),
        final_after_input=(max(after) - ends[0],) if after else (),
    )


@given(events=histories())
def test_latencies_are_those_of_the_definitions(events: list[Event]) -> None:
    assert play(events) == by_definition(events)


def test_an_example_worked_out_by_hand() -> None:
    """Blocks of 100 ms, each arriving when it is over; words from 250 to 450 ms; a pause ends the utterance."""
    meter = LatencyMeter()
    for block in range(1, 16):
        meter.accepted(100 * block, block / 10)
        if block == 4:
            meter.shown(result(0, 0, 240, final=False), 0.45)  # nothing yet: only its lag counts
        if block == 7:
            meter.shown(result(0, 0, 640, final=False, text="A"), 0.75)
    meter.shown(result(0, 0, 1450, final=True, words=((250, 450),)), 1.6)
    meter.finished(1.7)
    meter.shown(result(1, 1450, 1500, final=True), 1.72)
    found = meter.report()
    assert found.first_partial == (pytest.approx(0.75 - 0.3),)
    assert found.partial_lag == (pytest.approx(0.45 - 0.3), pytest.approx(0.75 - 0.7))
    assert found.final_after_speech == (pytest.approx(1.6 - 0.5),)
    assert found.final_after_input == (pytest.approx(0.02),)


def test_words_guessed_before_any_was_said_are_no_first_partial() -> None:
    meter = LatencyMeter()
    for second in (1, 2, 3):
        meter.accepted(1000 * second, second)
        meter.shown(result(0, 0, 1000 * second, final=False, text="A"), second + 0.1)
    meter.shown(result(0, 0, 3000, final=True, words=((1500, 2800),)), 3.2)
    assert meter.report().first_partial == (pytest.approx(2.1 - 2.0),)


def test_results_that_end_a_little_beyond_the_audio() -> None:
    meter = LatencyMeter()
    meter.shown(result(0, 0, 0, final=False), 0.5)  # before any audio there is nothing to measure
    meter.accepted(99.6, 1.0)
    meter.shown(result(0, 0, 100, final=True, words=((0, 100),)), 1.25)
    found = meter.report()
    assert (found.partial_lag, found.final_after_speech, found.final_after_input) == ((), (0.25,), ())


def test_memory_does_not_grow_with_the_stream() -> None:
    """But for the values themselves: 8 bytes each."""
    meter, sizes = LatencyMeter(), []
    for number in range(2000):
        for block in range(10):
            meter.accepted(1000 * number + 100 * (block + 1), number + block / 10)
        meter.shown(result(number, 1000 * number, 1000 * number + 640, final=False, text="A"), number + 0.95)
        words = ((1000 * number + 100, 1000 * number + 500),)
        meter.shown(result(number, 1000 * number, 1000 * number + 1000, final=True, words=words), number + 1.0)
        sizes.append(len(pickle.dumps(meter)) - 8 * 3 * (number + 1))
    assert max(sizes[100:]) <= max(sizes[:100]) + 100


@given(values=st.lists(st.floats(0, 10), min_size=1, max_size=300), percent=st.integers(1, 100))
def test_percentiles_are_the_nearest_rank(values: list[float], percent: int) -> None:
    enough = [value for value in values if 100 * sum(other <= value for other in values) >= percent * len(values)]
    assert percentiles(values, (percent,)) == (min(enough),)


def test_reports_of_many_streams_are_one() -> None:
    reports = [
        LatencyReport(first_partial=(0.3,), partial_lag=tuple(range(1, 51))),
        LatencyReport(partial_lag=tuple(range(51, 101)), final_after_input=(2.5,)),
    ]
    merged = LatencyReport.merge(reports)
    assert merged.to_dict() == {
        "first_partial": {"count": 1, "p50": 0.3, "p95": 0.3, "p99": 0.3},
        "partial_lag": {"count": 100, "p50": 50, "p95": 95, "p99": 99},
        "final_after_speech": {"count": 0, "p50": None, "p95": None, "p99": None},
        "final_after_input": {"count": 1, "p50": 2.5, "p95": 2.5, "p99": 2.5},
    }
    assert LatencyReport.merge([]) == LatencyReport()
    head, *rows = [line.split() for line in merged.to_text().splitlines()]
    assert head[-4:] == ["count", "p50", "p95", "p99"]
    assert [row[-4:] for row in rows] == [
        ["1", "300", "300", "300"],
        ["100", "50000", "95000", "99000"],
        ["0", "-", "-", "-"],
        ["1", "2500", "2500", "2500"],
    ]
