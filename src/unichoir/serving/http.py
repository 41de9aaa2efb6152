"""Connections that do not wait for ever, nor are waited for, nor are too many. uvicorn has no limit on how long a
request may take to arrive, on what waits for a client to read it, nor on connections that send nothing."""

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
"""Seconds between two looks at a connection; one without a request at both is closed."""
MAX_UNREAD_BYTES = 1 << 20
"""Of answers that wait for a WebSocket client to read them."""
SPARE_FILES = 64
"""Beside connections: models, logs, uploads on disk, the event loop's own."""
TELL_SECONDS = 60.0
"""Between two lines of the log that say that there are too many connections."""


class ImpatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, but who connects has to say what for: at most `2 * REQUEST_TIMEOUT` seconds later."""

    _timer: asyncio.TimerHandle | None = None
    _idle_since: Any = None
    """What `cycle`, uvicorn's request and response, was when there was none to wait for."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._look(first=True)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The server ends and takes nothing new, so it does not wait for the rest of a request either."""
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
    """uvicorn's WebSocket, but a client that sends pings and never reads is disconnected: the answers wait in memory,
    however many they are."""

    def data_received(self, data: bytes) -> None:
        """What a client has sent."""
        super().data_received(data)
        if self.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self.transport.abort()


class Listener(socket.socket):
    """A listening socket that closes what it accepts beyond a number of open files, and tells so once in a while.

    However many connect, and whatever they do then, nothing else that the server opens fails. For asyncio's own loop.
    """

    max_files: int | None = None
    """None: no limit."""
    _told: float | None = None

    def accept(self) -> tuple[socket.socket, Any]:
        """As asyncio calls it. Raises ConnectionAbortedError for one too many, which asyncio takes as it should."""
        connection, address = super().accept()
        # The system gives the lowest number that is free, so this counts all open files, handshakes of TLS among them.
        if self.max_files is None or connection.fileno() < self.max_files:
            return connection, address
        connection.close()
        if self._told is None or time.monotonic() > self._told + TELL_SECONDS:
            self._told = time.monotonic()
            log_event("too_many_connections", open_files=self.max_files)
        raise ConnectionAbortedError


def listen(host: str, port: int) -> Listener:
    """A socket that listens there. Raises UnichoirError for an address that cannot be listened at."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise UnichoirError(f"{host}, port {port}: {error.strerror or error}") from None
    listener = Listener(fileno=listening.detach())
    listener.max_files = most_files()
    return listener


def most_files() -> int | None:
    """How many files can be open for there still to be some for other things than connections. None: not known, on
    Windows.

    Raises the limit of open files to what the process may have.
    """
    if sys.platform == "win32":
        return None
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 1 << 16 if hard == resource.RLIM_INFINITY else min(hard, 1 << 16)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(most - SPARE_FILES, most // 2)
