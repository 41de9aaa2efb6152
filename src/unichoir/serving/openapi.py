"""What `/openapi.json` says about forms, responses and errors that FastAPI cannot see: we read uploads ourselves."""

import typing
from typing import Any

from unichoir.declaration import Declared, declared
from unichoir.serving.choices import HTTP
from unichoir.serving.errors import CODES
from unichoir.serving.parameters import OTHERS, Parameters
from unichoir.serving.uploads import FILE_FIELD

JSON_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number"}
ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "description": "One line that names the input."},
                "type": {"enum": ["invalid_request_error", "authentication_error", "rate_limit_error", "server_error"]},
                "param": {"type": ["string", "null"], "description": "The parameter that is wrong."},
                "code": {"type": ["string", "null"], "description": "For programs to compare."},
            },
        }
    },
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the error responses with these statuses, as a route's `responses`."""
    content = {"application/json": {"schema": ERROR_SCHEMA}}
    return {
        status: {"description": " ".join(f"`{code}`: {text}" for code, (at, text) in CODES.items() if at == status),
                 "content": content}
        for status in statuses
    }  # fmt: skip


def without_validation_errors(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the description without FastAPI's own answer to wrong parameters, 422, which this server never gives."""
    for methods in schema["paths"].values():
        for operation in methods.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        schema.get("components", {}).get("schemas", {}).pop(name, None)
    return schema


def transcription_form() -> dict[str, Any]:
    """Return the form of a transcription, as a route's `openapi_extra`."""
    properties: dict[str, Any] = {
        FILE_FIELD: {"type": "string", "format": "binary", "description": "The recording."},
        **{name: {"type": "string", "description": text} for name, text in OTHERS.items()},
        **{option.name: _schema(option) for option in declared(Parameters)},
        **{name: _schema(option) for name, option in HTTP.items()},
    }
    schema = {"type": "object", "required": [FILE_FIELD, "model"], "properties": properties}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def transcription_responses() -> dict[int | str, dict[str, Any]]:
    """Return the responses to a transcription, as a route's `responses`."""
    text = {"schema": {"type": "string"}}
    words = {"type": "array", "items": {"type": "object"}}
    body = {
        "type": "object",
        "properties": {
            "text": {"type": "string", "description": "What was said."},
            "usage": {"type": "object", "description": "The duration, in seconds."},
            "warnings": {"type": "array", "items": {"type": "string"}, "description": "What is missing of the audio."},
            "logprobs": {**words, "description": "Tokens with log probabilities, with `include=logprobs`."},
            "language": {"type": "string", "description": "With `verbose_json`: the code of the language."},
            "duration": {"type": "number", "description": "With `verbose_json`: the seconds of audio."},
            "segments": {**words, "description": "With `verbose_json`: segments with times in seconds."},
            "words": {**words, "description": "With `verbose_json` and `word`: words with times in seconds."},
        },
    }
    content = {
        "application/json": {"schema": body},
        "text/plain": text,
        "application/x-subrip": text,
        "text/vtt": text,
        "text/event-stream": text,
    }
    description = (
        "The transcript, in the chosen format. With `stream=true`: events `transcript.text.delta`, then "
        "`transcript.text.done` or `error`."
    )
    return {200: {"description": description, "content": content}, **errors(*sorted({at for at, _ in CODES.values()}))}


def _schema(option: Declared) -> dict[str, Any]:
    schema: dict[str, Any] = {"description": option.option.help}
    if option.option.none:
        schema["description"] += f" Default: {option.option.none}."
    items = typing.get_args(option.kind)
    if option.choices:
        return {**schema, "type": "string", "enum": list(option.choices), "default": option.default}
    if typing.get_origin(option.kind) in (tuple, frozenset):
        choices = typing.get_args(items[0])
        return {**schema, "type": "array", "items": {"type": "string", **({"enum": list(choices)} if choices else {})}}
    return {**schema, "type": JSON_TYPES[option.kind]}
