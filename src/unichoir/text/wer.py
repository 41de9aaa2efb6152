"""Word and character error rates by Levenshtein alignment.

The functions don't normalise text. Apply `normalize_for_scoring` to both sides first.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from unichoir.text.normalize import split_words

Kind = Literal["correct", "substitution", "deletion", "insertion"]

_DIAGONAL, _DELETION, _INSERTION = 0, 1, 2
_MARKS: dict[Kind, str] = {"correct": "", "substitution": "S", "deletion": "D", "insertion": "I"}


class AlignedPair(NamedTuple):
    """One step of an alignment. A deletion has no hypothesis, an insertion no reference."""

    kind: Kind
    reference: str | None
    hypothesis: str | None


@dataclass(frozen=True, kw_only=True)
class ErrorCounts:
    """Errors of hypotheses against `reference` reference words (or characters). Counts can be added."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference: int = 0

    @property
    def errors(self) -> int:
        """Sum of substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def correct(self) -> int:
        """Number of correctly recognised reference words."""
        return self.reference - self.substitutions - self.deletions

    @property
    def rate(self) -> float:
        """Errors per reference word, possibly above 1. An empty reference counts as one word."""
        return self.errors / max(self.reference, 1)

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(
            substitutions=self.substitutions + other.substitutions,
            deletions=self.deletions + other.deletions,
            insertions=self.insertions + other.insertions,
            reference=self.reference + other.reference,
        )


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> list[AlignedPair]:
    """Return the alignment of two sequences with the fewest errors and, among those, the most correct words.

    The second rule makes the numbers of substitutions, deletions and insertions unique (`a b` against `b c` is a
    deletion and an insertion, not two substitutions). Time and memory grow with the product of the lengths (one byte
    per pair of words).
    """
    moves = _best_moves(reference, hypothesis)
    pairs: list[AlignedPair] = []
    i, j = len(reference), len(hypothesis)
    while i or j:
        move = moves[i, j]
        if move == _DIAGONAL:
            i, j = i - 1, j - 1
            kind: Kind = "correct" if reference[i] == hypothesis[j] else "substitution"
            pairs.append(AlignedPair(kind, reference[i], hypothesis[j]))
        elif move == _DELETION:
            i -= 1
            pairs.append(AlignedPair("deletion", reference[i], None))
        else:
            j -= 1
            pairs.append(AlignedPair("insertion", None, hypothesis[j]))
    return pairs[::-1]


def count_errors(pairs: Iterable[AlignedPair]) -> ErrorCounts:
    """Return the error counts of an alignment."""
    kinds = [pair.kind for pair in pairs]
    insertions = kinds.count("insertion")
    return ErrorCounts(
        substitutions=kinds.count("substitution"),
        deletions=kinds.count("deletion"),
        insertions=insertions,
        reference=len(kinds) - insertions,
    )


def word_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Return the word errors of one utterance.

    Each CJK character is a word, so mixed text gets the usual mixed error rate.
    """
    return count_errors(align(split_words(reference), split_words(hypothesis)))


def char_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Return the character errors of one utterance. White space is not counted, in any script.

    Some toolkits count the space as a character. Their figures for spaced scripts differ slightly.
    """
    return count_errors(align("".join(reference.split()), "".join(hypothesis.split())))


def format_alignment(pairs: Sequence[AlignedPair]) -> str:
    """Format an alignment as lines of reference, hypothesis, and S, D or I under errors; `*` is a missing word."""
    rows: list[list[str]] = [["REF:"], ["HYP:"], ["    "]]
    for pair in pairs:
        known = pair.reference or pair.hypothesis or ""
        cells = [pair.reference, pair.hypothesis, _MARKS[pair.kind]]
        shown = ["*" * _width(known) if cell is None else cell for cell in cells]
        width = max(map(_width, shown))
        for row, cell in zip(rows, shown, strict=True):
            row.append(cell + " " * (width - _width(cell)))
    return "\n".join(" ".join(row).rstrip() for row in rows)


def _best_moves(reference: Sequence[str], hypothesis: Sequence[str]) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Return the last step of the best alignment of all prefixes, (len(reference) + 1, len(hypothesis) + 1)."""
    numbers = {word: number for number, word in enumerate({*reference, *hypothesis})}
    hyp = np.array([numbers[word] for word in hypothesis], dtype=np.int64)
    # One integer orders alignments by errors first, then by substitutions, which are always fewer than `error`.
    error = len(reference) + len(hypothesis) + 1
    inserted = np.arange(len(hypothesis) + 1, dtype=np.int64) * error
    moves = np.full((len(reference) + 1, len(hypothesis) + 1), _INSERTION, dtype=np.uint8)
    cost = inserted
    for i, word in enumerate(reference, start=1):
        best = cost + error
        moves[i] = _DELETION
        diagonal = cost[:-1] + np.where(hyp == numbers[word], 0, error + 1)
        moves[i, 1:][diagonal <= best[1:]] = _DIAGONAL
        best[1:] = np.minimum(best[1:], diagonal)
        # Insertions chain within the row: cost[j] = min over k <= j of best[k] + (j - k) * error.
        cost = np.minimum.accumulate(best - inserted) + inserted
        moves[i][cost < best] = _INSERTION
    return moves


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
