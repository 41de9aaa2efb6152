"""CTC prefix beam search (Hannun et al. 2014, arXiv 1408.2873), chunk by chunk or over a whole utterance."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappushpop
from operator import attrgetter
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from unichoir.decoding.hypothesis import Hypothesis

NEVER = -math.inf
OUTSIDE = -1
"""The rank of a prefix that is not in the beam."""

_Frames: TypeAlias = "tuple[()] | tuple[_Frames, int]"
"""Frames of a prefix's tokens, the last one outermost: a longer prefix links to those of a shorter one."""


class _Growth(NamedTuple):
    """A prefix's alignments followed by one token more: sum and best one, with the frames of the tokens before it."""

    total: float
    best: float
    frames: _Frames


@dataclass(slots=True, eq=False, repr=False)
class _Prefix:
    """Log-probability of all alignments of one prefix so far, and the best single one among them.

    `blank`/`token`: sums over the alignments that end in blank / in the prefix's last token; `score`: over both.
    `best_*`: the largest of them, with the frame of each token in it, the last frame of its run; the last token, whose
    run is not over, has none in `frames_token`.

    Prefixes are a tree, in which `parent` is the prefix without its last token: comparing and extending them costs the
    same however long they are. It holds the beam and what leads there.
    """

    parent: "_Prefix | None" = None
    last: int = -1
    rank: int = OUTSIDE
    blank: float = NEVER
    token: float = NEVER
    score: float = NEVER
    best_blank: float = NEVER
    best_token: float = NEVER
    frames_blank: _Frames = ()
    frames_token: _Frames = ()
    children: dict[int, "_Prefix"] = field(default_factory=dict)

    def child(self, token: int) -> "_Prefix":
        """This prefix and one token more."""
        child = self.children.get(token)
        if child is None:
            child = self.children[token] = _Prefix(self, token)
        return child

    def grow(self, token: int, score: float, now: int) -> _Growth:
        """What becomes of it with `token`, of log-probability `score`, in frame `now`.

        The same token twice needs a blank between.
        """
        if token == self.last:
            return _Growth(self.blank + score, self.best_blank + score, self.frames_blank)
        if self.best_blank > self.best_token:
            return _Growth(self.score + score, self.best_blank + score, self.frames_blank)
        return _Growth(self.score + score, self.best_token + score, (self.frames_token, now - 1))

    def stay(self, blank: float, token: float, now: int) -> None:
        """Go on to frame `now` by a blank or by the last token again; their log-probabilities."""
        if self.best_token >= self.best_blank:
            self.best_blank, self.frames_blank = self.best_token, (self.frames_token, now - 1)
        self.best_blank += blank
        self.best_token += token
        self.blank = self.score + blank
        self.token += token
        self.score = log_add(self.blank, self.token)

    def join(self, growth: _Growth, parent_first: bool) -> None:
        """Add the alignments in which the last token is new in this frame; after `stay`."""
        # WeNet's times: a parent ranked higher hands on the frames of its tokens even if growing is less probable.
        if growth.best > (NEVER if parent_first else self.best_token):
            self.frames_token = growth.frames
        self.best_token = max(self.best_token, growth.best)
        self.token = log_add(self.token, growth.total)
        self.score = log_add(self.blank, self.token)

    def start(self, growth: _Growth) -> None:
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


_by_score = attrgetter("score")


