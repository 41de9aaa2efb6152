"""A live session in the event loop: an inbox for audio and a mailbox of events."""

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
"""Longest audio that the engine's thread takes at once."""
MAX_EVENTS = 256
"""Most events that wait for a client to read them."""


class SessionExpired(UnichoirError):
    """The session has more audio than it may have."""


@dataclass(frozen=True)
class Audio:
    """int16 samples (N,), with their rate in Hz."""

    samples: NDArray[np.int16]
    sample_rate: int


@dataclass(frozen=True)
class Failed:
    """The session has failed."""

    message: str
    code: str = "server_error"


Signal = Literal["commit", "clear", "finish", "abandon"]
"""commit: end the utterance and begin another. clear: drop the open utterance. finish: end the input."""
Item: TypeAlias = Audio | Signal | StreamingOptions
"""An entry of the inbox, in order."""
Mark = Literal["committed", "cleared", "ended"]
"""The acknowledgement of a signal, in order with the results."""
Event: TypeAlias = "StreamResult | Mark | Failed"


class Session:
    """One live session. Call all methods in the event loop's thread.

    notify: tells the engine about new items. forget: called once, when the session is closed.
    """

    def __init__(
        self,
        settings: Settings,
        notify: Callable[["Session"], None],
        forget: Callable[["Session"], None],
    ) -> None:
        self.options = settings.streaming
        """The options of the last `configure`."""
        self.is_over = False
        """Set by the engine's thread when it takes no more items."""
        self.scorer: object = None
        """Keeps what `hotwords.Builder` has prepared for the options alive."""
        self.latency = LatencyMeter()
        self.inbox: deque[Item] = deque()
        """The engine's thread takes items from the left."""
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
        """Audio that waits to be recognised, in ms."""
        return self.accepted_ms - self._heard_ms

    def configure(self, options: StreamingOptions) -> None:
        """Set the options for what follows. Call this before audio, or after `commit` or `clear`."""
        self.options = options
        self._put(options)

    async def send(self, samples: NDArray[np.int16], sample_rate: int) -> None:
        """Add int16 samples (N,). Waits while the backlog of the session is too long.

        Raises SessionExpired if the session is too long. After `finish`, samples are ignored.
        """
        if self._input_ended or not len(samples):
            return
        # In short blocks: other sessions wait while the engine's thread takes one.
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
        """End the utterance here. "committed" follows its last final result."""
        self._put("commit")

    def clear(self) -> None:
        """Drop the utterance so far. "cleared" follows."""
        self._put("clear")

    def finish(self) -> None:
        """End the input. "ended" follows the last final result. Further calls have no effect."""
        if not self._input_ended:
            self._input_ended = True
            self.latency.finished(time.monotonic())
            self._put("finish")

    def close(self) -> None:
        """End the session. Further calls have no effect."""
        if not self._is_closed:
            self._is_closed = self._input_ended = True
            self._has_room.set()
            self._put("abandon")
            self._forget(self)

    async def events(self) -> AsyncIterator[Event]:
        """Yield results and marks, up to "ended" or Failed. Partial results are dropped if there is a newer one."""
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
        """Add the engine's events about the audio up to `heard_ms`."""
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
