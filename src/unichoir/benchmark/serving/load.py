"""Run many clients at once, in real time or as fast as possible, in a separate process; started by `run`."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from unichoir.benchmark.serving.client import Drop, SessionResult, Target, run_session
from unichoir.benchmark.serving.hostile import run_attack
from unichoir.benchmark.serving.recordings import Recording

LEAD_SECONDS = 0.2
"""Delay before the first audio."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One session of a burst."""

    recording: Recording
    drop: Drop | None = None
    attack: str = ""
    """The name of an attack in `ATTACKS`; empty: a normal client."""


@dataclass(frozen=True, kw_only=True)
class Played:
    """The outcome of clients in real time."""

    sessions: tuple[SessionResult, ...]
    seconds: float
    """Time from the first audio to the end of the last session."""
    cpu_seconds: float
    """Processor time of the clients' process."""


@dataclass(frozen=True)
class Clients:
    """Created by the parent, used in a separate process: clients and measurements don't delay each other."""

    target: Target

    def play(self, recordings: Sequence[Recording], clients: int, seconds: float, chunk_seconds: float) -> Played:
        """See `play`."""
        return asyncio.run(play(self.target, recordings, clients, seconds, chunk_seconds))

    def burst(self, jobs: Sequence[Job], at_a_time: int) -> list[SessionResult]:
        """See `burst`."""
        return asyncio.run(burst(self.target, jobs, at_a_time))


async def play(
    target: Target, recordings: Sequence[Recording], clients: int, seconds: float, chunk_seconds: float
) -> Played:
    """Run `clients` clients for `seconds`; each sends one recording after another, in separate sessions.

    The audio of a client never pauses: its next recording begins with the last sample of the previous one, even if the
    server has not finished that one. The load therefore doesn't depend on the speed of the server. Clients start at
    regular intervals within `chunk_seconds`, each with a different recording. Sessions that have begun are finished.
    """
    cpu_seconds, now = time.process_time(), asyncio.get_running_loop().time
    first = now() + LEAD_SECONDS

    async def client(number: int, start: float) -> list[SessionResult]:
        """Run one client. number: the index of its first recording; start: when that recording begins."""
        sessions, end = [], start + seconds
        while start < end:
            recording = recordings[number % len(recordings)]
            await asyncio.sleep(max(start - now(), 0))
            sessions.append(asyncio.ensure_future(run_session(target, recording, start)))
            start += recording.seconds
            number += 1
        return await asyncio.gather(*sessions)

    places = range(clients)
    results = await asyncio.gather(
        *(client(len(recordings) * place // clients, first + chunk_seconds * place / clients) for place in places)
    )
    return Played(
        sessions=tuple(session for sessions in results for session in sessions),
        seconds=now() - first,
        cpu_seconds=time.process_time() - cpu_seconds,
    )


async def burst(target: Target, jobs: Sequence[Job], at_a_time: int) -> list[SessionResult]:
    """Run the sessions as fast as possible, `at_a_time` in parallel. Hostile clients all start at once in addition,
    because some of them take long."""
    room = asyncio.Semaphore(at_a_time)

    async def run(job: Job) -> SessionResult:
        if job.attack:
            return await run_attack(target, job.recording, job.attack)
        async with room:
            return await run_session(target, job.recording, drop=job.drop)

    return await asyncio.gather(*map(run, jobs))
