"""What clients choose about recognition: the options whose declarations have a name for clients."""

import typing
from collections.abc import Mapping, Sequence
from typing import Any

from unichoir.declaration import Declared, client_options
from unichoir.errors import DecodingError
from unichoir.recognition.options import StreamingOptions
from unichoir.search.options import SearchOptions
from unichoir.serving.errors import shown
from unichoir.serving.hotwords import InvalidHotwords, client_hotwords
from unichoir.serving.settings import Settings, UnknownLanguage

HTTP = client_options(SearchOptions, "http")
"""By form field; realtime sessions have the same names."""
WENET = client_options(StreamingOptions, "wenet")
"""By key of WeNet's start signal."""


class InvalidChoice(Exception):
    """A value that is malformed or that the server cannot fulfil. name: the option, as clients call it."""

    def __init__(self, name: str, message: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.name = name
        self.code = code


def choose(given: Mapping[str, Any], options: Mapping[str, Declared], settings: Settings) -> dict[str, Any]:
    """Return the fields of SearchOptions that a client's values, by the client's names, stand for.

    A language that restricts nothing leaves the server's choice. Raises InvalidChoice.
    """
    fields: dict[str, Any] = {}
    for name, value in given.items():
        option = options[name]
        try:
            chosen = _chosen(option, value, settings)
        except UnknownLanguage as error:
            raise InvalidChoice(name, f"{shown(str(value))}: {error}", "unsupported_value") from None
        except InvalidHotwords as error:
            raise InvalidChoice(name, str(error)) from None
        except DecodingError as error:
            raise InvalidChoice(name, str(error).removeprefix(f"{option.name}: ")) from None
        if chosen is not None:
            fields[option.name] = chosen
    return fields


def from_form(option: Declared, values: Sequence[str]) -> Any:
    """Return what the texts of a form field stand for. Text that fits no type stays, for `choose` to refuse."""
    if is_list(option):
        return list(values)
    (text,) = values
    if option.kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return option.kind(text) if option.kind in (int, float) else text
    except ValueError:
        return text


def is_list(option: Declared) -> bool:
    """Whether a form may have several values of the option."""
    return typing.get_origin(option.kind) is tuple


def _chosen(option: Declared, value: Any, settings: Settings) -> Any:
    if option.name == "language":
        return settings.choose_language(str(value))
    if option.name == "hotwords":
        return client_hotwords(value, settings)
    if option.kind is bool and not isinstance(value, bool):
        raise DecodingError(f"{shown(str(value))!r} is not one of true, false")
    option.check(value)
    return value
