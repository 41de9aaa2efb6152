"""What a client may choose about a transcription: OpenAI's parameters, of which none is ignored in silence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from unichoir.search.hotwords import Hotword
from unichoir.serving.errors import ApiError, shown
from unichoir.serving.hotwords import InvalidHotwords, client_hotwords
from unichoir.serving.settings import Settings, UnknownLanguage

Format = Literal["json", "text", "verbose_json", "srt", "vtt"]
Granularity = Literal["word", "segment"]
Included = Literal["logprobs", "words"]
Choice = TypeVar("Choice", bound=str)

_LISTS = ("timestamp_granularities", "include", "keywords")
_UNSUPPORTED = {
    "languages": "only one can be chosen, by `language`",
    "known_speaker_names": "this model does not tell speakers apart",
    "known_speaker_references": "this model does not tell speakers apart",
}
_SCALARS = ("model", "language", "prompt", "response_format", "temperature", "stream", "chunking_strategy", "verbatim")
NAMES = frozenset([*_SCALARS, *_LISTS, *_UNSUPPORTED])
"""All that OpenAI's documentation lists, but for the file, and `verbatim`, which is ours."""


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Of one request, checked."""

    response_format: Format = "json"
    granularities: frozenset[Granularity] = frozenset(("segment",))
    stream: bool = False
    include: frozenset[Included] = frozenset()
    hotwords: tuple[Hotword, ...] | None = None
    """OpenAI's `keywords`; None: the server's own."""
    language: str | None = None
    """The only one to recognise; None: as the server says."""
    verbatim: bool | None = None
    """Whether to leave the bare words; None: as the server says."""
    ignored: tuple[str, ...] = ()
    """Parameters that clients send by default and that have no effect here; the answer names them."""


def parse_parameters(fields: Mapping[str, Sequence[str]], settings: Settings) -> Parameters:
    """The parameters of a form's fields, by name all their values.

    An empty language or prompt is none. Raises ApiError naming the parameter: 404 for another model, else 400.
    """
    scalars, lists = _sorted_out(fields)
    model = scalars.get("model")
    if model is None:
        raise ApiError(400, "model: missing", code="missing_required_parameter", param="model")
    check_model(model, settings)
    try:
        language = settings.choose_language(scalars.get("language", ""))
    except UnknownLanguage as error:
        raise _unsupported("language", f"{shown(scalars['language'])}: {error}") from None
    if scalars.get("chunking_strategy", "auto") != "auto":
        raise _unsupported("chunking_strategy", "long audio is always cut at pauses, which is what auto means here")
    ignored = ["prompt"] if scalars.get("prompt") else []
    if _temperature(scalars.get("temperature", "0")):
        ignored.append("temperature")
    if (response_format := scalars.get("response_format", "json")) == "diarized_json":
        raise _unsupported("response_format", "diarized_json: this model does not tell speakers apart")
    parameters = Parameters(
        response_format=_one_of("response_format", response_format, get_args(Format)),
        granularities=frozenset(
            _one_of("timestamp_granularities", value, get_args(Granularity))
            for value in lists.get("timestamp_granularities", ["segment"])
        ),
        stream=_truth("stream", scalars.get("stream", "false")),
        include=frozenset(_one_of("include", value, get_args(Included)) for value in lists.get("include", [])),
        hotwords=_hotwords(lists["keywords"], settings) if "keywords" in lists else None,
        language=language,
        verbatim=_truth("verbatim", scalars["verbatim"]) if "verbatim" in scalars else None,
        ignored=tuple(ignored),
    )
    _check_together(parameters, has_granularities="timestamp_granularities" in lists)
    return parameters


def check_model(name: str, settings: Settings) -> None:
    """Raises ApiError, 404, for a model that is not here."""
    if name not in settings.model_names:
        message = f"model: there is no {shown(name)!r} here, only {settings.model_name!r}"
        raise ApiError(404, message, code="model_not_found", param="model")


def _sorted_out(fields: Mapping[str, Sequence[str]]) -> tuple[dict[str, str], dict[str, list[str]]]:
    scalars: dict[str, str] = {}
    lists: dict[str, list[str]] = {}
    for field, values in fields.items():
        name, bracket, _ = field.partition("[")
        if name in _UNSUPPORTED:
            raise _unsupported(name, _UNSUPPORTED[name])
        if name in _LISTS and field in (name, f"{name}[]"):
            lists.setdefault(name, []).extend(values)
        elif name == "chunking_strategy" and bracket:
            raise _unsupported(name, "long audio is always cut at pauses, about which nothing can be chosen")
        elif bracket:
            param = shown(field)
            raise ApiError(400, f"{param}: there is no such parameter", code="unknown_parameter", param=param)
        elif len(values) > 1:
            raise ApiError(400, f"{name}: there may be one only", code="duplicate_parameter", param=name)
        else:
            scalars[name] = values[0]
    return scalars, lists


def invalid_keywords(error: InvalidHotwords) -> ApiError:
    """What is answered to them."""
    return ApiError(400, f"keywords: {error}", code="invalid_value", param="keywords")


def _hotwords(phrases: list[str], settings: Settings) -> tuple[Hotword, ...]:
    try:
        return client_hotwords(phrases, settings)
    except InvalidHotwords as error:
        raise invalid_keywords(error) from None


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
