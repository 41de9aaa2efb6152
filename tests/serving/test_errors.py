"""Every error has the form of OpenAI's API, wherever it occurs."""

import asyncio
from typing import Annotated, Any

import httpx
import openai
import pytest
from fastapi import FastAPI, Query
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from tests.samples import SMALL_MODEL
from tests.serving.harness import PATIENCE, Running

from unichoir.serving.errors import ApiError, add_error_handlers, shown


def answer(path: str) -> httpx.Response:
    """Request a small application with one route for each kind of error."""
    app = FastAPI()
    add_error_handlers(app)

    @app.get("/api")
    def _api() -> None:
        raise ApiError(429, "too much", code="busy", param="file", kind="rate_limit_error", retry_after=7)

    @app.get("/number")
    def _number(count: Annotated[int, Query(ge=1)]) -> int:
        return count

    @app.get("/http")
    def _http() -> None:
        raise HTTPException(503, "not now", headers={"Retry-After": "9"})

    @app.get("/failure")
    def _failure() -> None:
        raise RuntimeError("the secret of the house")

    async def get() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get(path)

    return asyncio.run(get())


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/api", 429, {"message": "too much", "type": "rate_limit_error", "param": "file", "code": "busy"}),
        (
            "/http",
            503,
            {"message": "GET /http: not now", "type": "server_error", "param": None, "code": None},
        ),
        (
            "/nowhere/%1B%5B31m",
            404,
            {
                "message": "GET /nowhere/\ufffd[31m: Not Found",
                "type": "invalid_request_error",
                "param": None,
                "code": None,
            },
        ),
    ],
)
def test_shape(path: str, status: int, error: dict[str, Any]) -> None:
    found = answer(path)
    assert (found.status_code, found.json()) == (status, {"error": error})


def test_headers_are_kept() -> None:
    assert answer("/api").headers["retry-after"] == "7"
    assert answer("/http").headers["retry-after"] == "9"


@pytest.mark.parametrize("query", ["", "?count=0", "?count=secret"])
def test_what_fastapi_finds_wrong(query: str) -> None:
    found = answer(f"/number{query}")
    error = found.json()["error"]
    assert (found.status_code, error["param"], error["code"]) == (400, "count", "invalid_value")
    assert error["message"].startswith("count: ")
    assert "secret" not in found.text, "what has been sent may be private"


def test_a_failure_says_nothing_of_itself() -> None:
    found = answer("/failure")
    assert (found.status_code, found.json()["error"]["type"]) == (500, "server_error")
    assert "secret" not in found.text


@given(st.text(max_size=150))
@settings(deadline=None)
def test_what_is_shown_is_one_short_line(text: str) -> None:
    found = shown(text)
    assert found.isprintable()
    assert len(found) == min(len(text), 100)
    if text.isprintable() and len(text) <= 100:
        assert found == text


def test_unknown_paths_and_methods_of_the_server(server: Running) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError, match="POST /v1/audio/speech: Not Found"):
            client.audio.speech.create(input="A", model=SMALL_MODEL.name, voice="alloy")
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(messages=[], model=SMALL_MODEL.name)
    found = httpx.get(f"{server.url}/v1/audio/transcriptions", timeout=PATIENCE)
    assert (found.status_code, found.headers["allow"]) == (405, "POST")
    assert found.json()["error"]["message"] == "GET /v1/audio/transcriptions: Method Not Allowed"
