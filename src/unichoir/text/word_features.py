"""What the model of English marks and case sees of a word: rows of its table, for any word, known to it or not."""

from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

NUM_BUCKETS = 8192
"""Rows for the parts of words, which share them by chance."""
NUM_FEATURES = 8


def word_rows(words: Sequence[str], index: Mapping[str, int]) -> NDArray[np.int32]:
    """(N, NUM_FEATURES) rows of the table for N words in small letters.

    index: row by word of the vocabulary, 1 to its size V; row 0 is any other word. The rows V + 1 to V + NUM_BUCKETS
    are for beginnings, ends, whole and length of words, by the CRC-32 of each.
    """
    first = len(index) + 1
    rows: list[list[Any]] = [
        [index.get(word, 0), *(first + crc32(part.encode()) % NUM_BUCKETS for part in _parts(word))] for word in words
    ]
    return np.array(rows, dtype=np.int32).reshape(-1, NUM_FEATURES)


def _parts(word: str) -> tuple[str, ...]:
    shape = f"{min(len(word), 12)} {chr(39) in word}"
    return (
        f"^{word[:2]}",
        f"^{word[:4]}",
        f"{word[-2:]}$",
        f"{word[-3:]}$",
        f"{word[-4:]}$",
        f"^{word}$",
        f"# {shape}",
    )
