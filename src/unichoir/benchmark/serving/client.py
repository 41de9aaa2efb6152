"""A client that runs one session in WeNet's protocol and measures it; called by `load`."""

import asyncio
import json
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import ProxyHandler, build_opener

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.typing import Origin

from unichoir.benchmark.serving.recordings import SAMPLE_RATE, Recording, join_texts
from unichoir.errors import UnichoirError

BLOCK_SECONDS = 0.1
"""Audio per message."""
PATIENCE_SECONDS = 30.0
"""A session fails if it is not over this long after its last audio was due."""
START = {"signal": "start", "nbest": 1, "continuous_decoding": True}
END = {"signal": "end"}

Outcome = Literal["completed", "refused", "failed", "dropped", "repelled"]
"""refused: the server rejected it before any audio; dropped: the client cut it off on purpose; repelled: a hostile
client, which the server refused or cut off as it should."""
Drop = Literal["before audio", "in audio"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """The server to measure."""

    url: str
    """The WebSocket address for WeNet's protocol: ws:// or wss://."""
    api_key: str = ""

    def fetch(self, path: str, timeout: float) -> str:
        """Fetch a page by HTTP. Raises UnichoirError without a response, urllib's HTTPError for an error status."""
        parts = urlsplit(self.url)
        address = urlunsplit(("https" if parts.scheme == "wss" else "http", parts.netloc, path, "", ""))
        try:
            with build_opener(ProxyHandler({})).open(address, timeout=timeout) as answer:
                content: bytes = answer.read()
        except HTTPError:
            raise
        except (OSError, HTTPException) as error:
            raise UnichoirError(f"{address}: {getattr(error, 'reason', error)}") from None
        return content.decode("utf-8", "replace")

    def connect(self, origin: str | None = None) -> connect:
        """Open a WebSocket without timeouts, because sessions have their own. origin: the Origin header to send."""
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else None
        return connect(
            self.url,
            origin=None if origin is None else Origin(origin),
            additional_headers=headers,
            compression=None,
            proxy=None,
            open_timeout=None,
            ping_interval=None,
            close_timeout=2,
        )


@dataclass(frozen=True, kw_only=True)
class SessionResult:
    """The outcome of a session; times in seconds."""

    key: str
    """The key of its recording."""
    outcome: Outcome
    reason: str = ""
    """The reason if it was not completed."""
    reference: str = ""
    expected: str = ""
    text: str = ""
    """The joined text of its final results."""
    audio_seconds: float = 0.0
    """The audio sent."""
    first_partial: float | None = None
    """From sending the last audio of the first word to the first result with words; negative if the word was recognised
    before its end. None if there were no words, or none were recognised."""
    final_latency: float | None = None
    """From sending the end to the last final result, or to speech_end if no final result followed the end."""
    partial_intervals: tuple[float, ...] = ()
    """From one partial or final result to the next, until the end was sent."""
    lateness: tuple[float, ...] = ()
    """For each block, from the end of its audio in real time to the moment it was sent."""

    @property
    def is_right(self) -> bool:
        """Whether the session was completed with the same words as a single stream."""
        return self.outcome == "completed" and self.text == self.expected


class Refusal(Exception):
    """The server refused the session."""


class Misbehaviour(Exception):
    """The server violated the protocol or reported a failure."""


async def run_session(
    target: Target, recording: Recording, start: float | None = None, drop: Drop | None = None
) -> SessionResult:
    """Send a recording in a session and wait for its end; the result reports all failures.

    start: send the audio in real time from this moment on, by the event loop's clock; None: as fast as possible.
    drop: cut the connection, without closing it, before the first audio or in the middle.
    """
    talk = _Talk(recording, start)
    delay = max(start - asyncio.get_running_loop().time(), 0) if start is not None else 0.0
    outcome: Outcome = "completed" if drop is None else "dropped"
    reason = ""
    try:
        await asyncio.wait_for(talk.run(target, drop), delay + recording.seconds + PATIENCE_SECONDS)
    except Refusal as error:
        outcome, reason = "refused", str(error)
    except InvalidStatus as error:
        outcome, reason = "refused", f"HTTP {error.response.status_code}"
    except asyncio.TimeoutError:
        outcome, reason = "failed", f"not finished {PATIENCE_SECONDS:g} s after its last audio was due"
    except (Misbehaviour, WebSocketException, OSError) as error:
        outcome, reason = "failed", str(error) or type(error).__name__
    return talk.result(outcome, reason)


class _Talk:
    """A running session with two tasks: one sends, the other receives."""

    def __init__(self, recording: Recording, start: float | None) -> None:
        self._recording = recording
        self._start = start
        self._now = asyncio.get_running_loop().time
        self._sent_seconds = 0.0
        self._lateness: list[float] = []
        self._word_sent: float | None = None
        self._end_sent: float | None = None
        self._results: list[float] = []
        self._first_words: float | None = None
        self._finals: list[str] = []
        self._final_at = self._over_at = 0.0

    async def run(self, target: Target, drop: Drop | None) -> None:
        async with target.connect() as socket:
            await socket.send(json.dumps(START))
            await self._receive_ready(socket)
            if drop:
                await self._send_audio(socket, self._recording.seconds / 2 if drop == "in audio" else 0.0)
                socket.transport.abort()
                return
            sending = asyncio.ensure_future(self._send(socket))
            try:
                await self._receive(socket)
            finally:
                # Both tasks notice a lost connection, but only this one has read the messages before it.
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    async def _receive_ready(self, socket: ClientConnection) -> None:
        try:
            kind, _ = parse_message(await socket.recv())
        except Misbehaviour as error:
            raise Refusal(str(error)) from None
        if kind != "server_ready":
            raise Misbehaviour(f"{kind} before server_ready")

    async def _send(self, socket: ClientConnection) -> None:
        await self._send_audio(socket, self._recording.seconds)
        self._end_sent = self._now()  # taken before sending: the answer may arrive before this task continues
        await socket.send(json.dumps(END))

    async def _send_audio(self, socket: ClientConnection, seconds: float) -> None:
        """Send the first `seconds` of the recording; in real time, each block is sent when its last sample is due."""
        samples, size = self._recording.samples.astype("<i2"), round(BLOCK_SECONDS * SAMPLE_RATE)
        last = min(round(seconds * SAMPLE_RATE), len(samples))
        for begin in range(0, last, size):
            end = min(begin + size, last)
            due = None if self._start is None else self._start + end / SAMPLE_RATE
            if due is not None:
                await asyncio.sleep(max(due - self._now(), 0))
            await socket.send(samples[begin:end].tobytes())
            now, self._sent_seconds = self._now(), end / SAMPLE_RATE
            if due is not None:
                self._lateness.append(now - due)
            word_end = self._recording.first_word_end
            # A word at the very end of the audio may end up to a millisecond after it, by rounding.
            if word_end is not None and self._word_sent is None and (word_end <= self._sent_seconds or end == last):
                self._word_sent = now

    async def _receive(self, socket: ClientConnection) -> None:
        while True:
            kind, sentence = parse_message(await socket.recv())
            now = self._now()
            if kind == "speech_end":
                if self._end_sent is None:
                    raise Misbehaviour("speech_end before the end of the audio")
                self._over_at = now
                return
            if kind == "server_ready":
                raise Misbehaviour("server_ready twice")
            self._results.append(now)
            if sentence and self._first_words is None:
                self._first_words = now
            if kind == "final_result":
                self._finals.append(sentence)
                self._final_at = now

    def result(self, outcome: Outcome, reason: str) -> SessionResult:
        first_partial = final_latency = None
        if self._first_words is not None and self._word_sent is not None:
            first_partial = self._first_words - self._word_sent
        if outcome == "completed" and self._end_sent is not None:
            last = self._final_at if self._final_at >= self._end_sent else self._over_at
            final_latency = last - self._end_sent
        while_speaking = [at for at in self._results if self._end_sent is None or at <= self._end_sent]
        return SessionResult(
            key=self._recording.key,
            outcome=outcome,
            reason=reason,
            reference=self._recording.reference,
            expected=self._recording.expected,
            text=join_texts(self._finals),
            audio_seconds=self._sent_seconds,
            first_partial=first_partial,
            final_latency=final_latency,
            partial_intervals=tuple(np.diff(while_speaking).tolist()),
            lateness=tuple(self._lateness),
        )


def parse_message(message: str | bytes) -> tuple[str, str]:
    """Return the type of a server's message and, for a result, its best sentence.

    Raises Misbehaviour for messages that violate the protocol, and for failures that the server reports.
    """
    content: Any
    try:
        content = json.loads(message) if isinstance(message, str) else None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise Misbehaviour(f"not a message of the protocol: {message[:60]!r}")
    if content.get("status") != "ok":
        raise Misbehaviour(f"the server reports: {content.get('message')}")
    kind = content.get("type")
    if kind in ("server_ready", "speech_end"):
        return str(kind), ""
    if kind not in ("partial_result", "final_result"):
        raise Misbehaviour(f"unknown message type {kind!r}")
    try:
        sentence = json.loads(content["nbest"])[0]["sentence"]
    except (KeyError, IndexError, TypeError, ValueError, RecursionError):
        sentence = None
    if not isinstance(sentence, str):
        raise Misbehaviour(f"{kind} without a sentence: {message[:60]!r}")
    return str(kind), sentence
