"""The soak test: many short sessions, some cut off and some hostile, and the server's growth; called by `run`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unichoir.benchmark.processes import Child
from unichoir.benchmark.serving.client import Drop, SessionResult
from unichoir.benchmark.serving.hostile import ATTACKS
from unichoir.benchmark.serving.load import Job
from unichoir.benchmark.serving.outcomes import Outcomes
from unichoir.benchmark.serving.probe import Probe, Snapshot
from unichoir.benchmark.serving.recordings import Recording

AT_A_TIME = 8
"""Sessions in parallel."""
WARM_SESSIONS = 500
"""After this many sessions the server is warm; resources that it takes later count as growth."""
STEP = 250
"""Sessions between two reports of progress. Each step waits for its longest session, usually a hostile one."""


@dataclass(frozen=True, kw_only=True)
class Soak(Outcomes):
    """The outcomes of the sessions, and the state of the server before and after."""

    warm_sessions: int
    """The number of sessions before `warm` was read, with no session open; at most half of all."""
    warm: Snapshot
    end: Snapshot

    def objections(self) -> list[str]:
        """Return everything that went wrong; empty if nothing did."""
        found = super().objections()
        if self.end.open_sessions is None:
            found.append("the server does not report its open sessions")
        elif self.end.open_sessions:
            found.append(f"{self.end.open_sessions:g} sessions still open at the end")
        return found


def make_jobs(recordings: Sequence[Recording], sessions: int, dropped: int, hostile: int = 0) -> list[Job]:
    """Plan whole sessions, dropped ones (half of them before any audio) and hostile clients of all kinds, evenly mixed.

    sessions, dropped, hostile: how many of each.
    """
    drops: tuple[Drop, ...] = ("before audio", "in audio")
    attacks = list(ATTACKS)
    kinds: list[tuple[Drop | None, str]] = [(None, "")] * sessions
    kinds += [(drops[place % 2], "") for place in range(dropped)]
    kinds += [(None, attacks[place % len(attacks)]) for place in range(hostile)]
    places = [(place + 0.5) / count for count in (sessions, dropped, hostile) for place in range(count)]
    order = sorted(range(len(kinds)), key=places.__getitem__)
    return [
        Job(recording=recordings[number % len(recordings)], drop=kinds[place][0], attack=kinds[place][1])
        for number, place in enumerate(order)
    ]


def run_soak(clients: Child, probe: Probe, jobs: Sequence[Job], progress: Callable[[int], None]) -> Soak:
    """Run the soak test. clients: a process of `Clients`; progress: called with the number of finished sessions."""
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
