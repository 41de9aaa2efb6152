"""What a search may know of token sequences beyond the audio: phrases to expect, a language model."""

from collections.abc import Sequence
from typing import Any, Protocol


class PrefixScorer(Protocol):
    """Adds to the CTC scores of prefixes, in natural log. Immutable: what it remembers of a prefix is a state."""

    def start(self) -> Any:
        """The state of the empty prefix."""
        ...

    def extend(self, state: Any, token: int) -> tuple[Any, float]:
        """The state after one token more, and what that token adds."""
        ...

    def finish(self, state: Any) -> float:
        """What it adds that the utterance ends here; partial results are ranked without it."""
        ...


class JointScorer:
    """Several scorers as one: what they add is summed."""

    def __init__(self, scorers: Sequence[PrefixScorer]) -> None:
        self._scorers = tuple(scorers)

    def start(self) -> tuple[Any, ...]:
        """The states of all."""
        return tuple(scorer.start() for scorer in self._scorers)

    def extend(self, state: tuple[Any, ...], token: int) -> tuple[tuple[Any, ...], float]:
        """See `PrefixScorer.extend`."""
        steps = [scorer.extend(each, token) for scorer, each in zip(self._scorers, state, strict=True)]
        return tuple(each for each, _ in steps), sum(added for _, added in steps)

    def finish(self, state: tuple[Any, ...]) -> float:
        """See `PrefixScorer.finish`."""
        return sum(scorer.finish(each) for scorer, each in zip(self._scorers, state, strict=True))
