"""Clients in real time, in a process of their own."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from unichoir.benchmark.serving.client import Drop, SessionResult, Target, run_session
from unichoir.benchmark.serving.hostile import run_attack
from unichoir.benchmark.serving.recordings import Recording

LEAD_SECONDS = 0.2
"""From the beginning to the first audio."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A session of a burst."""

    recording: Recording
    drop: Drop | None = None
    attack: str = ""
    """A kind of hostile client; empty: an honest one."""


@dataclass(frozen=True, kw_only=True)
class Played:
    """What clients have seen."""

    sessions: tuple[SessionResult, ...]
    seconds: float
    """From the first audio to the end of the last session."""
    cpu_seconds: float
    """That the process of the clients has computed."""


@dataclass(frozen=True)
class Clients:
    """Made by the parent, used in a process of its own, so that clients and measurements do not hold each other up."""

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
    """So many clients for so long, each sending one recording after the other, each as a session of its own.

    The audio of a client never pauses: its next recording begins when the last sample of the one before is spoken,
    whether or not the server is done with that. So the load is what it is said to be, however slow the server is.
    Clients begin within one chunk at even distances, each with another recording. Begun sessions are finished.
    """
    cpu_seconds, now = time.process_time(), asyncio.get_running_loop().time
    first = now() + LEAD_SECONDS

    async def client(number: int, start: float) -> list[SessionResult]:
        """number: of its first recording; start: when that begins."""
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
    """Sessions as fast as they go, so many at a time; some are cut off. Hostile clients come beside those, all at once:
    some of them stay for long."""
    room = asyncio.Semaphore(at_a_time)

    async def run(job: Job) -> SessionResult:
        if job.attack:
            return await run_attack(target, job.recording, job.attack)
        async with room:
            return await run_session(target, job.recording, drop=job.drop)

    return await asyncio.gather(*map(run, jobs))
