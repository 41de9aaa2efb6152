"""Limits of connections that uvicorn lacks: idle connections, slow requests, unread answers, and the number of them."""

import asyncio
import socket
import sys
import time
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from unichoir.errors import UnichoirError
from unichoir.serving.logs import log_event

REQUEST_TIMEOUT = 10.0
"""Seconds between two checks of a connection. A connection that is idle at both is closed."""
MAX_UNREAD_BYTES = 1 << 20
"""Most bytes that wait for a WebSocket client to read them."""
SPARE_FILES = 64
"""Files that are not connections: models, logs, uploads on disk, the event loop's own."""
TELL_SECONDS = 60.0
"""Seconds between two log lines about too many connections."""


class ImpatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with a limit: a request must arrive within `2 * REQUEST_TIMEOUT` seconds."""

    _timer: asyncio.TimerHandle | None = None
    _idle_since: Any = None
    """uvicorn's `cycle` (request and response) when the connection was last idle."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to check the new connection."""
        super().connection_made(transport)
        self._look(first=True)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the checks."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close the connection. A server that stops doesn't wait for the rest of a request."""
        super().shutdown()
        if self.cycle is not None and self.cycle.more_body and not self.cycle.response_started:
            self.transport.abort()

    def _look(self, first: bool = False) -> None:
        if self.transport.is_closing() or self.transport.get_protocol() is not self:  # now a WebSocket
            return
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and not first and self._idle_since == (self.cycle,):
            self.transport.close()
            return
        self._idle_since = (self.cycle,) if is_idle else None
        self._timer = self.loop.call_later(REQUEST_TIMEOUT, self._look)


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket with a limit: clients that send pings and never read the answers are disconnected."""

    def data_received(self, data: bytes) -> None:
        """Handle data, and disconnect a client that doesn't read."""
        super().data_received(data)
        if self.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self.transport.abort()


class Listener(socket.socket):
    """A listening socket that closes connections above a number of open files, and logs this from time to time.

    The server can then open its other files, however many clients connect. For asyncio's own loop.
    """

    max_files: int | None = None
    """None: no limit."""
    _told: float | None = None

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection. Raises ConnectionAbortedError above the limit, which asyncio ignores."""
        connection, address = super().accept()
        # A new file gets the lowest free number, so this counts all open files, including TLS handshakes.
        if self.max_files is None or connection.fileno() < self.max_files:
            return connection, address
        connection.close()
        if self._told is None or time.monotonic() > self._told + TELL_SECONDS:
            self._told = time.monotonic()
            log_event("too_many_connections", open_files=self.max_files)
        raise ConnectionAbortedError


def listen(host: str, port: int) -> Listener:
    """Return a listening socket. Raises UnichoirError if the address is in use or invalid."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise UnichoirError(f"{host}, port {port}: {error.strerror or error}") from None
    listener = Listener(fileno=listening.detach())
    listener.max_files = most_files()
    return listener


def most_files() -> int | None:
    """Return how many files may be open with room left for files that are not connections. None on Windows: unknown.

    Raises the process's limit of open files to the highest value that the system allows.
    """
    if sys.platform == "win32":
        return None
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 1 << 16 if hard == resource.RLIM_INFINITY else min(hard, 1 << 16)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(most - SPARE_FILES, most // 2)
