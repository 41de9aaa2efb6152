"""Read the resources that a server uses, from its /metrics and from the system; called by `run` and `soak`."""

import contextlib
import re
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError

from unichoir.benchmark.serving.client import Target
from unichoir.benchmark.serving.metrics import Metrics
from unichoir.errors import UnichoirError

TIMEOUT_SECONDS = 30.0
"""Timeout for a response, and for the server to end the sessions of clients that have disconnected."""
INTERVAL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The state of a server at one moment; None means unknown."""

    metrics: Metrics
    """Empty if the server has no metrics."""
    threads: float | None = None
    """The system's count of threads or, if it is unknown, Python's."""

    @property
    def memory(self) -> float | None:
        """Resident memory in bytes."""
        return self.metrics.total("process_resident_memory_bytes")

    @property
    def cpu_seconds(self) -> float | None:
        """Processor time since the server's start."""
        return self.metrics.total("process_cpu_seconds_total")

    @property
    def files(self) -> float | None:
        """Open file descriptors, including sockets."""
        return self.metrics.total("process_open_fds")

    @property
    def open_sessions(self) -> float | None:
        """Open live sessions."""
        return self.metrics.total("unichoir_sessions")

    @property
    def tasks(self) -> float | None:
        """Tasks of the event loop."""
        return self.metrics.total("unichoir_tasks")


class Probe:
    """Reads the state of a server. pid: its process ID if it runs on this machine."""

    def __init__(self, target: Target, pid: int | None) -> None:
        self._target = target
        self._pid = pid

    def snapshot(self) -> Snapshot:
        """Read the current state. Raises UnichoirError if the server does not respond."""
        try:
            metrics = Metrics.parse(self._target.fetch("/metrics", TIMEOUT_SECONDS))
        except HTTPError:
            metrics = Metrics({})
        except ValueError as error:
            raise UnichoirError(f"the server's /metrics: {error}") from None
        threads = None if self._pid is None else _threads(self._pid)
        return Snapshot(metrics=metrics, threads=metrics.total("unichoir_threads") if threads is None else threads)

    def idle_snapshot(self) -> Snapshot:
        """Wait until no session is open, at most `TIMEOUT_SECONDS`, and read the state."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while (snapshot := self.snapshot()).open_sessions and time.monotonic() < deadline:
            time.sleep(INTERVAL_SECONDS)
        return snapshot


def _threads(pid: int) -> int | None:
    """Return the number of threads of a process from /proc; None if it is not available."""
    with contextlib.suppress(OSError):
        found = re.search(r"^Threads:\s*(\d+)", Path(f"/proc/{pid}/status").read_text(encoding="ascii"), re.MULTILINE)
        return int(found[1]) if found else None
    return None
