"""The latency of the results of a stream, measured by the code that feeds it and shows the results."""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from unichoir.transcript.results import StreamResult

PERCENTS = (50, 95, 99)


def percentiles(values: Sequence[float], percents: Sequence[int] = PERCENTS) -> tuple[float, ...]:
    """Return the nearest-rank percentiles of `values`, at least one; percents: whole numbers from 1 to 100.

    The p-th percentile is the smallest value that at least p % of the values do not exceed. It is always a measured
    value.
    """
    ordered = sorted(values)
    return tuple(ordered[-(-percent * len(ordered) // 100) - 1] for percent in percents)


@dataclass(frozen=True, kw_only=True)
class LatencyReport:
    """Measured latencies in seconds, in the order of measurement. `LatencyMeter` defines them."""

    first_partial: tuple[float, ...] = ()
    partial_lag: tuple[float, ...] = ()
    final_after_speech: tuple[float, ...] = ()
    final_after_input: tuple[float, ...] = ()

    @classmethod
    def merge(cls, reports: Iterable["LatencyReport"]) -> "LatencyReport":
        """Return one report for many streams, with the latencies of all of them."""
        reports = list(reports)
        return cls(
            **{each.name: tuple(value for one in reports for value in getattr(one, each.name)) for each in fields(cls)}
        )

    def to_dict(self) -> dict[str, Any]:
        """Return count, p50, p95 and p99 in seconds for each latency; None if nothing was measured."""
        return {each.name: _summary(getattr(self, each.name)) for each in fields(self)}

    def to_text(self) -> str:
        """Return a table with one line per latency, in ms."""
        columns = ("count", *(f"p{percent}" for percent in PERCENTS))
        lines = [f"{'latency in ms':24}" + "".join(f"{column:>8}" for column in columns)]
        for name, label in _LABELS.items():
            values = getattr(self, name)
            figures = [f"{1000 * value:.0f}" for value in percentiles(values)] if values else ["-"] * len(PERCENTS)
            lines.append(f"{label:24}" + "".join(f"{cell:>8}" for cell in (str(len(values)), *figures)))
        return "\n".join(lines)


_LABELS = {
    "first_partial": "first partial",
    "partial_lag": "partial behind audio",
    "final_after_speech": "final after speech",
    "final_after_input": "final after the input",
}


def _summary(values: Sequence[float]) -> dict[str, Any]:
    found = percentiles(values) if values else (None,) * len(PERCENTS)
    return {"count": len(values), **{f"p{percent}": value for percent, value in zip(PERCENTS, found, strict=True)}}


class LatencyMeter:
    """Measures the latencies of one stream.

    It has no clock: you pass each `now`, in seconds of one monotonic clock. The audio at t ms arrives when all audio up
    to t ms has arrived. The latencies are:

    - first partial, once per utterance, at its final result: from the arrival of the audio at the start of the first
      word to the first result with text that covers this place. Without words, the start of the utterance counts, and
      only if a partial result had text. It is not measured if a result of an earlier utterance covered this place,
      because the rest of an utterance that was cut for its length has already been shown.
    - partial lag, for each partial result, with or without text: from the arrival of the audio at its `end_ms`. This is
      the look-ahead of the model and the computation, without the time to fill a chunk.
    - final after speech, for each final result with words: from the arrival of the audio at the end of its last word.
      It includes the silence that an endpoint rule waits for.
    - final after input, once, if `finished` was called: from then to the last final result.

    Memory: the arrivals since the last final result, and 8 bytes per measurement.
    """

    def __init__(self) -> None:
        self._arrivals: list[tuple[float, float]] = []
        self._texts: list[tuple[int, float]] = []
        """end_ms and time of the results with text of the current utterance."""
        self._heard_ms = self._heard_before_ms = 0
        """The largest end_ms of all results, and of the results of earlier utterances."""
        self._first_partial, self._partial_lag, self._after_speech = array("d"), array("d"), array("d")
        self._finished: float | None = None
        self._last_final: float | None = None

    def accepted(self, audio_ms: float, now: float) -> None:
        """Record that all audio from the start of the stream up to `audio_ms` has arrived."""
        if not self._arrivals or audio_ms > self._arrivals[-1][0]:
            self._arrivals.append((audio_ms, now))

    def finished(self, now: float) -> None:
        """Record that the input has ended."""
        if self._finished is None:
            self._finished = now

    def shown(self, result: StreamResult, now: float) -> None:
        """Record that a partial or final result was shown."""
        if result.text:
            self._texts.append((result.end_ms, now))
        self._heard_ms = max(self._heard_ms, result.end_ms)
        if not result.is_final:
            self._measure(self._partial_lag, result.end_ms, now)
            return
        if result.words or self._texts:
            start_ms = result.words[0].start_ms if result.words else result.start_ms
            reached = next((at for end_ms, at in self._texts if end_ms > start_ms), now)
            if start_ms >= self._heard_before_ms:
                self._measure(self._first_partial, start_ms, reached)
        if result.words:
            self._measure(self._after_speech, result.words[-1].end_ms, now)
        if self._finished is not None:
            self._last_final = now
        self._texts.clear()
        self._heard_before_ms = self._heard_ms
        del self._arrivals[: self._place(result.end_ms)]

    def report(self) -> LatencyReport:
        """Return all latencies so far."""
        after_input = () if self._finished is None or self._last_final is None else (self._last_final - self._finished,)
        return LatencyReport(
            first_partial=tuple(self._first_partial),
            partial_lag=tuple(self._partial_lag),
            final_after_speech=tuple(self._after_speech),
            final_after_input=after_input,
        )

    def _measure(self, values: "array[float]", audio_ms: float, now: float) -> None:
        if self._arrivals:
            values.append(now - self._arrivals[self._place(audio_ms)][1])

    def _place(self, audio_ms: float) -> int:
        # Times of results are rounded and may be slightly after the last sample.
        return max(0, min(bisect_left(self._arrivals, (audio_ms,)), len(self._arrivals) - 1))
