"""Declare an option once, beside its type and default. Python, the command line, the server and the docs read it.

beam_size: Annotated[int, Option("Hypotheses that the searches keep.", low=1)] = 10
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from unichoir.errors import DecodingError, UnichoirError


@dataclass(frozen=True)
class Option:
    """What an option's annotation adds to its type.

    `flag`, `metavar`, `panel`, `scale` and `zero_is_none` are for the command line, `http` and `wenet` for clients of
    the server.
    """

    help: str
    low: float = -math.inf
    """The least value."""
    high: float = math.inf
    """The greatest value."""
    unit: str = ""
    endless: bool = False
    """Infinity is a value."""
    none: str = ""
    """What None means."""
    flag: str | None = ""
    """Empty: the field's name, with dashes. None: the command line doesn't have this option, or reads it by itself."""
    metavar: str = ""
    """Empty: from the type and the unit."""
    panel: str | None = None
    """The heading in `--help`."""
    scale: int = 1
    """The field's value is this many times the number on the command line, which has a larger unit."""
    zero_is_none: bool = False
    """0 on the command line is None."""
    http: str = ""
    """The name in forms and in realtime sessions. Empty: clients cannot choose."""
    wenet: str = ""
    """The key in WeNet's start signal."""


@dataclass(frozen=True)
class Declared:
    """A field of a class of options, with its declaration."""

    name: str
    kind: Any
    """The type, without None."""
    has_none: bool
    default: Any
    option: Option

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of a Literal; empty for other types."""
        return typing.get_args(self.kind) if typing.get_origin(self.kind) is typing.Literal else ()

    @property
    def nested(self) -> "tuple[Declared, ...]":
        """The options of a field that is a class of options itself."""
        return declared(self.kind) if dataclasses.is_dataclass(self.kind) else ()

    @property
    def range(self) -> str:
        """The range in words; empty if any number will do."""
        low, high = self.option.low, self.option.high
        if high < math.inf:
            return f"from {low:g} to {high:g}"
        return f"at least {low:g}" if low > -math.inf else ""

    def check(self, value: object, error: type[UnichoirError] = DecodingError) -> None:
        """Raise `error`, which starts with the name, unless the value has the right type and lies in the range."""
        if value is None and self.has_none:
            return
        expected = ""
        if self.choices:
            if value not in self.choices:
                raise error(f"{self.name}: {value!r} is not one of {', '.join(self.choices)}")
        elif self.kind in (int, float):
            number = "a whole number" if self.kind is int else "a number"
            is_number = isinstance(value, int if self.kind is int else (int, float)) and not isinstance(value, bool)
            if not is_number or not self._in_range(typing.cast(float, value)):
                of = " of" if self.option.high == math.inf else ""
                expected = f"{number}{of} {self.range}" if self.range else f"a finite {number[2:]}"
        elif self.kind is bool:
            expected = "" if isinstance(value, bool) else f"True{',' if self.has_none else ' or'} False"
        elif typing.get_origin(self.kind) is tuple:
            item = typing.get_args(self.kind)[0]
            is_tuple = isinstance(value, tuple) and all(isinstance(each, item) for each in value)
            expected = "" if is_tuple else f"a tuple of {item.__name__}"
        elif not isinstance(value, self.kind):
            expected = str(self.kind.__name__)
        if expected:
            raise error(f"{self.name}: expected {expected}{' or None' if self.has_none else ''}, found {value!r:.100}")

    def _in_range(self, value: float) -> bool:
        return (math.isfinite(value) or self.option.endless) and self.option.low <= value <= self.option.high


def declared(kind: Any) -> tuple[Declared, ...]:
    """Return the options that the dataclass `kind` declares, in order."""
    return _read(kind)


@cache
def _read(kind: Any) -> tuple[Declared, ...]:
    hints = typing.get_type_hints(kind, include_extras=True)
    found = []
    for field in dataclasses.fields(kind):
        if typing.get_origin(hints[field.name]) is not typing.Annotated:
            continue
        hint, *notes = typing.get_args(hints[field.name])
        for option in (note for note in notes if isinstance(note, Option)):
            is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
            kinds = [each for each in typing.get_args(hint) if each is not type(None)] if is_union else [hint]
            default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            found.append(Declared(field.name, kinds[0], is_union, default, option))
    return tuple(found)


def check_options(options: Any, error: type[UnichoirError] = DecodingError) -> None:
    """Raise `error` for the first option of the wrong type or out of its range."""
    for each in declared(type(options)):
        each.check(getattr(options, each.name), error)


def client_options(kind: type, protocol: typing.Literal["http", "wenet"]) -> Mapping[str, Declared]:
    """Return the options that clients may choose, by the protocol's names for them."""
    return {name: each for each in declared(kind) if (name := getattr(each.option, protocol))}
