"""An engine thread: it steps the streams of its share of the live sessions through the encoder together."""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

from unichoir.errors import UnichoirError
from unichoir.recognition.recognizer import Recognizer
from unichoir.serving.background import Background
from unichoir.serving.live import LiveStream
from unichoir.serving.logs import log_failure
from unichoir.serving.metrics import Metrics
from unichoir.serving.session import Event, Failed, Session


class Stepper:
    """One of the threads that step live sessions. They share the recogniser, the background and the metrics.

    max_batch: most streams in one call of the encoder; on_death: called in the thread if an exception has ended it.
    """

    def __init__(
        self,
        number: int,
        recognizer: Recognizer,
        max_batch: int,
        background: Background,
        metrics: Metrics,
        on_death: Callable[[BaseException], None],
    ) -> None:
        self.sessions: set[Session] = set()
        """Its share of the open sessions. Only the event loop's thread uses it."""
        self._recognizer = recognizer
        self._max_batch = max_batch
        self._background = background
        self._metrics = metrics
        self._on_death = on_death
        self._live: dict[Session, LiveStream] = {}
        self._wake = threading.Condition()
        self._arrived: dict[Session, None] = {}
        self._finished: deque[tuple[LiveStream, Exception | None]] = deque()
        """Streams whose final result is ready."""
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"unichoir-engine-{number}", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the thread. loop: in it, sessions get their events."""
        self._loop = loop
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread after its current step, and wait for it."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def notify(self, session: Session) -> None:
        """Tell the thread that something is in the session's inbox."""
        with self._wake:
            self._arrived[session] = None
            self._wake.notify()

    # What follows runs in the thread.

    def _run(self) -> None:
        try:
            ready: list[LiveStream] = []
            while True:
                with self._wake:
                    while not (self._arrived or self._finished or self._stopping or ready):
                        self._wake.wait()
                    if self._stopping:
                        return
                    arrived, self._arrived = self._arrived, {}
                    finished, self._finished = self._finished, deque()
                self._take(arrived)
                self._take_finals(finished)
                if ready := self._find_ready():
                    self._step(ready[: self._max_batch])
                    ready = self._find_ready()
        except BaseException as error:
            self._on_death(error)

    def _find_ready(self) -> list[LiveStream]:
        ready, failed = [], []
        for live in self._live.values():
            self._guarded(live, live.look)
            if live.is_over:
                failed.append(live)
            elif live.is_ready:
                ready.append(live)
        self._deliver(failed)
        return ready

    def _take(self, arrived: Iterable[Session]) -> None:
        """Take audio and signals from the inboxes of these sessions."""
        for session in arrived:
            if session.is_over:
                continue
            live = self._live.get(session) or self._begin(session)
            if live is not None:
                self._live[session] = live
                self._guarded(live, live.take)
        self._deliver([self._live[session] for session in arrived if session in self._live])

    def _begin(self, session: Session) -> LiveStream | None:
        """Begin a session's stream. Return None, and tell the session, if that fails."""
        try:
            return LiveStream(self._recognizer, session)
        except Exception as error:
            session.is_over = True
            self._call(partial(_hand_over, [(session, [Failed(_reason(error))], 0.0)]))
            return None

    def _take_finals(self, finished: Iterable[tuple[LiveStream, Exception | None]]) -> None:
        """Take the final results that are ready, and continue these streams."""
        lives = []
        for live, error in finished:
            if not live.is_over:
                self._guarded(live, live.take_final if error is None else partial(_raise, error))
                lives.append(live)
        self._deliver(lives)

    def _step(self, ready: list[LiveStream]) -> None:
        """Decode one chunk of each stream, and move these streams to the end of the queue."""
        start = time.perf_counter()
        heard_ms = sum(live.heard_ms for live in ready)
        try:
            self._recognizer.streams.decode_streams([live.stream for live in ready])
        except Exception:  # one of them may be the cause: try each alone
            for live in ready:
                self._guarded(live, partial(self._recognizer.streams.decode_streams, [live.stream]))
        for live in ready:
            self._guarded(live, live.collect)
            self._live[live.session] = self._live.pop(live.session)
        seconds = time.perf_counter() - start
        self._metrics.batch_size.observe(len(ready))
        self._metrics.step_seconds.observe(seconds)
        self._metrics.compute_seconds.inc(seconds)
        self._metrics.audio_seconds.inc(max(sum(live.heard_ms for live in ready) - heard_ms, 0) / 1000)
        self._deliver(ready)

    def _guarded(self, live: LiveStream, action: Callable[[], None]) -> None:
        """Call `action`. If it fails, only this session ends."""
        if live.is_over:
            return
        try:
            action()
        except Exception as error:
            live.fail(_reason(error))

    def _deliver(self, lives: Iterable[LiveStream]) -> None:
        """Pass events to the event loop, request final results, and drop streams that are over."""
        letters = []
        for live in lives:
            if live.awaits_final:
                live.awaits_final = False
                self._background.add_final(partial(self._find_final, live))
            letters.append((live.session, live.events, live.heard_ms))
            live.events = []
            if live.is_over:
                live.session.is_over = True
                self._live.pop(live.session, None)
        if letters:  # a call wakes the event loop
            self._call(partial(_hand_over, letters))

    def _call(self, function: Callable[[], None]) -> None:
        assert self._loop is not None
        call_soon(self._loop, function)

    # What follows runs in the background.

    def _find_final(self, live: LiveStream) -> None:
        """Find the final result of an utterance. Nothing else uses the stream until the engine takes the result."""
        start, error = time.perf_counter(), None
        try:
            if not live.is_over:
                self._recognizer.streams.get_result(live.stream)  # the stream keeps it
        except Exception as raised:
            error = raised
        self._metrics.compute_seconds.inc(time.perf_counter() - start)
        with self._wake:
            self._finished.append((live, error))
            self._wake.notify()


def call_soon(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    """Call `function` in the event loop from another thread, unless the loop is closed."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function)


def _reason(error: Exception) -> str:
    """Return the reason that the client gets. Details of unexpected errors go to the log."""
    if isinstance(error, UnichoirError):
        return str(error)
    log_failure("session_error", error)
    return "the recogniser has failed"


def _raise(error: Exception) -> None:
    raise error


def _hand_over(letters: list[tuple[Session, list[Event], float]]) -> None:
    for session, events, heard_ms in letters:
        session.deliver(events, heard_ms)
