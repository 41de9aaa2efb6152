"""HTTP errors, in OpenAI's format: `{"error": {"message", "type", "param", "code"}}`."""

from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

MAX_SHOWN = 100

CODES: dict[str, tuple[int, str]] = {
    "ambiguous_length": (400, "The request has both Content-Length and Transfer-Encoding."),
    "audio_unreadable": (400, "The file is not audio, or is damaged, empty or in an unknown format."),
    "duplicate_parameter": (400, "A field occurs twice."),
    "invalid_form": (400, "The body is not a valid multipart form."),
    "invalid_value": (400, "A parameter has an invalid value."),
    "missing_required_parameter": (400, "The file or the model is missing."),
    "too_many_fields": (400, "The form has too many fields."),
    "unknown_parameter": (400, "The server doesn't know this field."),
    "unsupported_value": (400, "A parameter has a valid value that this server or model doesn't support."),
    "invalid_api_key": (401, "The API key is missing or wrong."),
    "origin_not_allowed": (403, "Pages of this origin may not use the server (`--allow-origin`)."),
    "model_not_found": (404, "The server has no model of this name."),
    "upload_timeout": (408, "The upload took too long, or stopped."),
    "audio_too_long": (413, "The recording is longer than `--max-audio-minutes`."),
    "file_too_large": (413, "The file is larger than `--max-upload-mb`."),
    "unsupported_media_type": (415, "The body is not `multipart/form-data`."),
    "host_not_allowed": (421, "The Host header doesn't name this server (`--allow-host`)."),
    "rate_limit_exceeded": (429, "Too many recordings are in work. Retry after the seconds in `Retry-After`."),
    "internal_error": (500, "The server failed. Its log says why."),
    "recognition_failed": (500, "The recognition failed."),
    "server_busy": (503, "A WebSocket is refused: all sessions are in use."),
    "server_draining": (503, "The server is about to stop."),
    "out_of_storage": (507, "There is no space left for the upload."),
}
"""By code: the HTTP status and what it means. Errors of routing and HTTP itself have no code."""


class ApiError(Exception):
    """An error response.

    Args:
        status: the HTTP status.
        message: one line that names the input.
        code: for programs to compare, one of `CODES`.
        param: the parameter that is wrong.
        kind: OpenAI's `type`.
        retry_after: seconds after which the client may try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str = "invalid_request_error",
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.kind = kind
        self.retry_after = retry_after

    def to_dict(self) -> dict[str, Any]:
        """Return the value of `error`."""
        return {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}

    def to_response(self) -> Response:
        """Return the response."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return JSONResponse({"error": self.to_dict()}, self.status, headers)


def internal_error() -> ApiError:
    """Return the error for unexpected exceptions. Details are in the log only."""
    return ApiError(500, "the server has failed at this request", code="internal_error", kind="server_error")


def shown(text: str, limit: int = MAX_SHOWN) -> str:
    """Return a client's text for a message: one short line without control characters."""
    text = "".join(character if character.isprintable() else "\ufffd" for character in text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 3] + "..."


def add_error_handlers(app: FastAPI) -> None:
    """Make all errors of `app` use this format."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _client_gone)
    app.add_exception_handler(Exception, _failure)


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.to_response()


async def _validation_error(_: Request, error: Exception) -> Response:
    """Return an error for the first invalid value. The value is not repeated."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    # The place (query, body, header), then the path to the value.
    place = shown(".".join(str(step) for step in first["loc"][1:]) or str(first["loc"][0]))
    return ApiError(400, f"{place}: {first['msg']}", code="invalid_value", param=place).to_response()


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = "server_error" if error.status_code >= 500 else "invalid_request_error"
    message = f"{request.method} {shown(request.url.path)}: {error.detail}"
    response = ApiError(error.status_code, message, kind=kind).to_response()
    response.headers.update(error.headers or {})
    return response


async def _client_gone(_: Request, __: Exception) -> Response:
    """Return 499, the status in proxies' logs for clients that went away. Nobody reads it."""
    return Response(status_code=499)


async def _failure(_: Request, __: Exception) -> Response:
    return internal_error().to_response()
