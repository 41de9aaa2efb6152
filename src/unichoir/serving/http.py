"""Connections that do not wait for ever, nor are waited for: uvicorn has no limit on how long a request may take to
arrive, and none on what waits for a client to read it."""

import asyncio
import sys
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

REQUEST_TIMEOUT = 10.0
"""Seconds between two looks at a connection; one without a request at both is closed."""
MAX_UNREAD_BYTES = 1 << 20
"""Of answers that wait for a WebSocket client to read them."""
SPARE_FILES = 64
"""Beside connections: models, logs, uploads on disk, the event loop's own."""


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


def most_connections() -> int | None:
    """How many connections can be open at once; more are answered by 503. None: not known, on Windows.

    Raises the limit of open files to what the process may have.
    """
    if sys.platform == "win32":
        return None
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 1 << 16 if hard == resource.RLIM_INFINITY else min(hard, 1 << 16)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(most - SPARE_FILES, 1)
