"""Parameters of a transcription: OpenAI's. None is ignored silently."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar, get_args

from unichoir.declaration import Option
from unichoir.serving.choices import HTTP, InvalidChoice, choose, from_form, is_list
from unichoir.serving.errors import ApiError, shown
from unichoir.serving.hotwords import InvalidHotwords
from unichoir.serving.settings import Settings

Format = Literal["json", "text", "verbose_json", "srt", "vtt"]
Granularity = Literal["word", "segment"]
Included = Literal["logprobs", "words"]
Choice = TypeVar("Choice", bound=str)

_LISTS = ("timestamp_granularities", "include", *(name for name, option in HTTP.items() if is_list(option)))
_UNSUPPORTED = {
    "languages": "only one can be chosen, by `language`",
    "known_speaker_names": "this model does not tell speakers apart",
    "known_speaker_references": "this model does not tell speakers apart",
}
OTHERS = {
    "model": "A name of the model that this server has.",
    "prompt": "Has no effect. The response names it in `X-Unichoir-Ignored`.",
    "temperature": "A number from 0 to 2. Has no effect. The response names it in `X-Unichoir-Ignored` unless it is 0.",
    "chunking_strategy": "Only `auto`: long audio is always cut at pauses.",
}
"""OpenAI's fields that choose nothing, and what they mean here."""
_OWN = ("response_format", "timestamp_granularities", "stream", "include")
NAMES = frozenset([*OTHERS, *_OWN, *HTTP, *_UNSUPPORTED])
"""The fields of a form, except the file: all that OpenAI's documentation lists, and our own."""


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """The checked parameters of one request."""

    response_format: Annotated[Format, Option("What the response is.")] = "json"
    timestamp_granularities: Annotated[
        frozenset[Granularity], Option("What has times, with `response_format=verbose_json`.")
    ] = frozenset(("segment",))
    stream: Annotated[
        bool, Option("Send server-sent events while the file is recognised, with `response_format=json`.")
    ] = False
    include: Annotated[
        frozenset[Included],
        Option("`logprobs`: tokens with log probabilities, with `response_format=json`. `words`: with `stream=true`."),
    ] = frozenset()
    options: Mapping[str, Any] = field(default_factory=dict)
    """Fields of DecodingOptions that the client chose in place of the server's."""
    ignored: tuple[str, ...] = ()
    """Parameters without effect that clients send by default. The response names them."""


def parse_parameters(fields: Mapping[str, Sequence[str]], settings: Settings) -> Parameters:
    """Return the parameters that a form's fields stand for. Each name has all of its values.

    An empty language or prompt counts as none. Raises ApiError naming the parameter: 404 for another model, else 400.
    """
    scalars, lists = _sorted_out(fields)
    model = scalars.get("model")
    if model is None:
        raise ApiError(400, "model: missing", code="missing_required_parameter", param="model")
    check_model(model, settings)
    given = {name: [scalars[name]] for name in HTTP if name in scalars} | {
        name: values for name, values in lists.items() if name in HTTP
    }
    try:
        options = choose({name: from_form(HTTP[name], values) for name, values in given.items()}, HTTP, settings)
    except InvalidChoice as error:
        raise ApiError(400, f"{error.name}: {error}", code=error.code, param=error.name) from None
    if scalars.get("chunking_strategy", "auto") != "auto":
        raise _unsupported("chunking_strategy", "long audio is always cut at pauses, which is what auto means here")
    ignored = ["prompt"] if scalars.get("prompt") else []
    if _temperature(scalars.get("temperature", "0")):
        ignored.append("temperature")
    if (response_format := scalars.get("response_format", "json")) == "diarized_json":
        raise _unsupported("response_format", "diarized_json: this model does not tell speakers apart")
    parameters = Parameters(
        response_format=_one_of("response_format", response_format, get_args(Format)),
        timestamp_granularities=frozenset(
            _one_of("timestamp_granularities", value, get_args(Granularity))
            for value in lists.get("timestamp_granularities", ["segment"])
        ),
        stream=_truth("stream", scalars.get("stream", "false")),
        include=frozenset(_one_of("include", value, get_args(Included)) for value in lists.get("include", [])),
        options=options,
        ignored=tuple(ignored),
    )
    _check_together(parameters, has_granularities="timestamp_granularities" in lists)
    return parameters


def check_model(name: str, settings: Settings) -> None:
    """Raise ApiError 404 for a model that this server doesn't have."""
    if name not in settings.model_names:
        message = f"model: there is no {shown(name)!r} here, only {settings.model_name!r}"
        raise ApiError(404, message, code="model_not_found", param="model")


def _sorted_out(fields: Mapping[str, Sequence[str]]) -> tuple[dict[str, str], dict[str, list[str]]]:
    scalars: dict[str, str] = {}
    lists: dict[str, list[str]] = {}
    for full, values in fields.items():
        name, bracket, _ = full.partition("[")
        if name in _UNSUPPORTED:
            raise _unsupported(name, _UNSUPPORTED[name])
        if name in _LISTS and full in (name, f"{name}[]"):
            lists.setdefault(name, []).extend(values)
        elif name == "chunking_strategy" and bracket:
            raise _unsupported(name, "long audio is always cut at pauses, about which nothing can be chosen")
        elif bracket:
            param = shown(full)
            raise ApiError(400, f"{param}: unknown parameter", code="unknown_parameter", param=param)
        elif len(values) > 1:
            raise ApiError(400, f"{name}: expected only one", code="duplicate_parameter", param=name)
        else:
            scalars[name] = values[0]
    return scalars, lists


def invalid_keywords(error: InvalidHotwords) -> ApiError:
    """Return the response to phrases that cannot be used."""
    return ApiError(400, f"keywords: {error}", code="invalid_value", param="keywords")


def _temperature(text: str) -> float:
    try:
        temperature = float(text)
        if 0 <= temperature <= 2:
            return temperature
    except ValueError:
        pass
    message = f"temperature: {shown(text)!r} is not a number from 0 to 2"
    raise ApiError(400, message, code="invalid_value", param="temperature")


def _check_together(parameters: Parameters, has_granularities: bool) -> None:
    if has_granularities and parameters.response_format != "verbose_json":
        raise _unsupported("timestamp_granularities", "needs response_format verbose_json")
    if parameters.stream and parameters.response_format != "json":
        raise _unsupported("response_format", f"{parameters.response_format} cannot be streamed, only json")
    if "logprobs" in parameters.include and parameters.response_format != "json":
        raise _unsupported("include", "logprobs need response_format json")
    if "words" in parameters.include and not parameters.stream:
        raise _unsupported("include", "words need stream=true; else there are the words of verbose_json")


def _truth(name: str, value: str) -> bool:
    return _one_of(name, value.lower(), ("true", "false")) == "true"


def _one_of(name: str, value: str, choices: tuple[Choice, ...]) -> Choice:
    if value not in choices:
        message = f"{name}: {shown(value)!r} is not one of {', '.join(choices)}"
        raise ApiError(400, message, code="invalid_value", param=name)
    return value


def _unsupported(name: str, why: str) -> ApiError:
    return ApiError(400, f"{name}: {why}", code="unsupported_value", param=name)
