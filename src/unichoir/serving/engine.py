"""The engine: one recogniser for all live sessions and all recordings, in several threads.

The event loop only puts audio into inboxes and takes events out of mailboxes. Each engine thread (`Stepper`) has a
share of the sessions: it takes their audio and steps all of its streams with a full chunk through the encoder together.
Longer work runs in other threads (`Background`): the final results of utterances, and pieces of recordings. A live
session therefore waits for at most one step of the other sessions, and computation never blocks the event loop.
"""

import asyncio
import math
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from unichoir.audio.decoders import BLOCK_FRAMES
from unichoir.audio.io import MAX_CHANNELS, Samples
from unichoir.errors import ConfigError, UnichoirError
from unichoir.recognition.options import DecodingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.serving.background import Background
from unichoir.serving.hotwords import Builder
from unichoir.serving.logs import log_failure
from unichoir.serving.metrics import Metrics
from unichoir.serving.session import Failed, Session
from unichoir.serving.settings import Settings
from unichoir.serving.stepper import Stepper, call_soon
from unichoir.transcript.segments import Segment

DEATH = "the recogniser has stopped working: the server ends"
SAMPLE_BYTES = 4
PIECES_HELD = 8
"""Most copies of a recording's longest piece that are in memory while the recording is cut."""
BLOCK_BYTES = 2 * MAX_CHANNELS * BLOCK_FRAMES * SAMPLE_BYTES
"""Size of a block from the decoder, and of its copy."""

Blocks = Callable[[threading.Event], Iterable[Samples]]
"""Yields the samples of a recording in blocks (N,), and raises an exception when the event is set."""


class Busy(UnichoirError):
    """The server has no room for another session or recording."""


class Draining(UnichoirError):
    """The server is about to stop, and takes nothing new."""


@dataclass(frozen=True)
class Piece:
    """One piece of a recording."""

    segment: Segment
    seconds: float
    """The end of the piece."""


class _Job:
    """A recording that is being recognised."""

    def __init__(self) -> None:
        self.pieces: Iterator[tuple[Segment, float]] = iter(())
        self.results: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()
        self.position = 0.0
        self.stop = threading.Event()
        """Set when the results are no longer wanted."""
        self.ended = asyncio.Event()
        """Set when no thread uses the job any more."""
        self.scorer: object = None
        """Keeps what the searches need alive."""

    def deliver(self, outcome: "Piece | Exception | None") -> None:
        """Pass on the outcome of a task. Everything but a piece ends the job."""
        if not isinstance(outcome, Piece):
            self.ended.set()
        self.results.put_nowait(outcome)


