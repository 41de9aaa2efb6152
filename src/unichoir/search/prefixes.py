"""The prefixes of a CTC beam search: a tree of token sequences with what their alignments sum to."""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from unichoir.search.hypothesis import Hypothesis

NEVER = -math.inf
OUTSIDE = -1
"""The rank of a prefix that is not in the beam."""

_Frames: TypeAlias = "tuple[()] | tuple[_Frames, int]"
"""Frames of a prefix's tokens, the last one outermost: a longer prefix links to those of a shorter one."""


class Growth(NamedTuple):
    """A prefix's alignments followed by one token more: sum and best one, with the frames of the tokens before it."""

    total: float
    best: float
    frames: _Frames


@dataclass(slots=True, eq=False, repr=False)
class Prefix:
    """Log-probability of all alignments of one prefix so far, and the best single one among them.

    `blank`/`token`: sums over the alignments that end in blank / in the prefix's last token; `score`: over both.
    `best_*`: the largest of them, with the frame of each token in it, the last frame of its run; the last token, whose
    run is not over, has none in `frames_token`.

    Prefixes are a tree, in which `parent` is the prefix without its last token: comparing and extending them costs the
    same however long they are. It holds the beam and what leads there.

    `bonus`: what a scorer has added to it in all, and `state` what that scorer remembers of it; `extensions`: the same
    of the prefix with one token more, as far as they are known.
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
        """This prefix and one token more."""
        child = self.children.get(token)
        if child is None:
            child = self.children[token] = Prefix(self, token)
        return child

    def grow(self, token: int, score: float, now: int) -> Growth:
        """What becomes of it with `token`, of log-probability `score`, in frame `now`.

        The same token twice needs a blank between.
        """
        if token == self.last:
            return Growth(self.blank + score, self.best_blank + score, self.frames_blank)
        if self.best_blank > self.best_token:
            return Growth(self.score + score, self.best_blank + score, self.frames_blank)
        return Growth(self.score + score, self.best_token + score, (self.frames_token, now - 1))

    def stay(self, blank: float, token: float, now: int) -> None:
        """Go on to frame `now` by a blank or by the last token again; their log-probabilities."""
        if self.best_token >= self.best_blank:
            self.best_blank, self.frames_blank = self.best_token, (self.frames_token, now - 1)
        self.best_blank += blank
        self.best_token += token
        self.blank = self.score + blank
        self.token += token
        self.score = log_add(self.blank, self.token)

    def join(self, growth: Growth, parent_first: bool) -> None:
        """Add the alignments in which the last token is new in this frame; after `stay`."""
        # WeNet's times: a parent ranked higher hands on the frames of its tokens even if growing is less probable.
        if growth.best > (NEVER if parent_first else self.best_token):
            self.frames_token = growth.frames
        self.best_token = max(self.best_token, growth.best)
        self.token = log_add(self.token, growth.total)
        self.score = log_add(self.blank, self.token)

    def start(self, growth: Growth) -> None:
        """Enter the beam: all alignments have the last token new in this frame."""
        self.blank = self.best_blank = NEVER
        self.token = self.score = growth.total
        self.best_token, self.frames_token = growth.best, growth.frames

    def prune(self) -> None:
        """Leave the tree unless a longer prefix is there; so do those that were there for this one alone."""
        node = self
        while node.parent is not None and node.rank == OUTSIDE and not node.children:
            node.parent.children.pop(node.last, None)
            node = node.parent

    def hypothesis(self, num_frames: int) -> Hypothesis:
        """What it is after `num_frames` frames."""
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
    """log(exp(a) + exp(b))."""
    if a < b:
        a, b = b, a
    return a if b == NEVER else a + math.log1p(math.exp(b - a))
