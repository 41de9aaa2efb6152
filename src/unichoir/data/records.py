"""Lines of text files with their places, JSON lines, and checks of values."""

import json
import math
import sys
from collections.abc import Iterator, Mapping

from unichoir.data.storage import read_bytes
from unichoir.errors import ManifestError


def read_lines(location: str) -> Iterator[tuple[str, str]]:
    """Yield (file:line, text) for every line that is not blank. Raises ManifestError."""
    try:
        content = read_bytes(location)
    except OSError as error:
        raise ManifestError(f"{location}: {error.strerror or error}") from None
    for number, raw in enumerate(content.split(b"\n"), start=1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError:
            raise ManifestError(f"{location}:{number}: not UTF-8") from None
        if line:
            yield f"{location}:{number}", line


def read_json_lines(location: str, required: tuple[str, ...]) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield (file:line, object) for every line. Raises ManifestError, also if a `required` name is missing."""
    for where, line in read_lines(location):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{where}: not JSON ({error})") from None
        if not isinstance(entry, dict):
            raise ManifestError(f"{where}: expected a JSON object, found {line[:40]}")
        for name in required:
            if name not in entry:
                raise ManifestError(f"{where}: missing '{name}'")
        yield where, entry


def text_of(entry: Mapping[str, object], name: str, where: str) -> str:
    """Return a text; "" if it is missing. Raises ManifestError."""
    value = entry.get(name, "")
    # JSON can contain null characters and unpaired surrogates, which paths and UTF-8 can't represent.
    if not isinstance(value, str) or "\0" in value or value != value.encode("utf-8", "replace").decode("utf-8"):
        raise ManifestError(f"{where}: '{name}' must be text, found {value!r}")
    return value


def seconds_of(entry: Mapping[str, object], name: str, where: str) -> float | None:
    """Return a length or time in seconds; None if it is missing. Raises ManifestError."""
    value = entry.get(name)
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise ManifestError(f"{where}: '{name}' must be a number of seconds, found {value!r}")
    return float(min(value, sys.maxsize))


def count_of(entry: Mapping[str, object], name: str, where: str, at_least: int = 0) -> int:
    """Return a whole number. Raises ManifestError."""
    value = entry.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not at_least <= value <= sys.maxsize:
        raise ManifestError(f"{where}: '{name}' must be a whole number of at least {at_least}, found {value!r}")
    return value
