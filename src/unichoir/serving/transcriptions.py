"""OpenAI's endpoint for recordings, `POST /v1/audio/transcriptions`, and the list of models."""

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar, cast

import anyio
import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from unichoir.audio.io import Samples, audio_blocks
from unichoir.decoding.formats import write_transcript
from unichoir.decoding.hypothesis import Token
from unichoir.decoding.options import DecodingOptions
from unichoir.errors import AudioError, UnichoirError
from unichoir.serving.engine import Busy, Draining, Engine, Piece
from unichoir.serving.errors import ApiError, internal_error
from unichoir.serving.formats import Recording, delta_event, done_event, json_body, segment_text, verbose_body
from unichoir.serving.hotwords import InvalidHotwords
from unichoir.serving.logs import log_failure
from unichoir.serving.parameters import NAMES, Parameters, check_model, invalid_keywords, parse_parameters
from unichoir.serving.settings import Settings
from unichoir.serving.uploads import FILE_FIELD, UploadedFile, receive_form
from unichoir.text.normalize import canonical_text

MAX_RECEIVING = 32
"""Files that are received and decoded at once: each may take its largest size on the disk."""
MAX_DECODING = 2
"""Files that are decoded at once: each keeps a processor busy and takes memory for all of its samples."""
RETRY_SECONDS = 5
IGNORED_HEADER = "X-Unichoir-Ignored"
"""Names the parameters of a request that have no effect."""
MEDIA_TYPES = {"text": "text/plain", "srt": "application/x-subrip; charset=utf-8", "vtt": "text/vtt"}

Result = TypeVar("Result")
router = APIRouter()


@router.get("/v1/models")
async def list_models(request: Request) -> Response:
    """The one model, under its own name."""
    return JSONResponse({"object": "list", "data": [_model(request.app.state.engine.settings)]})


@router.get("/v1/models/{name:path}")
async def get_model(request: Request, name: str) -> Response:
    """The model by any of its names. Raises ApiError 404 for others."""
    check_model(name, request.app.state.engine.settings)
    return JSONResponse(_model(request.app.state.engine.settings))


@router.post("/v1/audio/transcriptions")
async def create_transcription(request: Request) -> Response:
    """Recognise the uploaded file. A client that goes away ends the work.

    Raises ApiError: 400 for wrong parameters and for audio that cannot be read, 413 for too large a file and too long
    audio, 429 when too many recordings are in work, 503 when the server is about to stop; and as `receive_form` does.
    """
    engine: Engine = request.app.state.engine
    with _refusals(engine):
        parameters, sound = await _receive(request, engine)
        if parameters.stream:
            return _marked(EventResponse(_events(engine, sound, parameters)), parameters)
        recording = await _while_connected(request.receive, _transcribe(engine, sound, parameters))
    return _marked(_response(recording, parameters, engine), parameters)


def _marked(response: Response, parameters: Parameters) -> Response:
    """With what has been ignored in a header of its own."""
    if parameters.ignored:
        response.headers[IGNORED_HEADER] = ", ".join(parameters.ignored)
    return response


class EventResponse(Response):
    """Server-sent events, one for each of `events`. An ApiError before the first of them is raised, and so still is a
    status; one that comes later is the last event. A client that goes away ends the work."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[dict[str, Any], None]) -> None:
        # Proxies must not hold events back.
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI wants it."""
        with suppress(ClientDisconnect):  # no one is left to be told
            await _while_connected(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        has_started = False
        async with aclosing(self._events):
            try:
                async for event in self._events:
                    if not has_started:
                        has_started = True
                        await send(
                            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
                        )
                    await _send_event(send, event)
            except ApiError as error:
                if not has_started:
                    raise
                await _send_event(send, {"type": "error", "error": error.to_dict()})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@dataclass
class _Desk:
    """Where the uploads of one server go through."""

    decoding: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(MAX_DECODING))
    num_receiving: int = 0

    @classmethod
    def of(cls, request: Request) -> "_Desk":
        state = request.app.state
        if not hasattr(state, "upload_desk"):
            state.upload_desk = cls()
        return cast(_Desk, state.upload_desk)

    @contextmanager
    def room(self) -> Iterator[None]:
        """For one more upload. Raises Busy."""
        if self.num_receiving >= MAX_RECEIVING:
            raise Busy(f"{self.num_receiving} files are being received already")
        self.num_receiving += 1
        try:
            yield
        finally:
            self.num_receiving -= 1


@dataclass(frozen=True)
class Sound:
    """A recording that has arrived."""

    samples: Samples
    """(N,) at the model's rate."""
    warnings: list[str]
    """What of it is missing."""


@contextmanager
def _refusals(engine: Engine) -> Iterator[None]:
    """What refuses a request, or fails, becomes an ApiError and is counted."""
    try:
        yield
    except ClientDisconnect:
        raise
    except Exception as error:
        known = _api_error(error)
        engine.metrics.refusals.labels(known.code).inc()
        raise known from None


def _api_error(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Busy):
        kind, code = "rate_limit_error", "rate_limit_exceeded"
        return ApiError(429, str(error), code=code, kind=kind, retry_after=RETRY_SECONDS)
    if isinstance(error, Draining):
        return ApiError(503, str(error), code="server_draining", kind="server_error", retry_after=RETRY_SECONDS)
    if isinstance(error, UnichoirError):
        return ApiError(500, str(error), code="recognition_failed", kind="server_error")
    # Left to itself it would close the connection, on which the client may be sending its next request.
    log_failure("transcription_error", error)
    return internal_error()


