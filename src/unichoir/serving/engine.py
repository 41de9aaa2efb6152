"""The engine's thread: one recogniser for all live sessions and all recordings.

The event loop only puts audio into inboxes and takes events out of mailboxes. The thread takes what has arrived, steps
all streams that have a chunk through the encoder together, and, where no stream is ready, goes on by one piece of one
recording. So a live session waits for one step or one piece at most, and no computation ever holds up the event loop.
"""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from unichoir.audio.io import Samples
from unichoir.decoding.options import DecodingOptions
from unichoir.decoding.recognizer import Recognizer
from unichoir.decoding.transcript import Segment
from unichoir.errors import UnichoirError
from unichoir.serving.hotwords import Builder
from unichoir.serving.live import LiveStream
from unichoir.serving.logs import log_failure
from unichoir.serving.metrics import Metrics
from unichoir.serving.session import Event, Session
from unichoir.serving.settings import Settings

PIECE_INTERVAL = 1.0
"""Seconds after which a recording goes on by a piece even while streams are ready."""


class Busy(UnichoirError):
    """There is no room for one more session or recording."""


class Draining(UnichoirError):
    """The server is about to stop and takes nothing new."""


@dataclass(frozen=True)
class Piece:
    """One piece of a recording."""

    segment: Segment
    seconds: float
    """Where it ends."""


class _Job:
    """A recording in work."""

    def __init__(self, pieces: Iterator[tuple[Segment, float]], deliver: Callable[[Any], None]) -> None:
        self.pieces = pieces
        self.deliver = deliver
        self.position = 0.0
        self.is_abandoned = False


