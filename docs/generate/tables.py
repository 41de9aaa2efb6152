"""Markdown tables, and what the pages say about types, ranges and defaults."""

import dataclasses
import math
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unichoir.configuration import POSITIVE

TYPES = {int: "whole number", float: "number", bool: "true or false", str: "text", Path: "path"}
GENERATED = "This page is generated from the code by `python -m docs.generate`."


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Return the lines of a table, and an empty one."""
    columns = list(columns)
    lines = [columns, ["---"] * len(columns), *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines] + [""]


def kind(hint: Any) -> str:
    """Return a type in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("`null`" if each is type(None) else kind(each) for each in arguments)
    if origin is typing.Literal:
        return ", ".join(f"`{each}`" for each in arguments)
    if origin in (tuple, list, frozenset):
        several = origin is not tuple or arguments[-1] is Ellipsis
        return f"list of {kind(arguments[0])}s" if several and arguments[0] in TYPES else f"list: {kind(arguments[0])}"
    if origin is dict:
        return f"mapping of {kind(arguments[0])} to {kind(arguments[1])}"
    return TYPES.get(hint, "keys of its own")


def span(low: float, high: float) -> str:
    """Return a range, both ends included; empty for no range."""
    if low == -math.inf:
        return "" if high == math.inf else f"up to {number(high)}"
    if low == POSITIVE[0]:
        return "above 0" if high == math.inf else f"above 0, up to {number(high)}"
    return f"{number(low)} or more" if high == math.inf else f"{number(low)} to {number(high)}"


def number(value: float) -> str:
    """Return a number without needless digits."""
    return str(int(value)) if abs(value) < 1e9 and value == int(value) else f"{value:g}"


def yaml(value: object) -> str:
    """Return a default in YAML, which is also JSON; empty for nested keys."""
    if dataclasses.is_dataclass(value):
        return ""
    if isinstance(value, bool) or value is None:
        return f"`{'null' if value is None else str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`"
