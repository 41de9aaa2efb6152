"""Features of words for the model of English punctuation and case: rows of its table, for known and unknown words."""

from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

NUM_BUCKETS = 8192
"""Number of hash buckets for parts of words."""
NUM_FEATURES = 8


def word_rows(words: Sequence[str], index: Mapping[str, int]) -> NDArray[np.int32]:
    """Return the (N, NUM_FEATURES) rows of the table for N lower-case words.

    index: row of each word in the vocabulary, from 1 to its size V; row 0 is any other word. Rows V + 1 to V +
    NUM_BUCKETS are for prefixes, suffixes, the whole word and its length, by their CRC-32.
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
