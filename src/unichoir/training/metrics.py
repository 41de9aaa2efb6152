"""Running figures of a training run: means between two log lines, speed, remaining time."""

import sys
import time
from collections.abc import Callable, Mapping

import torch


class RunningMeans:
    """Weighted means of named values since the last `take`."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._weights: dict[str, float] = {}

    def add(self, values: Mapping[str, float], weight: float = 1.0) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * weight
            self._weights[name] = self._weights.get(name, 0.0) + weight

    def take(self) -> dict[str, float]:
        """Return the means and start again."""
        means = {name: total / self._weights[name] for name, total in self._sums.items() if self._weights[name]}
        self._sums, self._weights = {}, {}
        return means


class Stopwatch:
    """The speed of training in audio seconds per second, and the remaining time."""

    def __init__(self, done: float, spent: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start the watch.

        done: the completed fraction of the run; spent: seconds of earlier, interrupted parts.
        """
        self._clock = clock
        self._start = self._lap_start = clock()
        self._done_at_start, self._spent_before = done, spent
        self._lap_audio = self._lap_stalled = 0.0

    def add_audio(self, seconds: float, stalled: float = 0.0) -> None:
        """Count `seconds` of trained speech, for which training waited `stalled` seconds."""
        self._lap_audio += seconds
        self._lap_stalled += stalled

    def spent(self) -> float:
        """Return the seconds that the run has taken, including its earlier parts."""
        return self._spent_before + self._clock() - self._start

    def take_speed(self) -> tuple[float, float]:
        """Return audio seconds per second, and the fraction of the time spent waiting for data, since the last call."""
        now = self._clock()
        lap = max(now - self._lap_start, 1e-9)
        figures = self._lap_audio / lap, self._lap_stalled / lap
        self._lap_start, self._lap_audio, self._lap_stalled = now, 0.0, 0.0
        return figures

    def remaining(self, done: float) -> float | None:
        """Return the remaining seconds when the fraction `done` is complete; None without an estimate."""
        progressed = done - self._done_at_start
        return (self._clock() - self._start) / progressed * (1 - done) if progressed > 0 else None


def clock_time(seconds: float | None) -> str:
    """Format seconds as h:mm:ss; None as `-:--:--`."""
    if seconds is None:
        return "-:--:--"
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def memory_gb(device: torch.device) -> float:
    """Return the peak memory of training in GB, on the device or, on a CPU, of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
