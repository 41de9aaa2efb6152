"""Strict reading of the mappings in WeNet's `train.yaml`: no key is ignored silently."""

import math
from collections.abc import Mapping
from typing import Any

from unichoir.errors import ConfigError


class Section:
    """One mapping of train.yaml. Keys are taken one by one, and remaining keys are rejected at the end."""

    def __init__(self, content: object, where: str) -> None:
        if not isinstance(content, Mapping):
            raise ConfigError(f"{where}: expected a mapping, found {type(content).__name__}")
        self.left, self.where = dict(content), where

    def require(self, key: str, *allowed: Any) -> Any:
        """Take a key whose only representable values are `allowed`, the first being WeNet's default."""
        value = self.left.pop(key, allowed[0])
        if value not in allowed:
            known = ", ".join(map(repr, allowed))
            raise ConfigError(f"{self.where}: {key}: {value!r} cannot be represented (only {known})")
        return value

    def take(self, key: str, default: Any) -> Any:
        """Take a key whose value has the default's type; integers are accepted for floats."""
        value: Any = self.left.pop(key, default)
        kind: type = type(default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
            raise ConfigError(f"{self.where}: {key}: expected {kind.__name__}, found {value!r}")
        return value

    def size(self, key: str, default: int) -> int:
        """Take a number of things, at least 1."""
        value: int = self.take(key, default)
        if value < 1:
            raise ConfigError(f"{self.where}: {key}: {value} must be at least 1")
        return value

    def section(self, key: str) -> "Section":
        """Take a mapping. A missing or null mapping is empty."""
        content = self.left.pop(key, None)
        return Section({} if content is None else content, f"{self.where}: {key}")

    def close(self) -> None:
        if self.left:
            raise ConfigError(f"{self.where}: unknown key '{next(iter(self.left))}'")