async def _receive(request: Request, engine: Engine) -> tuple[Parameters, Sound]:
    """The parameters of a request, and its file, decoded."""
    settings = engine.settings
    if engine.is_draining:  # no need to send the file
        raise Draining("this server is about to stop and takes nothing new")
    desk = _Desk.of(request)
    with desk.room():
        async with receive_form(request, NAMES, settings) as form:
            parameters = parse_parameters(form.fields, settings)
            if form.file is None:
                raise ApiError(400, "file: missing", code="missing_required_parameter", param=FILE_FIELD)
            try:
                await engine.hotwords.prepare(_options(engine, parameters))
            except InvalidHotwords as error:
                raise invalid_keywords(error) from None
            rate = engine.recognizer.fbank_config.sample_rate
            stop = threading.Event()
            decode = partial(_decode, form.file, rate, settings.max_audio_seconds, stop)
            work = anyio.to_thread.run_sync(decode, limiter=desk.decoding)
            return parameters, await _while_connected(request.receive, work, stop)


def _decode(file: UploadedFile, sample_rate: int, max_seconds: float, stop: threading.Event) -> Sound:
    """Headers may lie about the length: no more is decoded than may be, and nothing after `stop`, when nobody waits."""
    parts: list[Samples] = []
    warnings: list[str] = []
    num_samples = 0
    try:
        for block in audio_blocks(
            file.source, sample_rate=sample_rate, name=file.name, warn=warnings.append, strict=False
        ):
            if stop.is_set():
                raise ClientDisconnect
            parts.append(block)
            num_samples += len(block)
            if num_samples > max_seconds * sample_rate:
                message = f"{file.name}: longer than the {max_seconds:g} s that this server takes"
                raise ApiError(413, message, code="audio_too_long", param=FILE_FIELD)
    except AudioError as error:
        raise ApiError(400, str(error), code="audio_unreadable", param=FILE_FIELD) from None
    return Sound(np.concatenate(parts), warnings)


async def _while_connected(
    receive: Receive, work: Coroutine[Any, Any, Result], stop: threading.Event | None = None
) -> Result:
    """The result of `work`, which is cancelled when the client goes away: then raises ClientDisconnect.

    Nothing else may receive from the client meanwhile. stop: is set then; a thread looks at it, since nothing else ends
    one.
    """
    tasks = working, _ = asyncio.create_task(work), asyncio.create_task(_wait_for_disconnect(receive))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        if stop is not None:
            stop.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _options(engine: Engine, parameters: Parameters) -> DecodingOptions:
    options, hotwords = engine.settings.decoding, parameters.hotwords
    return replace(
        options,
        hotwords=options.hotwords if hotwords is None else hotwords,
        language=parameters.language or options.language,
        verbatim=options.verbatim if parameters.verbatim is None else parameters.verbatim,
    )


def _pieces(engine: Engine, samples: Samples, parameters: Parameters) -> "aclosing[AsyncGenerator[Piece, None]]":
    """Leaving the context abandons what has not been recognised yet."""
    return aclosing(engine.transcribe(samples, _options(engine, parameters)))


async def _transcribe(engine: Engine, sound: Sound, parameters: Parameters) -> Recording:
    async with _pieces(engine, sound.samples, parameters) as pieces:
        return Recording([piece async for piece in pieces], _seconds(engine, sound.samples), sound.warnings)


async def _events(engine: Engine, sound: Sound, parameters: Parameters) -> AsyncGenerator[dict[str, Any], None]:
    duration, text = _seconds(engine, sound.samples), ""
    tokens: list[Token] = []
    with _refusals(engine):
        async with _pieces(engine, sound.samples, parameters) as pieces:
            async for piece in pieces:
                longer = canonical_text(f"{text} {segment_text(piece.segment)}")
                yield delta_event(longer[len(text) :], piece, duration, parameters)
                text = longer
                tokens += piece.segment.tokens
    yield done_event(text, tokens, duration, parameters, sound.warnings)


def _response(recording: Recording, parameters: Parameters, engine: Engine) -> Response:
    kind = parameters.response_format
    if kind == "json":
        return JSONResponse(json_body(recording, parameters))
    if kind == "verbose_json":
        decoding = engine.settings.decoding
        weights = 1.0
        if decoding.mode == "attention_rescoring":
            own = engine.recognizer.backend.info.ctc_weight
            weights += own if decoding.ctc_weight is None else decoding.ctc_weight
        return JSONResponse(verbose_body(recording, parameters, engine.settings.language, weights))
    return Response(write_transcript(recording.transcript, kind, name=""), media_type=MEDIA_TYPES[kind])


def _seconds(engine: Engine, samples: Samples) -> float:
    return len(samples) / engine.recognizer.fbank_config.sample_rate


def _model(settings: Settings) -> dict[str, Any]:
    return {"id": settings.model_name, "object": "model", "created": 1_700_000_000, "owned_by": "unichoir"}


async def _send_event(send: Send, event: dict[str, Any]) -> None:
    body = f"data: {json.dumps(event, ensure_ascii=False, allow_nan=False)}\n\n".encode()
    await send({"type": "http.response.body", "body": body, "more_body": True})
