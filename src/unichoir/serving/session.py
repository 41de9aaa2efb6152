"""A live session as the event loop sees it: an inbox for audio and a mailbox of events."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from unichoir.errors import UnichoirError
from unichoir.recognition.latency import LatencyMeter
from unichoir.recognition.options import StreamingOptions
from unichoir.serving.settings import Settings
from unichoir.transcript.results import StreamResult

MAX_BLOCK_SECONDS = 2.0
"""Of audio that the engine's thread takes at once."""
MAX_EVENTS = 256
"""Final results that wait for a client to read them."""


class SessionExpired(UnichoirError):
    """More audio than one session may have."""


@dataclass(frozen=True)
class Audio:
    """int16 samples (N,); the rate in Hz."""

    samples: NDArray[np.int16]
    sample_rate: int


@dataclass(frozen=True)
class Failed:
    """The session cannot go on."""

    message: str
    code: str = "server_error"


Signal = Literal["commit", "clear", "finish", "abandon"]
"""commit: the utterance ends here and another begins; clear: forget what has not ended; finish: the input is over."""
Item: TypeAlias = Audio | Signal | StreamingOptions
"""What goes to the engine, in order."""
Mark = Literal["committed", "cleared", "ended"]
"""What has become of the signals, in order with the results."""
Event: TypeAlias = "StreamResult | Mark | Failed"


class Session:
    """One live session. All methods are for the event loop's thread.

    notify: tells the engine that something has arrived; forget: called once, when the session is closed.
    """

    def __init__(
        self,
        settings: Settings,
        notify: Callable[["Session"], None],
        forget: Callable[["Session"], None],
    ) -> None:
        self.options = settings.streaming
        """As last configured."""
        self.is_over = False
        """Set by the engine's thread: it takes nothing more."""
        self.scorer: object = None
        """What `hotwords.Builder` has prepared for the options: held here, it is there for the engine."""
        self.latency = LatencyMeter()
        self.inbox: deque[Item] = deque()
        """The engine's thread takes from its left."""
        self.accepted_ms = 0.0
        self._max_backlog_ms = 1000 * settings.max_backlog_seconds
        self._max_ms = 1000 * settings.max_session_seconds
        self._notify = notify
        self._forget = forget
        self._heard_ms = 0.0
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._events: deque[Event] = deque()
        self._has_events = asyncio.Event()
        self._input_ended = self._is_closed = False

    @property
    def is_finished(self) -> bool:
        """Whether its input has ended."""
        return self._input_ended

    @property
    def backlog_ms(self) -> float:
        """Audio that waits to be recognised."""
        return self.accepted_ms - self._heard_ms

    def configure(self, options: StreamingOptions) -> None:
        """The options of what follows: to be called before audio, or after `commit` or `clear`."""
        self.options = options
        self._put(options)

    async def send(self, samples: NDArray[np.int16], sample_rate: int) -> None:
        """Add int16 samples (N,); waits while too much of the session's audio is not recognised yet.

        Raises SessionExpired when the session has become too long. After `finish` nothing is taken any more.
        """
        if self._input_ended or not len(samples):
            return
        # In blocks, since the engine's thread takes each in one go, and all other sessions wait for it.
        size = round(MAX_BLOCK_SECONDS * sample_rate)
        for begin in range(0, len(samples), size):
            block = samples[begin : begin + size]
            self.accepted_ms += 1000 * len(block) / sample_rate
            if self.accepted_ms > self._max_ms:
                raise SessionExpired(f"a session may have {self._max_ms / 1000:g} s of audio")
            self.latency.accepted(self.accepted_ms, time.monotonic())
            self._put(Audio(block, sample_rate))
            if self.backlog_ms > self._max_backlog_ms:
                self._has_room.clear()
                await self._has_room.wait()
            if self._is_closed:
                return

    def commit(self) -> None:
        """End the utterance here; "committed" follows its last final result."""
        self._put("commit")

    def clear(self) -> None:
        """Forget the utterance so far; "cleared" follows."""
        self._put("clear")

    def finish(self) -> None:
        """The input is over; "ended" follows the last final result. Further calls change nothing."""
        if not self._input_ended:
            self._input_ended = True
            self.latency.finished(time.monotonic())
            self._put("finish")

    def close(self) -> None:
        """The client is gone, or has got everything. Further calls change nothing."""
        if not self._is_closed:
            self._is_closed = self._input_ended = True
            self._has_room.set()
            self._put("abandon")
            self._forget(self)

    async def events(self) -> AsyncIterator[Event]:
        """Results and marks, up to "ended" or Failed. A partial result is left out when a newer one is there."""
        while True:
            await self._has_events.wait()
            while self._events:
                event = self._events.popleft()
                if isinstance(event, StreamResult):
                    self.latency.shown(event, time.monotonic())
                yield event
                if event == "ended" or isinstance(event, Failed):
                    return
            self._has_events.clear()

    def deliver(self, events: list[Event], heard_ms: float) -> None:
        """What the engine has made of the audio up to `heard_ms`."""
        self._heard_ms = heard_ms
        if self.backlog_ms <= self._max_backlog_ms:
            self._has_room.set()
        for event in events:
            if self._events and _is_partial(self._events[-1]):
                self._events.pop()
            self._events.append(event)
        if len(self._events) > MAX_EVENTS:
            self._events.clear()
            self._events.append(Failed("results are not read: the client is too slow", "too_slow"))
        if self._events:
            self._has_events.set()

    def _put(self, item: Item) -> None:
        self.inbox.append(item)
        self._notify(self)


def _is_partial(event: Any) -> bool:
    return isinstance(event, StreamResult) and not event.is_final