class Engine:
    """The sessions and recordings of one server. Call all methods in the thread of the event loop that started it.

    Raises ConfigError if a single recording may need more memory than the settings allow for all.
    """

    def __init__(self, recognizer: Recognizer, settings: Settings, metrics: Metrics) -> None:
        self.recognizer = recognizer
        self.settings = settings
        self.metrics = metrics
        self.hotwords = Builder(recognizer)
        self.is_draining = False
        self.on_death: Callable[[], None] = lambda: None
        """Called in the event loop when a thread has died. Recognition has then stopped."""
        self.is_dead = False
        """Whether an exception has ended a thread."""
        self._jobs: set[_Job] = set()
        self._max_jobs = min(settings.max_waiting_uploads, settings.max_decoded_bytes // self._recording_bytes)
        if not self._max_jobs:
            raise ConfigError(
                f"max_decoded_bytes: decoded audio of one recording may take {self._recording_bytes} bytes, by "
                f"max_segment_seconds and max_audio_seconds, but there may be {settings.max_decoded_bytes}"
            )
        # One more than engines: a long utterance doesn't delay the final result of a short one.
        self._background = Background(settings.engines + 1, self._die)
        self.steppers = tuple(
            Stepper(number, recognizer, settings.max_batch, self._background, metrics, self._die)
            for number in range(settings.engines)
        )
        metrics.sessions.set_function(lambda: len(self.sessions))
        metrics.uploads.set_function(lambda: len(self._jobs))
        metrics.queue_seconds.set_function(lambda: sum(session.backlog_ms for session in self.sessions) / 1000)
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def sessions(self) -> list[Session]:
        """All open sessions."""
        return [session for stepper in self.steppers for session in stepper.sessions]

    @property
    def is_alive(self) -> bool:
        """Whether all threads are running."""
        return not self.is_dead and all(stepper.is_alive for stepper in self.steppers)

    @property
    def is_idle(self) -> bool:
        """Whether there are no sessions and no recordings."""
        return not self.sessions and not self._jobs

    @property
    def _recording_bytes(self) -> int:
        """Most memory for the decoded audio of one recording."""
        longest = self.settings.decoding.max_segment_seconds or math.inf
        num_samples = min(longest, self.settings.max_audio_seconds) * self.recognizer.fbank_config.sample_rate
        return round(PIECES_HELD * num_samples * SAMPLE_BYTES) + BLOCK_BYTES

    def start(self) -> None:
        """Start the threads. Call this in the running event loop."""
        self._loop = asyncio.get_running_loop()
        for stepper in self.steppers:
            stepper.start(self._loop)
        self._background.start()

    async def stop(self) -> None:
        """Stop the threads after their current block, piece or step. Open sessions get nothing more."""
        self.abandon()
        stops = [*(stepper.stop for stepper in self.steppers), self._background.stop]
        await asyncio.gather(*map(asyncio.to_thread, stops))
        for job in self._jobs:  # jobs that were waiting
            job.ended.set()

    def open_session(self) -> Session:
        """Open a live session with the server's options, in the engine with the fewest. Raises Busy and Draining."""
        self.check_draining()
        if len(self.sessions) >= self.settings.max_sessions:
            raise Busy(f"all {self.settings.max_sessions} sessions of this server are taken")
        stepper = min(self.steppers, key=lambda each: len(each.sessions))
        session = Session(self.settings, stepper.notify, stepper.sessions.discard)
        stepper.sessions.add(session)
        return session

    async def transcribe(self, blocks: Blocks, options: DecodingOptions) -> AsyncGenerator[Piece, None]:
        """Recognise a recording at the model's rate, decoding one piece at a time.

        If you leave the loop, the rest is abandoned. Leaving waits until no thread reads from `blocks`. Raises Busy,
        Draining, InvalidHotwords, what `blocks` raises, and UnichoirError if recognition fails.
        """
        self.check_draining()
        if len(self._jobs) >= self._max_jobs:
            raise Busy(f"{len(self._jobs)} recordings are waiting already")
        job = _Job()
        self._jobs.add(job)
        try:
            job.scorer = await self.hotwords.prepare(options)
            job.pieces = self.recognizer.recordings.recognize_by_piece(blocks(job.stop), options)
            try:
                self._background.add_piece(partial(self._recognize_piece, job))
                while (result := await job.results.get()) is not None:
                    if isinstance(result, Exception):
                        raise result
                    yield result
            finally:
                job.stop.set()
                await job.ended.wait()
        finally:
            self._jobs.discard(job)

    def drain(self) -> None:
        """Take nothing new, and end the input of all open sessions, which then get their last results."""
        self.is_draining = True
        for session in self.sessions:
            session.finish()

    def abandon(self) -> None:
        """Abandon all recordings, and tell their clients."""
        for job in self._jobs:
            job.stop.set()
            job.results.put_nowait(Draining("this server stopped before the recording was done"))

    def check_draining(self) -> None:
        """Raise Draining if the engine takes nothing new."""
        if self.is_dead:
            raise Draining(DEATH)
        if self.is_draining:
            raise Draining("this server is about to stop and takes nothing new")

    def _end_all(self) -> None:
        """End all sessions and recordings after a thread has died."""
        for job in self._jobs:
            job.deliver(UnichoirError(DEATH))
        for session in self.sessions:
            session.is_over = True
            session.deliver([Failed(DEATH)], session.accepted_ms)
        self.on_death()

    def _call(self, function: Callable[[], None]) -> None:
        assert self._loop is not None
        call_soon(self._loop, function)

    # What follows runs in other threads.

    def _die(self, error: BaseException) -> None:
        """Give up after an exception has ended a thread. Sessions would otherwise wait for ever."""
        self.is_dead = True
        log_failure("engine_died", error)
        self._call(self._end_all)

    def _recognize_piece(self, job: _Job) -> None:
        """Recognise one piece of a recording, and queue the next piece behind those of other recordings."""
        start = time.perf_counter()
        outcome: Piece | Exception | None = None
        try:
            found = None if job.stop.is_set() else next(job.pieces, None)
            if found is not None:
                outcome = Piece(*found)
                self.metrics.audio_seconds.inc(outcome.seconds - job.position)
                job.position = outcome.seconds
        except Exception as error:
            outcome = error
            if not isinstance(error, UnichoirError) and not job.stop.is_set():
                log_failure("recording_error", error)
                outcome = UnichoirError("the recogniser has failed")
        self.metrics.compute_seconds.inc(time.perf_counter() - start)
        if isinstance(outcome, Piece):
            self._background.add_piece(partial(self._recognize_piece, job))
        else:
            job.pieces = iter(())  # close files here: no other thread uses them
        self._call(partial(job.deliver, outcome))
