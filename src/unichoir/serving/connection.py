"""The common part of the two WebSocket protocols: admission, limits, concurrent reading and writing, the end."""

import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import MutableMapping
from typing import Any, ClassVar

import anyio
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from unichoir.errors import UnichoirError
from unichoir.serving.engine import Busy, Draining, Engine
from unichoir.serving.errors import ApiError
from unichoir.serving.logs import log_event, log_failure
from unichoir.serving.security import REALTIME_SUBPROTOCOL, check_access, subprotocols
from unichoir.serving.session import Event, Failed, Session, SessionExpired
from unichoir.transcript.results import StreamResult

SEND_TIMEOUT = 20.0
"""Seconds that a client has to take one message."""
CLOSE_CODES = {"completed": 1000, "server_error": 1011}
"""WebSocket close codes by outcome; 1008 for the others, and 1001 instead of 1000 when the server stops."""
OUTCOMES = {
    "completed": "The session has ended. 1001 if the server is about to stop.",
    "client_closed": "The client went away first.",
    "invalid_request_error": "The client sent a message that the protocol doesn't allow, or audio that can't be used.",
    "idle_timeout": "The client sent nothing for `--idle-timeout`.",
    "session_expired": "The session had more audio than `--max-session-minutes`.",
    "too_slow": "The client didn't read its results.",
    "server_error": "The server failed. Its log says why.",
}
"""How sessions end, in metrics and logs."""


class ProtocolError(UnichoirError):
    """A message that the protocol doesn't allow. It ends the session."""


def parse_json(text: str) -> Any:
    """Return the value of JSON text.

    Raises ValueError for invalid JSON, deep nesting, and half of a surrogate pair, which cannot be sent back.
    """
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


class Connection(ABC):
    """One WebSocket client and its live session."""

    protocol: ClassVar[str]
    """The name of the protocol in metrics and logs."""

    def __init__(self, websocket: WebSocket, engine: Engine, session: Session) -> None:
        self.websocket = websocket
        self.engine = engine
        self.session = session
        self.outcome = "completed"

    @abstractmethod
    async def greet(self) -> None:
        """Send the greeting. Raises ProtocolError for a client that cannot be served."""

    @abstractmethod
    async def receive(self, message: str | bytes) -> None:
        """Handle a client's message. Raises ProtocolError for a message that ends the session."""

    @abstractmethod
    async def handle(self, event: Event) -> bool:
        """Handle an event of the engine. Return False after the last one."""

    @abstractmethod
    async def send_error(self, message: str, code: str) -> None:
        """Send the reason why the session ends."""

    async def send(self, message: dict[str, Any]) -> None:
        """Send one message as JSON. Raises WebSocketDisconnect if the client doesn't take it."""
        with anyio.move_on_after(SEND_TIMEOUT) as scope:
            await self.websocket.send_text(json.dumps(message, ensure_ascii=False))
        if scope.cancelled_caught:
            self.outcome = "too_slow"
            raise WebSocketDisconnect(1008)

    async def run(self) -> None:
        """Serve the client from the greeting to the end."""
        try:
            await self.greet()
        except ProtocolError as error:
            await self._fail(str(error), "invalid_request_error")
            return
        async with anyio.create_task_group() as group:
            group.start_soon(self._write, group.cancel_scope)
            await self._read()
            group.cancel_scope.cancel()

    async def _read(self) -> None:
        """Read messages until the client leaves or a message ends the session."""
        try:
            while True:
                message = await self._next_message()
                if message is None or message["type"] == "websocket.disconnect":
                    self.outcome = self.outcome if message is None else "client_closed"
                    return
                text = message.get("text")
                content = message["bytes"] if text is None else text
                self._check_size(content)
                await self.receive(content)
        except SessionExpired as error:
            await self._fail(str(error), "session_expired")
        except ProtocolError as error:
            await self._fail(str(error), "invalid_request_error")
        except WebSocketDisconnect:
            self.outcome = "client_closed"

    def _check_size(self, content: str | bytes) -> None:
        size, most = len(content), self.engine.settings.max_message_bytes
        if size > most:
            raise ProtocolError(f"a message of {size} bytes is too long: this server takes {most} bytes in one")

    async def _next_message(self) -> MutableMapping[str, Any] | None:
        """Return the next message; None after `idle_timeout`, unless the client has ended the input."""
        while True:
            with anyio.move_on_after(self.engine.settings.idle_timeout):
                return await self.websocket.receive()
            if not self.session.is_finished:
                await self._fail(f"nothing came for {self.engine.settings.idle_timeout:g} s", "idle_timeout")
                return None

    async def _write(self, scope: anyio.CancelScope) -> None:
        """Send events until the last one, then stop reading."""
        try:
            async for event in self.session.events():
                if self.engine.settings.log_text and isinstance(event, StreamResult) and event.is_final:
                    log_event("final_result", protocol=self.protocol, text=event.text, end_ms=event.end_ms)
                if isinstance(event, Failed):
                    await self._fail(event.message, event.code)
                elif not await self.handle(event):
                    break
        except WebSocketDisconnect:
            self.outcome = "client_closed" if self.outcome == "completed" else self.outcome
        scope.cancel()

    async def _fail(self, message: str, code: str) -> None:
        self.outcome = code
        with contextlib.suppress(WebSocketDisconnect):
            await self.send_error(message, code)


async def serve_websocket(kind: type[Connection], websocket: WebSocket) -> None:
    """Admit a client, serve it to the end, and release its resources."""
    engine: Engine = websocket.app.state.engine
    try:
        check_access(websocket, engine.settings)
        session = engine.open_session()
    except (ApiError, Busy, Draining) as error:
        await _refuse(websocket, engine, error)
        return
    connection = kind(websocket, engine, session)
    try:
        offered = subprotocols(websocket)
        await websocket.accept(REALTIME_SUBPROTOCOL if REALTIME_SUBPROTOCOL in offered else None)
        await connection.run()
    except WebSocketDisconnect:
        connection.outcome = "client_closed"
    except Exception as error:
        connection.outcome = "server_error"
        log_failure("connection_error", error, protocol=kind.protocol)
    finally:
        session.close()
        with anyio.CancelScope(shield=True):
            await _close(websocket, connection)
        _record(connection)


async def _refuse(websocket: WebSocket, engine: Engine, error: ApiError | Busy | Draining) -> None:
    if not isinstance(error, ApiError):
        code = "server_busy" if isinstance(error, Busy) else "server_draining"
        error = ApiError(503, str(error), code=code, kind="server_error", retry_after=5)
    engine.metrics.refusals.labels(error.code).inc()
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        await websocket.send_denial_response(error.to_response())


async def _close(websocket: WebSocket, connection: Connection) -> None:
    if WebSocketState.DISCONNECTED in (websocket.client_state, websocket.application_state):
        return
    drained = connection.outcome == "completed" and connection.engine.is_draining
    code = 1001 if drained else CLOSE_CODES.get(connection.outcome, 1008)
    with anyio.move_on_after(SEND_TIMEOUT), contextlib.suppress(WebSocketDisconnect, RuntimeError):
        await websocket.close(code)


def _record(connection: Connection) -> None:
    session, metrics = connection.session, connection.engine.metrics
    latency = session.latency.report()
    metrics.observe(latency)
    metrics.sessions_ended.labels(connection.protocol, connection.outcome).inc()
    log_event(
        "session_ended",
        protocol=connection.protocol,
        outcome=connection.outcome,
        audio_seconds=round(session.accepted_ms / 1000, 3),
        latency=latency.to_dict(),
    )
