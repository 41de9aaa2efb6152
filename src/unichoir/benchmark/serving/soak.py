"""Many short sessions, some of them cut off: whether the server stays as it was."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from unichoir.benchmark.processes import Child
from unichoir.benchmark.serving.client import Drop, SessionResult
from unichoir.benchmark.serving.load import Job
from unichoir.benchmark.serving.outcomes import Outcomes
from unichoir.benchmark.serving.probe import Probe, Snapshot
from unichoir.benchmark.serving.recordings import Recording

AT_A_TIME = 8
WARM_SESSIONS = 500
"""After which the server has what it needs; what it takes more from then on is growth."""
STEP = 50
"""Sessions between two reports of progress."""


@dataclass(frozen=True, kw_only=True)
class Soak(Outcomes):
    """What became of the sessions and of the server."""

    warm_sessions: int
    """After which `warm` was taken, with no session open; half of all, if there are not enough."""
    warm: Snapshot
    end: Snapshot

    def objections(self) -> list[str]:
        """What went wrong; empty: nothing."""
        found = super().objections()
        if self.end.open_sessions is None:
            found.append("the server does not tell its open sessions")
        elif self.end.open_sessions:
            found.append(f"{self.end.open_sessions:g} sessions still open at the end")
        return found


def make_jobs(recordings: Sequence[Recording], sessions: int, dropped: int) -> list[Job]:
    """So many whole sessions with so many dropped ones evenly among them, half of these before any audio."""
    drops: tuple[Drop, ...] = ("before audio", "in audio")
    whole: Iterator[tuple[float, Drop | None]] = (((place + 0.5) / sessions, None) for place in range(sessions))
    cut: Iterator[tuple[float, Drop | None]] = (((place + 0.5) / dropped, drops[place % 2]) for place in range(dropped))
    ordered = sorted([*whole, *cut], key=lambda each: each[0])
    return [(recordings[number % len(recordings)], drop) for number, (_, drop) in enumerate(ordered)]


def run_soak(clients: Child, probe: Probe, jobs: Sequence[Job], progress: Callable[[int], None]) -> Soak:
    """clients: a process of `Clients`; progress: called with how many sessions are done."""
    results: list[SessionResult] = []
    warm_sessions = min(WARM_SESSIONS, len(jobs) // 2)
    warm = probe.idle_snapshot()
    while len(results) < len(jobs):
        progress(len(results))
        until = warm_sessions if len(results) < warm_sessions else len(jobs)
        results += clients.call("burst", jobs[len(results) : min(len(results) + STEP, until)], AT_A_TIME)
        if len(results) == warm_sessions:
            warm = probe.idle_snapshot()
    return Soak(sessions=tuple(results), warm_sessions=warm_sessions, warm=warm, end=probe.idle_snapshot())
