"""What a search finds."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One token sequence of a search."""

    tokens: tuple[int, ...]
    score: float
    """Natural log; what it sums is said by the search."""
    frames: tuple[int, ...] = ()
    """Encoder frame of each token: where its run ends in the best CTC alignment of the search. Empty when unknown."""
    bonus: float = 0.0
    """The part of the score that hotwords and language model have added."""
