"""A compact file format for n-gram models: memory-mapped, and read without a compiled package.

The format is a tree of sorted arrays, as in KenLM's trie (Heafield 2011). After a JSON header and the words, each order
has the last word of each n-gram (two bytes if that suffices), its log-probability and its backoff in a byte each, and
the start of its continuations in the next order. An n-gram of the highest order takes 4 bytes or less.
"""

import json
import math
import mmap
import os
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from unichoir.errors import CheckpointError
from unichoir.text.ngram import BEGIN, MAX_ORDER, UNKNOWN, Floats, NgramModel

MAGIC = b"unichoir n-gram 1\n"
_ALIGNMENT = 8
_STEPS = 255

State: TypeAlias = "tuple[int, ...]"
"""Places of the last word, the last two words, ..., each in its order, as far as the n-grams exist."""


class _Level(NamedTuple):
    """The n-grams of one order as views of the file.

    Unigrams have no `words`; the highest order lacks the last three.
    """

    words: Any
    scores: Any
    score_values: Sequence[float]
    """The values of the 256 codes in `scores`."""
    backoffs: Any
    backoff_values: Sequence[float]
    children: Any


def write_packed(model: NgramModel, file: BinaryIO) -> None:
    """Write a model whose n-grams are sorted and include the prefix and suffix of each, as trained or pruned.

    Log-probabilities and backoffs are rounded to 256 values per order, evenly spaced between minimum and maximum.
    """
    wide = len(model.words) > 1 << 16
    sections: list[bytes] = ["\n".join(model.words).encode()]
    ranges: list[list[tuple[float, float]]] = []
    for place, level in enumerate(model.grams):
        if place:
            sections.append(level.word.astype("<u4" if wide else "<u2").tobytes())
        scores, span = _quantize(model.probabilities[place])
        sections.append(scores.tobytes())
        ranges.append([span])
        if place + 1 < model.order:
            backoffs, span = _quantize(model.backoffs[place])
            first = np.searchsorted(model.grams[place + 1].context, np.arange(len(level.word) + 1))
            sections += [backoffs.tobytes(), first.astype("<u4").tobytes()]
            ranges[-1].append(span)
    counts = [len(level.word) for level in model.grams]
    header = json.dumps({"counts": counts, "sizes": [len(section) for section in sections], "ranges": ranges}).encode()
    header += b" " * (-(len(MAGIC) + len(header) + 1) % _ALIGNMENT) + b"\n"
    file.write(MAGIC + header)
    for section in sections:
        file.write(section + bytes(-len(section) % _ALIGNMENT))


def _quantize(values: Floats) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """Return the codes of (N,) log10 values, and the minimum and maximum, between which steps are even. 0 counts as
    minimum."""
    logs = np.log10(values, out=np.full_like(values, np.inf), where=values > 0)
    known = logs[np.isfinite(logs)]
    least, most = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    logs[~np.isfinite(logs)] = least
    steps = np.rint((logs - least) * (_STEPS / (most - least) if most > least else 0.0))
    return steps.astype(np.uint8), (least, most)


def is_packed(path: str | os.PathLike[str]) -> bool:
    """Return whether a file starts like a packed model. Unreadable files return False."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


class PackedNgram:
    """A model that `write_packed` wrote. It is immutable and thread-safe.

    Raises CheckpointError, naming the file, if it is missing, truncated or damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        try:
            with open(self.path, "rb") as file:
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: empty
            raise CheckpointError(f"{self.path}: {getattr(error, 'strerror', None) or error}") from None
        try:
            self.words, self._levels = _read(content)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            reason = f"not a packed language model, or truncated or damaged ({error})"
            raise CheckpointError(f"{self.path}: {reason}") from None
        self.order = len(self._levels)
        self.counts = [len(level.scores) for level in self._levels]
        """Number of n-grams of each order."""
        self._ids = dict(zip(self.words, range(len(self.words)), strict=True))

    def begin(self) -> State:
        """The state after <s>."""
        return (self._ids[BEGIN],)

    def score(self, state: State, word: str) -> tuple[State, float, bool]:
        """Return the state after `word`, its log10 probability, and whether the model knows the word."""
        index = self._ids.get(word, 0)
        level = self._levels[0]
        score, backoff = level.score_values[level.scores[index]], 0.0
        found = [index]
        for place, node in enumerate(state, start=1):
            level = self._levels[place - 1]
            # The suffix of an existing n-gram exists in the order below, so a missing one ends the search.
            if len(found) == place:
                longer, end = self._levels[place], level.children[node + 1]
                child = bisect_left(longer.words, index, level.children[node], end)
                if child < end and longer.words[child] == index:
                    score = longer.score_values[longer.scores[child]]
                    found.append(child)
                    continue
            backoff += level.backoff_values[level.backoffs[node]]
        return tuple(found[: self.order - 1]), score + backoff, index != 0


def _read(content: mmap.mmap) -> tuple[list[str], list[_Level]]:
    """Return words and n-grams.

    Raises ValueError, KeyError, TypeError, IndexError or AttributeError for invalid files.
    """
    view = memoryview(content)
    end = content.find(b"\n", len(MAGIC)) + 1
    if view[: len(MAGIC)] != MAGIC or not end:
        raise ValueError("wrong file signature")
    header = json.loads(bytes(view[len(MAGIC) : end]))
    counts, sizes = header["counts"], header["sizes"]
    if not 1 <= len(counts) <= MAX_ORDER or len(header["ranges"]) != len(counts):
        raise ValueError("invalid header")
    sections: list[memoryview] = []
    for size in sizes:
        sections.append(view[end : end + size])
        end += size + -size % _ALIGNMENT
    if len(view) != end:
        raise ValueError(f"{len(view)} bytes, expected {end}")
    parts = iter(sections)
    words = str(next(parts), "utf-8").split("\n")
    if len(words) != counts[0] or words[0] != UNKNOWN or BEGIN not in words:
        raise ValueError("wrong number of words")
    levels = []
    for place, (count, ranges) in enumerate(zip(counts, header["ranges"], strict=True)):
        ids = next(parts).cast("I" if len(words) > 1 << 16 else "H") if place else None
        scores, values = next(parts), _values(*ranges[0])
        level = _Level(ids, scores, values, None, (), None)
        if place + 1 < len(counts):
            backoffs, children = next(parts), next(parts).cast("I")
            level = level._replace(backoffs=backoffs, backoff_values=_values(*ranges[1]), children=children)
            first = np.frombuffer(children, np.uint32)
            if len(backoffs) != count or len(first) != count + 1 or first[-1] != counts[place + 1]:
                raise ValueError(f"its {place + 1}-grams do not lead to {counts[place + 1]} longer ones")
            if first[0] or (first[1:] < first[:-1]).any():
                raise ValueError(f"its {place + 1}-grams are out of order")
        if len(scores) != count or (ids is not None and len(ids) != count):
            raise ValueError(f"its {place + 1}-grams have the wrong number")
        levels.append(level)
    return words, levels


def _values(least: float, most: float) -> list[float]:
    if not (math.isfinite(least) and math.isfinite(most)):
        raise ValueError("invalid probabilities")
    return [least + step * (most - least) / _STEPS for step in range(_STEPS + 1)]
