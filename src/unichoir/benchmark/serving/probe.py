"""What a server takes: from its /metrics, and the threads of one that is our child from the system."""

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
"""For one answer, and for the sessions of clients that are gone to be gone from the server."""
INTERVAL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A server at one moment; None: not known."""

    metrics: Metrics
    """Empty for a server that has none."""
    threads: float | None = None
    """Those of the system or, where it does not tell, of Python."""

    @property
    def memory(self) -> float | None:
        """Resident, in bytes."""
        return self.metrics.total("process_resident_memory_bytes")

    @property
    def cpu_seconds(self) -> float | None:
        """That it has computed since its start."""
        return self.metrics.total("process_cpu_seconds_total")

    @property
    def files(self) -> float | None:
        """Open file descriptors, sockets among them."""
        return self.metrics.total("process_open_fds")

    @property
    def open_sessions(self) -> float | None:
        """Live sessions."""
        return self.metrics.total("unichoir_sessions")

    @property
    def tasks(self) -> float | None:
        """Of its event loop."""
        return self.metrics.total("unichoir_tasks")


class Probe:
    """Reads a server. pid: of its process, if that is on this machine."""

    def __init__(self, target: Target, pid: int | None) -> None:
        self._target = target
        self._pid = pid

    def snapshot(self) -> Snapshot:
        """Now. Raises UnichoirError for a server that does not answer."""
        try:
            metrics = Metrics.parse(self._target.fetch("/metrics", TIMEOUT_SECONDS))
        except HTTPError:
            metrics = Metrics({})
        except ValueError as error:
            raise UnichoirError(f"the server's /metrics: {error}") from None
        threads = None if self._pid is None else _threads(self._pid)
        return Snapshot(metrics=metrics, threads=metrics.total("unichoir_threads") if threads is None else threads)

    def idle_snapshot(self) -> Snapshot:
        """When the server has no session open any more, or has had enough time for that."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while (snapshot := self.snapshot()).open_sessions and time.monotonic() < deadline:
            time.sleep(INTERVAL_SECONDS)
        return snapshot


def _threads(pid: int) -> int | None:
    """Of a process, where the system has /proc."""
    with contextlib.suppress(OSError):
        found = re.search(r"^Threads:\s*(\d+)", Path(f"/proc/{pid}/status").read_text(encoding="ascii"), re.MULTILINE)
        return int(found[1]) if found else None
    return None