class Engine:
    """Sessions and recordings of one server. All methods are for the thread of the event loop in which it started."""

    def __init__(self, recognizer: Recognizer, settings: Settings, metrics: Metrics) -> None:
        self.recognizer = recognizer
        self.settings = settings
        self.metrics = metrics
        self.hotwords = Builder(recognizer)
        self.sessions: set[Session] = set()
        self.is_draining = False
        self._jobs: deque[_Job] = deque()
        self._num_jobs = 0
        self._live: dict[Session, LiveStream] = {}
        self._wake = threading.Condition()
        self._arrived: dict[Session, None] = {}
        self._stopping = False
        self._last_piece = 0.0
        metrics.sessions.set_function(lambda: len(self.sessions))
        metrics.uploads.set_function(lambda: self._num_jobs)
        metrics.queue_seconds.set_function(lambda: sum(session.backlog_ms for session in self.sessions) / 1000)
        self._thread = threading.Thread(target=self._run, name="unichoir-engine", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_alive(self) -> bool:
        """Whether the thread works."""
        return self._thread.is_alive()

    @property
    def is_idle(self) -> bool:
        """Whether there is neither a session nor a recording."""
        return not self.sessions and not self._num_jobs

    def start(self) -> None:
        """Start the thread, for the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Stop the thread after what it is doing now; sessions that are open get nothing more."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)

    def open_session(self) -> Session:
        """A new live session, with the server's own options. Raises Busy and Draining."""
        self._check_draining()
        if len(self.sessions) >= self.settings.max_sessions:
            raise Busy(f"all {self.settings.max_sessions} sessions of this server are taken")
        session = Session(self.settings, self._notify, self.sessions.discard)
        self.sessions.add(session)
        return session

    async def transcribe(self, samples: Samples, options: DecodingOptions) -> AsyncGenerator[Piece, None]:
        """Recognise a recording, piece by piece; samples (N,) at the model's rate.

        Leaving the loop abandons what is left. Raises Busy, Draining, and UnichoirError for what cannot be recognised.
        """
        self._check_draining()
        if self._num_jobs >= self.settings.max_waiting_uploads:
            raise Busy(f"{self._num_jobs} recordings are waiting already")
        results: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()
        job = _Job(self.recognizer.recognize_by_piece(samples, options), results.put_nowait)
        self._num_jobs += 1
        with self._wake:
            self._jobs.append(job)
            self._wake.notify()
        try:
            while (result := await results.get()) is not None:
                if isinstance(result, Exception):
                    raise result
                yield result
        finally:
            job.is_abandoned = True
            self._num_jobs -= 1

    def drain(self) -> None:
        """Take nothing new, and end the input of all open sessions: they get their last results."""
        self.is_draining = True
        for session in list(self.sessions):
            session.finish()

    def _check_draining(self) -> None:
        if self.is_draining:
            raise Draining("this server is about to stop and takes nothing new")

    def _notify(self, session: Session) -> None:
        with self._wake:
            self._arrived[session] = None
            self._wake.notify()

    # What follows runs in the engine's thread.

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (
                    self._arrived or self._jobs or self._stopping or any(live.is_ready for live in self._live.values())
                ):
                    self._wake.wait()
                if self._stopping:
                    return
                arrived, self._arrived = self._arrived, {}
            try:
                self._take(arrived)
                ready = [live for live in self._live.values() if live.is_ready]
                if ready:
                    self._step(ready[: self.settings.max_batch])
                if self._jobs and (not ready or time.monotonic() - self._last_piece > PIECE_INTERVAL):
                    self._recognize_piece(self._jobs.popleft())
            except Exception as error:  # the thread outlives whatever it may be
                log_failure("engine_error", error)

    def _take(self, arrived: Iterable[Session]) -> None:
        """Take what has arrived in the sessions."""
        for session in arrived:
            if session.is_over:
                continue
            live = self._live.get(session) or LiveStream(self.recognizer, session)
            self._live[session] = live
            self._guarded(live, live.take)
        self._deliver([self._live[session] for session in arrived if session in self._live])

    def _step(self, ready: list[LiveStream]) -> None:
        """Go on by one chunk of each; those that come first now come last the next time."""
        start = time.perf_counter()
        heard_ms = sum(live.heard_ms for live in ready)
        try:
            self.recognizer.decode_streams([live.stream for live in ready])
        except Exception:  # because of one of them, perhaps: the others do not pay for it
            for live in ready:
                self._guarded(live, partial(self.recognizer.decode_streams, [live.stream]))
        for live in ready:
            self._guarded(live, live.collect)
            self._live[live.session] = self._live.pop(live.session)
        seconds = time.perf_counter() - start
        self.metrics.batch_size.observe(len(ready))
        self.metrics.step_seconds.observe(seconds)
        self.metrics.compute_seconds.inc(seconds)
        self.metrics.audio_seconds.inc(max(sum(live.heard_ms for live in ready) - heard_ms, 0) / 1000)
        self._deliver(ready)

    def _guarded(self, live: LiveStream, action: Callable[[], None]) -> None:
        """What fails for one session ends that session."""
        if live.is_over:
            return
        try:
            action()
        except Exception as error:
            if not isinstance(error, UnichoirError):
                log_failure("session_error", error)
            live.fail(str(error) if isinstance(error, UnichoirError) else "the recogniser has failed")

    def _deliver(self, lives: Iterable[LiveStream]) -> None:
        """Hand the events of these to the event loop, and let go of those that are over."""
        letters = []
        for live in lives:
            letters.append((live.session, live.events, live.heard_ms))
            live.events = []
            if live.is_over:
                live.session.is_over = True
                del self._live[live.session]
        self._call(partial(_hand_over, letters))

    def _recognize_piece(self, job: _Job) -> None:
        """Go on with one recording by one piece; the next piece is that of the next recording."""
        start = time.perf_counter()
        outcome: Piece | Exception | None = None
        try:
            if not job.is_abandoned:
                found = next(job.pieces, None)
                if found is not None:
                    outcome = Piece(*found)
                    self.metrics.audio_seconds.inc(outcome.seconds - job.position)
                    job.position = outcome.seconds
                    self._jobs.append(job)
        except Exception as error:
            if not isinstance(error, UnichoirError):
                log_failure("recording_error", error)
                error = UnichoirError("the recogniser has failed")
            outcome = error
        self._last_piece = time.monotonic()
        self.metrics.compute_seconds.inc(time.perf_counter() - start)
        self._call(partial(job.deliver, outcome))

    def _call(self, function: Callable[[], None]) -> None:
        """Have the event loop call it. When the loop is closed there is no one left to hear of it."""
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function)


def _hand_over(letters: list[tuple[Session, list[Event], float]]) -> None:
    for session, events, heard_ms in letters:
        session.deliver(events, heard_ms)
