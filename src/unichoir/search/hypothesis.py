"""The result of a search."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A token sequence with its score."""

    tokens: tuple[int, ...]
    score: float
    """Natural log; its terms depend on the search."""
    frames: tuple[int, ...] = ()
    """Encoder frame of each token: the end of its run in the best CTC alignment. Empty if unknown."""
    bonus: float = 0.0
    """The part of the score from hotwords and the language model."""
