"""The prefixes of a CTC beam search: a tree of token sequences with the sums over their alignments."""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from unichoir.search.hypothesis import Hypothesis

NEVER = -math.inf
OUTSIDE = -1
"""The rank of a prefix outside the beam."""

_Frames: TypeAlias = "tuple[()] | tuple[_Frames, int]"
"""Frames of a prefix's tokens, the last one outermost; longer prefixes link to the frames of shorter ones."""


class Growth(NamedTuple):
    """The alignments of a prefix with one more token: their sum, the best one, and the frames of the tokens before."""

    total: float
    best: float
    frames: _Frames


@dataclass(slots=True, eq=False, repr=False)
class Prefix:
    """The log-probability of all alignments of one prefix so far, and of the best one.

    `blank`, `token`: sums over the alignments that end in blank or in the prefix's last token; `score`: their sum.
    `best_*`: the best alignment of each kind. `frames_*`: the last frame of the run of each token in it; the run of the
    last token is not over, so `frames_token` does not include it.

    Prefixes form a tree that holds the beam and its ancestors; `parent` is the prefix without its last token. The cost
    of comparing and extending prefixes does not depend on their length.

    `bonus`: the total that a scorer added; `state`: the scorer's state; `extensions`: both for the prefix with one more
    token, as far as they are known.
    """

    parent: "Prefix | None" = None
    last: int = -1
    rank: int = OUTSIDE
    blank: float = NEVER
    token: float = NEVER
    score: float = NEVER
    best_blank: float = NEVER
    best_token: float = NEVER
    frames_blank: _Frames = ()
    frames_token: _Frames = ()
    children: dict[int, "Prefix"] = field(default_factory=dict)
    bonus: float = 0.0
    state: Any = None
    extensions: dict[int, tuple[Any, float]] | None = None

    def child(self, token: int) -> "Prefix":
        """Return this prefix with one more token."""
        child = self.children.get(token)
        if child is None:
            child = self.children[token] = Prefix(self, token)
        return child

    def grow(self, token: int, score: float, now: int) -> Growth:
        """Return the alignments that continue with `token`, of log-probability `score`, in frame `now`.

        A repeated token needs a blank in between.
        """
        if token == self.last:
            return Growth(self.blank + score, self.best_blank + score, self.frames_blank)
        if self.best_blank > self.best_token:
            return Growth(self.score + score, self.best_blank + score, self.frames_blank)
        return Growth(self.score + score, self.best_token + score, (self.frames_token, now - 1))

    def stay(self, blank: float, token: float, now: int) -> None:
        """Extend the alignments to frame `now` with a blank or the last token again; their log-probabilities."""
        if self.best_token >= self.best_blank:
            self.best_blank, self.frames_blank = self.best_token, (self.frames_token, now - 1)
        self.best_blank += blank
        self.best_token += token
        self.blank = self.score + blank
        self.token += token
        self.score = log_add(self.blank, self.token)

    def join(self, growth: Growth, parent_first: bool) -> None:
        """Add the alignments in which the last token is new in this frame; after `stay`."""
        # As in WeNet, a parent of a higher rank passes on its frames even if growing is less probable.
        if growth.best > (NEVER if parent_first else self.best_token):
            self.frames_token = growth.frames
        self.best_token = max(self.best_token, growth.best)
        self.token = log_add(self.token, growth.total)
        self.score = log_add(self.blank, self.token)

    def start(self, growth: Growth) -> None:
        """Enter the beam; in all alignments the last token is new in this frame."""
        self.blank = self.best_blank = NEVER
        self.token = self.score = growth.total
        self.best_token, self.frames_token = growth.best, growth.frames

    def prune(self) -> None:
        """Leave the tree unless a longer prefix needs this one; also remove ancestors that are no longer needed."""
        node = self
        while node.parent is not None and node.rank == OUTSIDE and not node.children:
            node.parent.children.pop(node.last, None)
            node = node.parent

    def hypothesis(self, num_frames: int) -> Hypothesis:
        """Return this prefix as a hypothesis after `num_frames` frames."""
        tokens, frames, node = [], [], self
        linked = self.frames_blank if self.best_blank > self.best_token else (self.frames_token, num_frames - 1)
        while node.parent is not None:
            tokens.append(node.last)
            node = node.parent
        while linked:
            linked, frame = linked
            frames.append(frame)
        return Hypothesis(tokens=tuple(reversed(tokens)), score=self.score, frames=tuple(reversed(frames)))


def log_add(a: float, b: float) -> float:
    """Return log(exp(a) + exp(b))."""
    if a < b:
        a, b = b, a
    return a if b == NEVER else a + math.log1p(math.exp(b - a))
