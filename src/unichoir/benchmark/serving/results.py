"""What was measured, and what follows from it: quantiles, word errors, verdicts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unichoir.benchmark.serving.metrics import Metrics, bucket_quantile
from unichoir.benchmark.serving.outcomes import Outcomes
from unichoir.benchmark.serving.probe import Snapshot
from unichoir.benchmark.serving.soak import Soak
from unichoir.text.normalize import normalize_for_scoring
from unichoir.text.wer import ErrorCounts, word_errors

MAX_FINAL_SECONDS = 0.5
"""Of the 95th percentile of the final latency, for a verdict of real time."""


@dataclass(frozen=True, kw_only=True)
class Quantiles:
    """Of measured values; each is one of them (the nearest rank)."""

    p50: float
    p95: float
    p99: float
    max: float
    count: int

    @staticmethod
    def of(values: Sequence[float]) -> "Quantiles | None":
        """None without values."""
        if not values:
            return None
        ordered = sorted(values)
        # In whole numbers: 0.95 * 20 is a little more than 19.
        p50, p95, p99 = (ordered[-(-percent * len(ordered) // 100) - 1] for percent in (50, 95, 99))
        return Quantiles(p50=p50, p95=p95, p99=p99, max=ordered[-1], count=len(ordered))


@dataclass(frozen=True, kw_only=True)
class Load(Outcomes):
    """So many clients in real time."""

    clients: int
    chunk_seconds: float
    seconds: float
    """From the first audio to the end of the last session."""
    before: Snapshot
    after: Snapshot
    clients_cpu_seconds: float

    @property
    def word_errors(self) -> ErrorCounts | None:
        """Of the completed sessions against what was said; None where that is not known."""
        counts = [
            word_errors(normalize_for_scoring(session.reference), normalize_for_scoring(session.text))
            for session in self.sessions
            if session.outcome == "completed" and session.reference
        ]
        return sum(counts, ErrorCounts()) if counts else None

    @property
    def first_partial(self) -> Quantiles | None:
        """Seconds from the end of the first word to the first result with words."""
        return Quantiles.of([each.first_partial for each in self.sessions if each.first_partial is not None])

    @property
    def final_latency(self) -> Quantiles | None:
        """Seconds from the end of the input to the last final result."""
        return Quantiles.of([each.final_latency for each in self.sessions if each.final_latency is not None])

    @property
    def partial_intervals(self) -> Quantiles | None:
        """Seconds from one result to the next."""
        return Quantiles.of([interval for session in self.sessions for interval in session.partial_intervals])

    @property
    def lateness(self) -> Quantiles | None:
        """Seconds by which blocks were sent late."""
        return Quantiles.of([late for session in self.sessions for late in session.lateness])

    @property
    def audio_seconds(self) -> float:
        """Sent by all clients."""
        return sum(session.audio_seconds for session in self.sessions)

    @property
    def counted(self) -> Metrics:
        """What the server has counted meanwhile."""
        return self.after.metrics.since(self.before.metrics)

    @property
    def real_time_factor(self) -> float | None:
        """The server's seconds of work per second of audio."""
        work, audio = (self.counted.total(f"unichoir_{what}_seconds_total") for what in ("compute", "audio"))
        return work / audio if work is not None and audio else None

    def partial_lag(self, quantile: float) -> float | None:
        """Seconds, from the server's histogram."""
        return bucket_quantile(self.counted.buckets("unichoir_partial_lag_seconds"), quantile)

    @property
    def refusals(self) -> float | None:
        """That the server has counted; None: it counts nothing."""
        # A counter with labels is not there before its first count.
        return (self.counted.total("unichoir_refusals_total") or 0.0) if self.counted.samples else None

    @property
    def server_cpu(self) -> float | None:
        """Cores that the server has kept busy."""
        before, after = self.before.cpu_seconds, self.after.cpu_seconds
        return None if before is None or after is None else (after - before) / self.seconds

    @property
    def clients_cpu(self) -> float:
        """Cores that the clients have kept busy."""
        return self.clients_cpu_seconds / self.seconds

    def objections(self) -> list[str]:
        """Why these clients were not served in real time; empty: they were."""
        found = super().objections()
        final = self.final_latency
        if final and final.p95 >= MAX_FINAL_SECONDS:
            found.append(f"final p95 {final.p95:.2f} s")
        lag = self.partial_lag(0.99)
        if lag is None:
            found.append("the server does not tell its partial lag")
        elif lag >= self.chunk_seconds:
            found.append("partial lag p99 " + ("beyond all buckets" if math.isinf(lag) else f"{lag:.2f} s"))
        return found


@dataclass(frozen=True, kw_only=True)
class ServingOptions:
    """What is measured. Empty `clients`: no load in real time; no `sessions`: no soak."""

    clients: tuple[int, ...]
    play_seconds: float
    chunk_size: int
    """Encoder frames (40 ms each)."""
    left_chunks: int
    threads: int | None = None
    """Of the server's engine; None: its own choice."""
    sessions: int = 0
    dropped: int = 0
    hostile: int = 0


@dataclass(frozen=True, kw_only=True)
class ServingResults:
    """Everything a report is made of."""

    machine: Mapping[str, str]
    model: str
    server: str
    """Its command, or where it was."""
    audio: str
    options: ServingOptions
    loads: tuple[Load, ...]
    soak: Soak | None
    exit_code: int | None
    """After SIGTERM; None: it was not ours to end."""
    server_errors: tuple[str, ...]
    """Lines of its log."""
    seconds: float
    """That the whole benchmark took."""
