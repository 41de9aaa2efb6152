"""The application: routes, start and stop of the engine, the web page."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
from fastapi import FastAPI, WebSocket
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unichoir.recognition.recognizer import Recognizer
from unichoir.serving.connection import serve_websocket
from unichoir.serving.engine import Engine
from unichoir.serving.errors import ApiError, add_error_handlers
from unichoir.serving.metrics import Metrics
from unichoir.serving.openapi import without_validation_errors
from unichoir.serving.realtime import RealtimeConnection
from unichoir.serving.security import check_access
from unichoir.serving.settings import Settings
from unichoir.serving.transcriptions import IGNORED_HEADER
from unichoir.serving.transcriptions import router as transcriptions
from unichoir.serving.wenet import WenetConnection

WEB = Path(__file__).parent / "web"
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self'; style-src 'self'; connect-src 'self' ws: wss:; "
    "img-src 'self' data:; media-src 'self' blob:; worker-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cache-Control": "no-cache",
}
DESCRIPTION = """Two WebSockets are not part of this description: `/` speaks WeNet's protocol, `/v1/realtime` the
transcription events of OpenAI's realtime API. If the server has an API key, requests below `/v1/` need the header
`Authorization: Bearer KEY`."""
Lifespan: TypeAlias = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(recognizer: Recognizer, settings: Settings) -> FastAPI:
    """Return the server of one model as an ASGI application, with `app.state.engine`.

    Raises DecodingError for a model that cannot stream, and ConfigError as `Engine` does.
    """
    engine = Engine(recognizer, settings, Metrics())
    warm_up(recognizer, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        await engine.stop()

    app = make_api(lifespan)
    app.state.engine = engine
    add_error_handlers(app)
    app.add_middleware(Guard)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["Retry-After", IGNORED_HEADER],
        )
    return app


def make_api(lifespan: Lifespan | None = None) -> FastAPI:
    """Return the routes, described at `/openapi.json`. Requests need `app.state.engine`."""
    app = FastAPI(
        title="unichoir",
        summary="Speech recognition: files, live audio, and metrics.",
        description=DESCRIPTION,
        version=version("unichoir"),
        lifespan=lifespan,
        # The pages of documentation would load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(transcriptions)
    app.mount("/web", StaticFiles(directory=WEB))
    _add_page_and_health(app)
    _add_websockets(app)
    describe = app.openapi
    app.openapi = lambda: without_validation_errors(describe())  # type: ignore[method-assign]
    return app


def warm_up(recognizer: Recognizer, settings: Settings) -> None:
    """Recognise a second of noise, to do the one-time work before the first client comes."""
    stream = recognizer.streams.create_stream(settings.streaming)
    noise = np.random.default_rng(0).normal(0, 0.01, recognizer.fbank_config.sample_rate).astype(np.float32)
    stream.accept_waveform(noise, recognizer.fbank_config.sample_rate)
    stream.input_finished()
    for _ in recognizer.streams.results(stream):
        pass
    recognizer.recordings.recognize(noise, settings.decoding)


class Guard:
    """ASGI middleware: access to the API, and headers for browsers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check HTTP requests. `serve_websocket` checks WebSockets."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(PAGE_HEADERS)
            await send(message)

        application: ASGIApp = self.app
        names = {name for name, _ in scope["headers"]}
        if {b"content-length", b"transfer-encoding"} <= names:  # a proxy may have used the other one
            message = "a request has Content-Length or Transfer-Encoding, not both"
            application = ApiError(400, message, code="ambiguous_length").to_response()
        elif scope["path"].startswith("/v1/"):
            engine: Engine = scope["app"].state.engine
            try:
                check_access(HTTPConnection(scope), engine.settings)
            except ApiError as error:
                engine.metrics.refusals.labels(error.code).inc()
                application = error.to_response()
        await application(scope, receive, send_with_headers)


def _add_page_and_health(app: FastAPI) -> None:
    def engine() -> Engine:
        return cast(Engine, app.state.engine)

    def status(text: str, code: int = 200) -> JSONResponse:
        return JSONResponse({"status": text}, code)

    @app.get("/", summary="Page to try the server", response_class=HTMLResponse)
    async def page() -> Response:
        """Return the page: a microphone, uploads, and transcripts."""
        return FileResponse(WEB / "index.html")

    @app.get("/healthz", summary="Liveness", responses={503: {"description": "The engine has stopped."}})
    async def healthz() -> Response:
        """Return 200 while the server works."""
        return status("ok") if engine().is_alive else status("the engine has stopped", 503)

    @app.get("/readyz", summary="Readiness", responses={503: {"description": "Stopped, draining or busy."}})
    async def readyz() -> Response:
        """Return 200 while the server takes new sessions."""
        if not engine().is_alive:
            return status("the engine has stopped", 503)
        if engine().is_draining:
            return status("draining", 503)
        if len(engine().sessions) >= engine().settings.max_sessions:
            return status("busy", 503)
        return status("ready")

    @app.get("/metrics", summary="Metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Return the metrics in Prometheus's text format."""
        return Response(engine().metrics.render(), media_type=CONTENT_TYPE_LATEST)


def _add_websockets(app: FastAPI) -> None:
    @app.websocket("/")
    async def wenet(websocket: WebSocket) -> None:
        await serve_websocket(WenetConnection, websocket)

    @app.websocket("/v1/realtime")
    async def realtime(websocket: WebSocket) -> None:
        await serve_websocket(RealtimeConnection, websocket)
