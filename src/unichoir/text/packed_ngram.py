"""N-gram models in a file of their own kind: small, mapped into memory, read without a compiled package.

A tree of sorted arrays, as in KenLM's trie (Heafield 2011): after a header in JSON the words, then for each order the
last word of each n-gram (two bytes where that is enough), its log-probability and its backoff in a byte each, and where
the n-grams of the next order begin that go on from it. Of the highest order an n-gram takes 4 bytes or less.
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
"""Places of the last word, of the last two words, ..., each among the n-grams of its order, as far as there are any."""


class _Level(NamedTuple):
    """The n-grams of one order as views of the file; unigrams have no `words`, the highest order no last three."""

    words: Any
    scores: Any
    score_values: Sequence[float]
    """What the 256 values of `scores` stand for."""
    backoffs: Any
    backoff_values: Sequence[float]
    children: Any


def write_packed(model: NgramModel, file: BinaryIO) -> None:
    """Write a model whose n-grams are sorted and closed: with each its beginning and its end, as trained or pruned.

    Log-probabilities and backoffs are rounded to 256 values of each order, evenly between the least and the largest.
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
    """(N,) of log10 the nearest of the steps between least and largest, which are returned too; 0 counts as least."""
    logs = np.log10(values, out=np.full_like(values, np.inf), where=values > 0)
    known = logs[np.isfinite(logs)]
    least, most = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    logs[~np.isfinite(logs)] = least
    steps = np.rint((logs - least) * (_STEPS / (most - least) if most > least else 0.0))
    return steps.astype(np.uint8), (least, most)


def is_packed(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as packed models do; False also for one that cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


class PackedNgram:
    """A model that `write_packed` wrote. For any thread: nothing in it changes.

    Raises CheckpointError naming a file that is missing, truncated or damaged.
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
        """N-grams of each order."""
        self._ids = {word: place for place, word in enumerate(self.words)}

    def begin(self) -> State:
        """The state after <s>."""
        return (self._ids[BEGIN],)

    def score(self, state: State, word: str) -> tuple[State, float, bool]:
        """The state after `word`, its log10 probability, and whether the model knows it."""
        index = self._ids.get(word, 0)
        level = self._levels[0]
        score, backoff = level.score_values[level.scores[index]], 0.0
        found = [index]
        for place, node in enumerate(state, start=1):
            level = self._levels[place - 1]
            # The end of an n-gram that is there is among those of the order below: behind one that is not comes none.
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
    """Words and n-grams. Raises ValueError, KeyError, TypeError, IndexError, AttributeError for what is malformed."""
    view = memoryview(content)
    end = content.find(b"\n", len(MAGIC)) + 1
    if view[: len(MAGIC)] != MAGIC or not end:
        raise ValueError("it begins otherwise")
    header = json.loads(bytes(view[len(MAGIC) : end]))
    counts, sizes = header["counts"], header["sizes"]
    if not 1 <= len(counts) <= MAX_ORDER or len(header["ranges"]) != len(counts):
        raise ValueError("its header makes no sense")
    sections: list[memoryview] = []
    for size in sizes:
        sections.append(view[end : end + size])
        end += size + -size % _ALIGNMENT
    if len(view) != end:
        raise ValueError(f"{len(view)} bytes, expected {end}")
    parts = iter(sections)
    words = str(next(parts), "utf-8").split("\n")
    if len(words) != counts[0] or words[0] != UNKNOWN or BEGIN not in words:
        raise ValueError("its words are not those it counts")
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
            raise ValueError(f"its {place + 1}-grams are not as many as it counts")
        levels.append(level)
    return words, levels


def _values(least: float, most: float) -> list[float]:
    if not (math.isfinite(least) and math.isfinite(most)):
        raise ValueError("its probabilities are no numbers")
    return [least + step * (most - least) / _STEPS for step in range(_STEPS + 1)]
