"""OpenAI's endpoint for recordings, `POST /v1/audio/transcriptions`, and the list of models."""

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from unichoir.errors import AudioError, AudioTooLong, UnichoirError
from unichoir.serving.engine import Busy, Draining, Engine, Piece
from unichoir.serving.errors import ApiError, internal_error
from unichoir.serving.formats import Recording, delta_event, done_event, json_body, segment_text, verbose_body
from unichoir.serving.hotwords import InvalidHotwords
from unichoir.serving.logs import log_failure
from unichoir.serving.openapi import errors, transcription_form, transcription_responses
from unichoir.serving.parameters import NAMES, Parameters, check_model, invalid_keywords, parse_parameters
from unichoir.serving.settings import Settings
from unichoir.serving.sound import Sound
from unichoir.serving.uploads import FILE_FIELD, receive_form
from unichoir.text.normalize import canonical_text
from unichoir.transcript.formats import write_transcript
from unichoir.transcript.results import Token

MAX_RECEIVING = 32
"""Files that are received at once. Each may take its largest size on the disk."""
RETRY_SECONDS = 5
IGNORED_HEADER = "X-Unichoir-Ignored"
"""Lists the parameters of a request that have no effect."""
MEDIA_TYPES = {"text": "text/plain", "srt": "application/x-subrip; charset=utf-8", "vtt": "text/vtt"}

Result = TypeVar("Result")
router = APIRouter()


@router.get("/v1/models", summary="List the model", responses=errors(401, 403, 421), response_model=None)
async def list_models(request: Request) -> Response:
    """Return a list of one model, under its own name."""
    return JSONResponse({"object": "list", "data": [_model(request.app.state.engine.settings)]})


@router.get(
    "/v1/models/{name:path}",
    summary="Get a model",
    responses=errors(401, 403, 404, 421),
    response_model=None,
)
async def get_model(request: Request, name: str) -> Response:
    """Return the model, which may have several names (`--alias`)."""
    check_model(name, request.app.state.engine.settings)
    return JSONResponse(_model(request.app.state.engine.settings))


@router.post(
    "/v1/audio/transcriptions",
    summary="Transcribe a recording",
    description="OpenAI's endpoint. Each parameter has an effect, or is refused, or is named in `X-Unichoir-Ignored`.",
    responses=transcription_responses(),
    openapi_extra=transcription_form(),
    response_model=None,
)
async def create_transcription(request: Request) -> Response:
    """Recognise the uploaded file. The work ends if the client goes away.

    Raises ApiError: 400 for invalid parameters and unreadable audio, 413 for files and audio above the limits, 429 if
    too many recordings are in work, 503 if the server is about to stop, and as `receive_form` does.
    """
    engine: Engine = request.app.state.engine
    with _refusals(engine):
        async with AsyncExitStack() as stack:
            parameters, sound = await _receive(request, engine, stack)
            if parameters.stream:
                return _marked(EventResponse(_events(engine, sound, parameters), stack.pop_all()), parameters)
            recording = await _while_connected(request.receive, _transcribe(engine, sound, parameters))
    return _marked(_response(recording, parameters, engine), parameters)


def _marked(response: Response, parameters: Parameters) -> Response:
    """Add a header with the ignored parameters."""
    if parameters.ignored:
        response.headers[IGNORED_HEADER] = ", ".join(parameters.ignored)
    return response


class EventResponse(Response):
    """Server-sent events, one for each of `events`.

    An ApiError before the first event is raised, and becomes the status. A later one becomes the last event. The work
    ends if the client goes away. stack: closed at the end.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[dict[str, Any], None], stack: AsyncExitStack) -> None:
        # Proxies must not hold events back.
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, as ASGI requires."""
        async with self._stack:
            with suppress(ClientDisconnect):  # nobody is left to tell
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
    """Counts the uploads that one server receives."""

    num_receiving: int = 0

    @classmethod
    def of(cls, request: Request) -> "_Desk":
        state = request.app.state
        if not hasattr(state, "upload_desk"):
            state.upload_desk = cls()
        return cast(_Desk, state.upload_desk)

    @contextmanager
    def room(self) -> Iterator[None]:
        """Make room for one more upload. Raises Busy."""
        if self.num_receiving >= MAX_RECEIVING:
            raise Busy(f"{self.num_receiving} files are being received already")
        self.num_receiving += 1
        try:
            yield
        finally:
            self.num_receiving -= 1


@contextmanager
def _refusals(engine: Engine) -> Iterator[None]:
    """Turn refusals and failures into ApiErrors, and count them."""
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
    if isinstance(error, InvalidHotwords):
        return invalid_keywords(error)
    if isinstance(error, AudioTooLong):
        return ApiError(413, f"{error}, which is more than this server takes", code="audio_too_long", param=FILE_FIELD)
    if isinstance(error, AudioError):
        return ApiError(400, str(error), code="audio_unreadable", param=FILE_FIELD)
    if isinstance(error, UnichoirError):
        return ApiError(500, str(error), code="recognition_failed", kind="server_error")
    # Otherwise the connection would be closed, on which the client may be sending its next request.
    log_failure("transcription_error", error)
    return internal_error()


async def _receive(request: Request, engine: Engine, stack: AsyncExitStack) -> tuple[Parameters, Sound]:
    """Return the parameters of a request, and its file, which exists until the stack is closed."""
    settings = engine.settings
    engine.check_draining()  # before the file is sent
    with _Desk.of(request).room():
        form = await stack.enter_async_context(receive_form(request, NAMES, settings))
    parameters = parse_parameters(form.fields, settings)
    if form.file is None:
        raise ApiError(400, "file: missing", code="missing_required_parameter", param=FILE_FIELD)
    return parameters, Sound(form.file, engine.recognizer.fbank_config.sample_rate, settings.max_audio_seconds)


async def _while_connected(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of `work`. If the client goes away, cancel it and raise ClientDisconnect.

    Nothing else may receive from the client meanwhile.
    """
    tasks = working, _ = asyncio.create_task(work), asyncio.create_task(_wait_for_disconnect(receive))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _pieces(engine: Engine, sound: Sound, parameters: Parameters) -> "aclosing[AsyncGenerator[Piece, None]]":
    """Return the pieces of a recording. Leaving the context abandons the rest."""
    return aclosing(engine.transcribe(sound.blocks, replace(engine.settings.decoding, **parameters.options)))


async def _transcribe(engine: Engine, sound: Sound, parameters: Parameters) -> Recording:
    async with _pieces(engine, sound, parameters) as found:
        pieces = [piece async for piece in found]
    return Recording(pieces, sound.seconds, sound.warnings)


async def _events(engine: Engine, sound: Sound, parameters: Parameters) -> AsyncGenerator[dict[str, Any], None]:
    text = ""
    tokens: list[Token] = []
    with _refusals(engine):
        async with _pieces(engine, sound, parameters) as pieces:
            async for piece in pieces:
                longer = canonical_text(f"{text} {segment_text(piece.segment)}")
                yield delta_event(longer[len(text) :], piece, max(sound.seconds, piece.seconds), parameters)
                text = longer
                tokens += piece.segment.tokens
    yield done_event(text, tokens, sound.seconds, parameters, sound.warnings)


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


def _model(settings: Settings) -> dict[str, Any]:
    return {"id": settings.model_name, "object": "model", "created": 1_700_000_000, "owned_by": "unichoir"}


async def _send_event(send: Send, event: dict[str, Any]) -> None:
    body = f"data: {json.dumps(event, ensure_ascii=False, allow_nan=False)}\n\n".encode()
    await send({"type": "http.response.body", "body": body, "more_body": True})