class PrefixBeam:
    """The `beam_size` most probable token sequences, each summed over its CTC alignments, for the frames seen so far.

    Where the sum leaves the beam and where a token is not among the `beam_size` most probable of its frame, it is lost,
    as in WeNet; with a beam as large as the vocabulary and the number of prefixes the result is exact. A frame in which
    nothing is possible counts as blank, so that there is always a hypothesis. An extension
    that cannot enter the next beam is not computed, which changes no result: where blank is nearly certain a frame
    costs one update of each prefix.
    """

    def __init__(self, beam_size: int, blank_id: int = 0) -> None:
        self.beam_size = beam_size
        self.blank_id = blank_id
        self.num_frames = 0
        self._beam = [_Prefix(rank=0, blank=0.0, score=0.0, best_blank=0.0)]

    def advance(self, log_probs: NDArray[np.floating[Any]]) -> None:
        """Go on by the next frames; log_probs: (t, V) CTC log-probabilities. Any split into calls gives the same."""
        for _ in self.steps(log_probs):
            pass

    def steps(self, log_probs: NDArray[np.floating[Any]]) -> Iterator[None]:
        """`advance` that halts after every frame, for those who may stop before the last."""
        for frame in _most_probable(log_probs, self.beam_size):
            self._step(frame)
            self.num_frames += 1
            yield

    @property
    def is_empty(self) -> bool:
        """Whether the best hypothesis has no token."""
        return self._beam[0].parent is None

    def nbest(self) -> list[Hypothesis]:
        """The hypotheses in the beam, best first; before any frame the empty one with score 0."""
        return [prefix.hypothesis(self.num_frames) for prefix in self._beam]

    def _step(self, frame: dict[int, float]) -> None:
        """One frame; `frame`: log-probability of each token that is considered, the most probable first."""
        if next(iter(frame.values())) == NEVER:
            frame = {self.blank_id: 0.0}
        now, blank = self.num_frames, frame.pop(self.blank_id, NEVER)
        # What grows does so from how its parent was before this frame, so that comes before any prefix is updated.
        entering = self._enter(frame, blank)
        grown = [
            (prefix, prefix.parent.grow(prefix.last, frame[prefix.last], now), prefix.parent.rank < prefix.rank)
            for prefix in self._beam
            if prefix.last in frame and prefix.parent is not None and prefix.parent.rank != OUTSIDE
        ]
        for prefix in self._beam:
            prefix.stay(blank, frame.get(prefix.last, NEVER), now)
        for prefix, growth, parent_first in grown:
            prefix.join(growth, parent_first)
        self._select(entering)

    def _enter(self, frame: dict[int, float], blank: float) -> list[_Prefix]:
        """The extensions that are not in the beam and may be in the next; `frame`: without blank, best first."""
        beam, entering = self._beam, []
        is_full, highest = len(beam) == self.beam_size, next(iter(frame.values()), NEVER)
        if is_full and beam[0].score + highest < beam[-1].score + blank:
            return []
        # A heap of what the best `beam_size` score at least: those that stay, counting only a blank, and extensions,
        # which have one parent. What is below them all has no place; nor have the less probable tokens after it.
        floors = [NEVER] * (self.beam_size - len(beam)) + [prefix.score + blank for prefix in reversed(beam)]
        for prefix in beam:
            for token, score in frame.items():
                if prefix.score + score < floors[0]:
                    break
                child = prefix.child(token)
                if child.rank == OUTSIDE:
                    growth = prefix.grow(token, score, self.num_frames)
                    heappushpop(floors, growth.total)
                    child.start(growth)
                    entering.append(child)
        return entering

    def _select(self, entering: list[_Prefix]) -> None:
        """Make the best of the beam and of `entering` the new beam."""
        ranked = sorted(self._beam + entering, key=_by_score, reverse=True)
        self._beam = [prefix for prefix in ranked[: self.beam_size] if prefix.score > NEVER]
        for rank, prefix in enumerate(self._beam):
            prefix.rank = rank
        dropped = ranked[len(self._beam) :]
        for prefix in dropped:
            prefix.rank = OUTSIDE
        for prefix in dropped:
            prefix.prune()


def ctc_prefix_beam_search(
    log_probs: NDArray[np.floating[Any]], beam_size: int = 10, blank_id: int = 0
) -> list[Hypothesis]:
    """The n-best token sequences of one utterance, best first; log_probs: (T', V) without padding."""
    beam = PrefixBeam(beam_size, blank_id)
    beam.advance(log_probs)
    return beam.nbest()


def log_add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    if a < b:
        a, b = b, a
    return a if b == NEVER else a + math.log1p(math.exp(b - a))


def _most_probable(log_probs: NDArray[np.floating[Any]], count: int) -> Iterator[dict[int, float]]:
    """The `count` most probable tokens of each frame with their log-probabilities, best first; log_probs: (t, V)."""
    # Sorted by token before the stable sort: tokens of the same probability come in one order, whatever `_top` does.
    tokens = np.sort(_top(log_probs, min(count, log_probs.shape[1])), axis=1)
    scores = np.take_along_axis(log_probs, tokens, axis=1)
    order = np.argsort(scores, axis=1, kind="stable")[:, ::-1]
    tokens, scores = np.take_along_axis(tokens, order, axis=1), np.take_along_axis(scores, order, axis=1)
    for frame in zip(tokens.tolist(), scores.tolist(), strict=True):
        yield dict(zip(*frame, strict=True))


def _top(values: NDArray[np.floating[Any]], count: int) -> NDArray[np.int64]:
    """Where the `count` largest of each row are, in any order; values: (n, V), result: (n, count), count <= V.

    A tournament, several times faster than a partition of long rows: the largest are in the groups with the largest
    peaks (or in the few columns that fill no group).
    """
    (num_rows, width), size = values.shape, 8
    groups = width // size
    if groups < 4 * count:
        return np.argpartition(values, width - count, axis=1)[:, -count:]
    peaks = values[:, : size * groups].reshape(num_rows, size, groups).max(axis=1)
    members = _top(peaks, count)[:, None] + groups * np.arange(size)[:, None]
    rest = np.broadcast_to(np.arange(size * groups, width), (num_rows, width % size))
    places = np.concatenate([members.reshape(num_rows, size * count), rest], axis=1)
    best = np.argpartition(np.take_along_axis(values, places, axis=1), places.shape[1] - count, axis=1)[:, -count:]
    return np.take_along_axis(places, best, axis=1)
