"""The parameters of requests: each has an effect or is refused by name."""

import io
import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from openai.types import Model as OpenAiModel
from tests.samples import CLIPS
from tests.serving.forms import MODEL, client_of
from tests.serving.harness import Running

from unichoir.serving.settings import Settings, UnknownLanguage


@pytest.fixture
def create(server: Running) -> Iterator[Callable[..., Any]]:
    """`client.audio.transcriptions.create` with the model."""
    with client_of(server) as client:
        yield lambda **options: client.audio.transcriptions.create(**{"model": MODEL, **options})


@pytest.mark.parametrize(
    ("options", "param", "code"),
    [
        ({"temperature": "warm"}, "temperature", "invalid_value"),
        ({"temperature": "nan"}, "temperature", "invalid_value"),
        ({"temperature": -1}, "temperature", "invalid_value"),
        ({"language": "de"}, "language", "unsupported_value"),
        ({"language": "de-EN"}, "language", "unsupported_value"),
        ({"response_format": "diarized_json"}, "response_format", "unsupported_value"),
        ({"response_format": "xml"}, "response_format", "invalid_value"),
        ({"stream": True, "response_format": "srt"}, "response_format", "unsupported_value"),
        ({"extra_body": {"stream": "yes"}}, "stream", "invalid_value"),
        ({"timestamp_granularities": ["word"]}, "timestamp_granularities", "unsupported_value"),
        (
            {"timestamp_granularities": ["letter"], "response_format": "verbose_json"},
            "timestamp_granularities",
            "invalid_value",
        ),
        ({"include": ["words"]}, "include", "unsupported_value"),
        ({"include": ["logprobs"], "response_format": "text"}, "include", "unsupported_value"),
        ({"include": ["speakers"]}, "include", "invalid_value"),
        ({"chunking_strategy": {"type": "server_vad", "threshold": 0.5}}, "chunking_strategy", "unsupported_value"),
        ({"chunking_strategy": "fixed"}, "chunking_strategy", "unsupported_value"),
        ({"languages": ["en"]}, "languages", "unsupported_value"),
        ({"keywords": ["Zürich"]}, "keywords", "invalid_value"),
        ({"known_speaker_names": ["A"]}, "known_speaker_names", "unsupported_value"),
        ({"extra_body": {"beam_size": 3}}, "beam_size", "unknown_parameter"),
        ({"extra_body": {"language[]": "en"}}, "language[]", "unknown_parameter"),
        ({"extra_body": {"include[words][]": "words"}}, "include[words][]", "unknown_parameter"),
    ],
    ids=str,
)
def test_parameters_that_are_refused(
    create: Callable[..., Any], options: dict[str, Any], param: str, code: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        create(file=CLIPS[2], **options)
    error = caught.value
    assert (error.param, error.code, error.type) == (param, code, "invalid_request_error")
    assert error.body["message"].startswith(f"{param}: ")


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"prompt": ""},
        {"language": ""},
        {"language": "EN"},
        {"language": "en-US"},
        {"language": "en_gb"},
        {"chunking_strategy": "auto"},
        {"stream": False},
        {"extra_body": {"include": "logprobs"}},
    ],
    ids=str,
)
def test_parameters_that_are_taken(create: Callable[..., Any], options: dict[str, Any]) -> None:
    found = create(file=CLIPS[2], **options)
    assert found.text == "NINE ONE EIGHT TWO"
    assert (found.logprobs is not None) == ("extra_body" in options)


@pytest.mark.parametrize("stream", [False, True])
def test_what_clients_send_by_default_is_ignored_and_named(server: Running, stream: bool) -> None:
    with client_of(server) as client:
        create = client.audio.transcriptions.with_streaming_response.create
        with create(file=CLIPS[2], model=MODEL, prompt="Names: Zoë", temperature=0.2, stream=stream) as answer:
            assert answer.headers["X-Unichoir-Ignored"] == "prompt, temperature"
            assert "NINE ONE EIGHT TWO" in answer.read().decode()
        with create(file=CLIPS[2], model=MODEL, temperature=0, stream=stream) as answer:
            assert "X-Unichoir-Ignored" not in answer.headers


def test_models(serve: Callable[..., Running]) -> None:
    with client_of(serve(aliases=("whisper-1", "org/model"), language="")) as client:
        (model,) = client.models.list().data
        OpenAiModel.model_validate(model.to_dict(), strict=True)
        assert (model.id, model.owned_by) == (MODEL, "unichoir")
        for name in (MODEL, "whisper-1", "org/model"):
            assert client.models.retrieve(name) == model
            assert client.audio.transcriptions.create(file=CLIPS[2], model=name).text == "NINE ONE EIGHT TWO"
        calls: list[Callable[[], Any]] = [
            lambda: client.models.retrieve("whisper-2"),
            lambda: client.audio.transcriptions.create(file=CLIPS[2], model="whisper-2"),
        ]
        for call in calls:
            with pytest.raises(openai.NotFoundError, match="whisper-2") as caught:
                call()
            assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
        # A server that does not know its model's language cannot promise any, nor name one.
        with pytest.raises(openai.BadRequestError, match="language"):
            client.audio.transcriptions.create(file=CLIPS[2], model=MODEL, language="en")
        verbose = client.audio.transcriptions.create(file=CLIPS[2], model=MODEL, response_format="verbose_json")
        assert verbose.language == ""


def test_key(serve: Callable[..., Running]) -> None:
    server = serve(api_key="open-sesame")
    with pytest.raises(openai.AuthenticationError), client_of(server) as client:
        client.audio.transcriptions.create(file=CLIPS[2], model=MODEL)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="open-sesame") as client:
        found = client.audio.transcriptions.create(file=io.BytesIO(CLIPS[2].read_bytes()), model=MODEL)
    assert found.text == "NINE ONE EIGHT TWO"


@pytest.mark.parametrize(
    ("languages", "own", "name", "chosen"),
    [
        (("zh_TW", "en"), "", "zh_TW", "zh_TW"),
        (("zh_TW", "en"), "", "zh-tw", "zh_TW"),
        (("zh_TW", "en"), "", "en-US", "en"),
        ((), "pt_BR", "pt-br", None),
        ((), "en", "en_GB", None),
        ((), "en", "", None),
    ],
)
def test_languages_with_regions(languages: tuple[str, ...], own: str, name: str, chosen: str | None) -> None:
    assert Settings(model_name="m", languages=languages, language=own).choose_language(name) == chosen


@pytest.mark.parametrize("name", ["zh", "zh-CN", "-", "de_EN"])
def test_languages_that_are_not_there(name: str) -> None:
    with pytest.raises(UnknownLanguage):
        Settings(model_name="m", languages=("zh_TW", "en")).choose_language(name)


def test_a_server_describes_itself(server: Running) -> None:
    with urllib.request.urlopen(f"{server.url}/openapi.json", timeout=30) as answer:
        described = json.load(answer)
    assert {"/v1/audio/transcriptions", "/v1/models", "/healthz", "/readyz", "/metrics"} <= described["paths"].keys()
    for methods in described["paths"].values():
        for operation in methods.values():
            assert operation["summary"]
            assert operation["description"]
            assert "422" not in operation["responses"]
