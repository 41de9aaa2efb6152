"""The server process: uvicorn around the application, and an orderly shutdown."""

import asyncio
import contextlib
from types import FrameType
from typing import Any

import uvicorn

from unichoir.errors import UnichoirError
from unichoir.recognition.recognizer import Recognizer
from unichoir.serving.app import create_app
from unichoir.serving.engine import DEATH, Engine
from unichoir.serving.http import BoundedWebSocket, ImpatientProtocol, listen
from unichoir.serving.logs import configure_logs, log_event
from unichoir.serving.settings import MEBIBYTE, Settings

POLL_SECONDS = 0.05
GRACE_SECONDS = 5
"""Seconds at shutdown for clients to read their last messages, and for recordings to end at their next block."""


class Server(uvicorn.Server):
    """uvicorn that drains: after the first signal, open sessions get their last results. The second stops at once."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self.engine = engine
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def url(self) -> str:
        """The server's address, after `startup`."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        name = f"[{host}]" if ":" in host else host
        return f"{'https' if self.config.is_ssl else 'http'}://{name}:{port}"

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Start listening, and log the address."""
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self.engine.on_death = self._give_up
        if self.started:
            settings = self.engine.settings
            log_event("listening", url=self.url, model=settings.model_name, engines=settings.engines)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal, in the main thread."""
        if self._loop is None or self._draining is not None or self.engine.is_draining:
            self.should_exit = self.force_exit = True
        else:
            self._loop.call_soon_threadsafe(self.drain)

    def _give_up(self) -> None:
        """Stop after the engine has died, when clients have been told. A supervisor can then start another process."""
        if self._draining is None:
            self._draining = asyncio.create_task(self._stop_when_idle())

    def drain(self) -> None:
        """Take nothing new, wait for open sessions and recordings, and stop."""
        if self._draining is None:
            log_event("draining", sessions=len(self.engine.sessions))
            self.engine.drain()
            self._draining = asyncio.create_task(self._stop_when_idle())

    async def _stop_when_idle(self) -> None:
        """Stop when nothing is open, or after `drain_timeout`.

        uvicorn closes connections at once, so it must not stop before clients have their last messages.
        """
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._idle(), self.engine.settings.drain_timeout)
        self.engine.abandon()
        log_event("stopping", sessions=len(self.engine.sessions))
        self.should_exit = True

    async def _idle(self) -> None:
        while not self.engine.is_idle:
            await asyncio.sleep(POLL_SECONDS)


def make_server(recognizer: Recognizer, settings: Settings, **options: Any) -> Server:
    """Return the server of one model. options: further options of uvicorn.Config."""
    app = create_app(recognizer, settings)
    config = uvicorn.Config(
        app,
        http=ImpatientProtocol,
        ws=BoundedWebSocket,
        # Messages that are a little too long get an error (`Connection`). Longer ones end the connection.
        ws_max_size=settings.max_message_bytes + MEBIBYTE,
        ws_per_message_deflate=False,  # PCM hardly shrinks, and compression costs memory per connection
        # A client that the server doesn't read from for a while cannot answer pings, and a message of ten minutes takes
        # time. `idle_timeout` ends silent clients.
        ws_ping_timeout=None,
        loop="asyncio",  # the same loop whatever is installed; `Listener` needs asyncio's
        timeout_graceful_shutdown=GRACE_SECONDS,
        log_config=None,
        access_log=False,
        server_header=False,
        **options,
    )
    return Server(config, app.state.engine)


def serve(recognizer: Recognizer, settings: Settings, host: str, port: int, **options: Any) -> None:
    """Serve until a signal asks to stop. options: further options of uvicorn.Config.

    Raises UnichoirError if the address is in use or invalid, and DecodingError for a model that cannot stream.
    """
    with listen(host, port) as listening:
        server = make_server(recognizer, settings, **options)
        configure_logs()
        server.run(sockets=[listening])
        if server.engine.is_dead:
            raise UnichoirError(DEATH)
