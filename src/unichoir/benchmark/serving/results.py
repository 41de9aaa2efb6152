"""The results of a server's benchmark: quantiles, word errors and verdicts; returned by `run`, shown by `tables`."""

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
"""Clients are served in real time only if the 95th percentile of the final latency is below this."""


@dataclass(frozen=True, kw_only=True)
class Quantiles:
    """Quantiles of measured values; each is one of the values (nearest rank)."""

    p50: float
    p95: float
    p99: float
    max: float
    count: int

    @staticmethod
    def of(values: Sequence[float]) -> "Quantiles | None":
        """Compute the quantiles; None without values."""
        if not values:
            return None
        ordered = sorted(values)
        # With integers: 0.95 * 20 is slightly more than 19.
        p50, p95, p99 = (ordered[-(-percent * len(ordered) // 100) - 1] for percent in (50, 95, 99))
        return Quantiles(p50=p50, p95=p95, p99=p99, max=ordered[-1], count=len(ordered))


@dataclass(frozen=True, kw_only=True)
class Load(Outcomes):
    """The results of a number of clients in real time."""

    clients: int
    chunk_seconds: float
    seconds: float
    """Time from the first audio to the end of the last session."""
    before: Snapshot
    after: Snapshot
    clients_cpu_seconds: float

    @property
    def word_errors(self) -> ErrorCounts | None:
        """The word errors of the completed sessions; None if the spoken texts are unknown."""
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
        """The audio sent by all clients."""
        return sum(session.audio_seconds for session in self.sessions)

    @property
    def counted(self) -> Metrics:
        """The server's metrics during the measurement."""
        return self.after.metrics.since(self.before.metrics)

    @property
    def real_time_factor(self) -> float | None:
        """The server's seconds of computation per second of audio."""
        work, audio = (self.counted.total(f"unichoir_{what}_seconds_total") for what in ("compute", "audio"))
        return work / audio if work is not None and audio else None

    def partial_lag(self, quantile: float) -> float | None:
        """Return a quantile of the partial lag in seconds, from the server's histogram."""
        return bucket_quantile(self.counted.buckets("unichoir_partial_lag_seconds"), quantile)

    @property
    def refusals(self) -> float | None:
        """Refusals counted by the server; None if it has no metrics."""
        # A counter with labels does not exist before its first count.
        return (self.counted.total("unichoir_refusals_total") or 0.0) if self.counted.samples else None

    @property
    def server_cpu(self) -> float | None:
        """The mean number of cores that the server kept busy."""
        before, after = self.before.cpu_seconds, self.after.cpu_seconds
        return None if before is None or after is None else (after - before) / self.seconds

    @property
    def clients_cpu(self) -> float:
        """The mean number of cores that the clients kept busy."""
        return self.clients_cpu_seconds / self.seconds

    def objections(self) -> list[str]:
        """Return why the clients were not served in real time; empty if they were."""
        found = super().objections()
        final = self.final_latency
        if final and final.p95 >= MAX_FINAL_SECONDS:
            found.append(f"final p95 {final.p95:.2f} s")
        lag = self.partial_lag(0.99)
        if lag is None:
            found.append("the server does not report its partial lag")
        elif lag >= self.chunk_seconds:
            found.append("partial lag p99 " + ("above the largest bucket" if math.isinf(lag) else f"{lag:.2f} s"))
        return found


@dataclass(frozen=True, kw_only=True)
class ServingOptions:
    """What to measure. Empty `clients`: no clients in real time; 0 `sessions`: no soak test."""

    clients: tuple[int, ...]
    play_seconds: float
    chunk_size: int
    """In encoder frames."""
    left_chunks: int
    threads: int | None = None
    """Threads of one computation of the server; None: the server's default."""
    engines: int | None = None
    """Engines of the server; None: the server's default."""
    sessions: int = 0
    dropped: int = 0
    hostile: int = 0


@dataclass(frozen=True, kw_only=True)
class ServingResults:
    """Everything that a report contains."""

    machine: Mapping[str, str]
    model: str
    server: str
    """The server's command or address."""
    audio: str
    options: ServingOptions
    loads: tuple[Load, ...]
    soak: Soak | None
    exit_code: int | None
    """The server's exit code after SIGTERM; None if the benchmark did not start it."""
    server_errors: tuple[str, ...]
    """Error lines of the server's log."""
    seconds: float
    """Duration of the whole benchmark."""
