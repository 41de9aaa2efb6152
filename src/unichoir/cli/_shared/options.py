"""Command-line options, made from the declarations of `unichoir.declaration`.

A command takes `Chosen[DecodingOptions]`, and `grouping.grouped` gives it one option for each declared field.
"""

import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING
from typing import Annotated, Any, Generic, TypeVar

import typer

from unichoir.declaration import Declared, declared
from unichoir.errors import UnichoirError

T = TypeVar("T")
METAVARS = {int: "N", float: "X"}


class Chosen(Generic[T]):
    """The values of a command line for the fields of `T`. Options that are not given have their defaults."""

    def __init__(self, kind: type[T], fields: Mapping[str, Any]) -> None:
        self.kind = kind
        self.fields = fields

    def make(self, **more: Any) -> T:
        """Return the options. more: fields from elsewhere. Invalid values are errors of usage."""
        try:
            return self.kind(**{**self.fields, **more})
        except UnichoirError as error:
            raise typer.BadParameter(str(error)) from None


class Only:
    """Restricts a command to some fields of a class of options, by the names of fields or of panels."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def admits(self, option: Declared) -> bool:
        """Return whether the command has this option."""
        return option.name in self.names or option.option.panel in self.names


class Without(Only):
    """Leaves out some fields."""

    def admits(self, option: Declared) -> bool:
        """Return whether the command has this option."""
        return not super().admits(option)


def parameters(kind: type, selection: Only) -> list[inspect.Parameter]:
    """Return one parameter for typer for each declared option."""
    return [
        inspect.Parameter(
            _name(each), inspect.Parameter.KEYWORD_ONLY, default=_default(each), annotation=_annotation(each)
        )
        for each in _leaves(kind, selection)
    ]


def choose(kind: type[T], selection: Only, values: Mapping[str, Any]) -> Chosen[T]:
    """Return the fields for the values of the parameters."""
    fields: dict[str, Any] = {}
    for each in declared(kind):
        if each.nested:
            inner = {leaf.name: _value(leaf, values[_name(leaf)]) for leaf in _leaves(each.kind, selection)}
            # Some values limit others that the command line doesn't have.
            make = getattr(each.kind, "fitted", each.kind)
            if inner:
                fields[each.name] = Chosen(make, inner).make()
        elif each.option.flag is not None and selection.admits(each):
            fields[each.name] = _value(each, values[_name(each)])
    return Chosen(kind, fields)


def _leaves(kind: type, selection: Only) -> Iterator[Declared]:
    for each in declared(kind):
        if each.nested:
            yield from _leaves(each.kind, selection)
        elif each.option.flag is not None and selection.admits(each):
            yield each


def flag(option: Declared) -> str:
    """Return an option's name on the command line, or the two names of a pair of flags, separated by a slash."""
    return option.option.flag or f"--{option.name.replace('_', '-')}"


def _name(option: Declared) -> str:
    return flag(option).partition("/")[0].removeprefix("--").replace("-", "_")


def _default(option: Declared) -> Any:
    if option.default is None and option.option.zero_is_none:
        return 0
    if option.default is MISSING:
        return inspect.Parameter.empty
    if option.option.scale == 1:
        return option.default
    return option.default // option.option.scale if option.kind is int else option.default / option.option.scale


def _annotation(option: Declared) -> Any:
    declaration = option.option
    kind = option.kind if not option.has_none or declaration.zero_is_none else option.kind | None
    low = 0 if declaration.zero_is_none else declaration.low / declaration.scale
    annotated: Any = Annotated
    return annotated[
        kind,
        typer.Option(
            flag(option),
            help=f"{declaration.help} 0: {declaration.none}." if declaration.zero_is_none else declaration.help,
            metavar=declaration.metavar or _metavar(option),
            min=None if low == -math.inf else _number(option, low),
            max=None if declaration.high == math.inf else _number(option, declaration.high / declaration.scale),
            show_default=declaration.none if option.default is None and not declaration.zero_is_none else True,
            rich_help_panel=declaration.panel,
        ),
    ]


def _number(option: Declared, value: float) -> float:
    return math.ceil(value) if option.kind is int or value == int(value) else value


def _metavar(option: Declared) -> str | None:
    if option.choices:
        return "|".join(option.choices)
    return "S" if option.option.unit == "s" else METAVARS.get(option.kind)


def _value(option: Declared, given: Any) -> Any:
    """Return the field's value for a value of the command line."""
    declaration = option.option
    if declaration.zero_is_none and given == 0:
        return None
    if declaration.zero_is_none and given < declaration.low:
        raise typer.BadParameter(f"0, or at least {declaration.low:g}", param_hint=flag(option))
    return given * declaration.scale if declaration.scale != 1 else given
