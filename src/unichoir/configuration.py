"""Conversion between plain mappings and frozen dataclasses.

Keys and types are checked, and errors name the key's path.
"""

import dataclasses
import math
import re
import reprlib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar

from unichoir.errors import ConfigError

T = TypeVar("T")

Range: TypeAlias = tuple[float, float]
"""The least and the greatest value that a number may have, both included."""
FRACTION: Range = (0, 1)
NOT_NEGATIVE: Range = (0, math.inf)
POSITIVE: Range = (math.ulp(0.0), math.inf)
AT_LEAST_ONE: Range = (1, math.inf)


def from_mapping(cls: type[T], mapping: object, where: str) -> T:
    """Build the dataclass `cls` from a mapping read from YAML or JSON.

    Nested dataclasses are built from nested mappings. Unknown keys, missing keys without a default and values of
    another type raise ConfigError with the key's full path below `where` (usually the file's name).
    """
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{where}: expected a mapping, found {type(mapping).__name__}")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    unknown = [str(key) for key in mapping if key not in fields]
    if unknown:
        raise ConfigError(f"{where}: unknown key '{unknown[0][:100]}' (known: {', '.join(sorted(fields))})")
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in mapping:
            values[name] = _convert(hints[name], mapping[name], f"{where}: {name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}: missing key '{name}'")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def to_mapping(config: object) -> dict[str, Any]:
    """Invert `from_mapping`: return nested plain dicts and lists, ready for YAML or JSON."""
    return {
        field.name: _plain(getattr(config, field.name))
        for field in dataclasses.fields(config)  # type: ignore[arg-type]
        if field.init
    }


def check_ranges(config: object, **ranges: Range) -> None:
    """Raise ConfigError for a field whose number lies outside its range. None is not checked.

    Unreasonable numbers would otherwise exhaust memory or time, or cause arithmetic errors elsewhere. NaN is always out
    of range.
    """
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if value is not None and not low <= value <= high:
            raise ConfigError(f"{name} must {_bounds(low, high)}, found {shown(value)}")


def _bounds(low: float, high: float) -> str:
    if high == math.inf:
        return "be above 0" if low == POSITIVE[0] else f"be at least {low:g}"
    return f"be at most {high:g}" if low == -math.inf else f"lie between {low:g} and {high:g}"


def shown(value: object) -> str:
    """Return a short representation for messages."""
    brief = reprlib.Repr()
    brief.maxlevel = 2
    return brief.repr(value)


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_mapping(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _convert(hint: Any, value: object, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (hint,) = [argument for argument in arguments if argument is not type(None)]
        return _convert(hint, value, where)
    if origin is typing.Literal:
        if not any(value == each and type(value) is type(each) for each in arguments):
            raise ConfigError(f"{where}: {shown(value)} is not one of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}: expected a list, found {type(value).__name__}")
        if arguments[-1] is not Ellipsis and len(arguments) != len(value):
            raise ConfigError(f"{where}: expected {len(arguments)} values, found {len(value)}")
        hints = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        return tuple(_convert(item_hint, item, where) for item_hint, item in zip(hints, value, strict=True))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: expected a mapping, found {type(value).__name__}")
        return {
            _convert(arguments[0], key, where): _convert(arguments[1], item, f"{where}: {key}")
            for key, item in value.items()
        }
    if dataclasses.is_dataclass(hint):
        return from_mapping(typing.cast(type, hint), value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)  # YAML 1.1 reads 1e-3, without a point or a sign, as a string
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where}: expected {hint.__name__}, found {shown(value)}")
    return value
