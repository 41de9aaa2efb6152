"""CTC prefix beam search (Hannun et al. 2014, arXiv 1408.2873), chunk by chunk or over a whole utterance."""

from collections.abc import Collection, Iterator
from dataclasses import replace
from heapq import heappushpop
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unichoir.search.hypothesis import Hypothesis
from unichoir.search.prefixes import NEVER, OUTSIDE, Prefix
from unichoir.search.scoring import PrefixScorer

WIDENING = 2
"""With a scorer, this many times more tokens of a frame are considered, because a boosted token may not be among the
most probable ones. More than twice as many changed nothing (docs/results/hotwords.md)."""

_by_score = attrgetter("score")


def _by_total(prefix: Prefix) -> float:
    return prefix.score + prefix.bonus


class PrefixBeam:
    """The `beam_size` most probable token sequences for the frames so far, each summed over its CTC alignments.

    As in WeNet, sequences outside the beam are lost, and so are tokens that are not among the `beam_size` most probable
    ones of a frame. If the beam is as large as the vocabulary and the number of prefixes, the result is exact. A frame
    in which every token is impossible counts as blank, so there is always a hypothesis. Extensions that cannot enter
    the next beam are not computed, which changes no result; a frame that is almost certainly blank costs one update per
    prefix.

    A scorer adds to the score of each sequence. The sums rank the beam and are the scores of the hypotheses.
    languages: language tokens, which `is_empty` ignores.
    """

    def __init__(
        self,
        beam_size: int,
        blank_id: int = 0,
        languages: Collection[int] = (),
        scorer: PrefixScorer | None = None,
    ) -> None:
        self.beam_size = beam_size
        self.blank_id = blank_id
        self._languages = frozenset(languages)
        self.num_frames = 0
        self._scorer = scorer
        self._beam = [Prefix(rank=0, blank=0.0, score=0.0, best_blank=0.0, state=scorer.start() if scorer else None)]

    def advance(self, log_probs: NDArray[np.floating[Any]]) -> None:
        """Process the next frames; log_probs: (t, V) of CTC. The split into calls does not change the result."""
        for _ in self.steps(log_probs):
            pass

    def steps(self, log_probs: NDArray[np.floating[Any]]) -> Iterator[None]:
        """Process the next frames like `advance`, but pause after each one; the caller can stop early."""
        count = self.beam_size if self._scorer is None else WIDENING * self.beam_size
        for frame in _most_probable(log_probs, count):
            self._step(frame)
            self.num_frames += 1
            yield

    @property
    def is_empty(self) -> bool:
        """Whether the best hypothesis has no tokens except language tokens."""
        node = self._beam[0]
        while node.parent is not None and node.last in self._languages:
            node = node.parent
        return node.parent is None

    def nbest(self, is_final: bool = False) -> list[Hypothesis]:
        """Return the hypotheses in the beam, best first; before the first frame, the empty one with score 0.

        is_final: no more frames will follow, so a scorer also adds its score of the end.
        """
        hyps = [prefix.hypothesis(self.num_frames) for prefix in self._beam]
        if self._scorer is None:
            return hyps
        for place, (hyp, prefix) in enumerate(zip(hyps, self._beam, strict=True)):
            bonus = prefix.bonus + (self._scorer.finish(prefix.state) if is_final else 0.0)
            hyps[place] = replace(hyp, score=hyp.score + bonus, bonus=bonus)
        return sorted(hyps, key=_by_score, reverse=True)

    def _step(self, frame: dict[int, float]) -> None:
        """Process one frame: the log-probability of each considered token, the most probable first."""
        if next(iter(frame.values())) == NEVER:
            frame = {self.blank_id: 0.0}
        now, blank = self.num_frames, frame.pop(self.blank_id, NEVER)
        # Prefixes grow from the state of their parent before this frame, so compute this before any update.
        entering = self._enter(frame, blank) if self._scorer is None else self._enter_scored(frame, blank, self._scorer)
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

    def _enter(self, frame: dict[int, float], blank: float) -> list[Prefix]:
        """Return the extensions that may enter the beam; `frame`: without blank, the most probable first."""
        beam, entering = self._beam, []
        is_full, highest = len(beam) == self.beam_size, next(iter(frame.values()), NEVER)
        if is_full and beam[0].score + highest < beam[-1].score + blank:
            return []
        # A heap of lower bounds for the best `beam_size` scores: prefixes that stay with a blank, and extensions, which
        # have one parent. A score below all of them cannot enter, nor can the less probable tokens after it.
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

    def _enter_scored(self, frame: dict[int, float], blank: float, scorer: PrefixScorer) -> list[Prefix]:
        """Do the same as `_enter` with a scorer: the most probable token need not be the best extension."""
        entering = []
        floors = [NEVER] * (self.beam_size - len(self._beam))
        floors += [prefix.score + blank + prefix.bonus for prefix in reversed(self._beam)]
        for prefix in self._beam:
            if prefix.extensions is None:
                prefix.extensions = {}
            known, total = prefix.extensions, prefix.score
            highest = prefix.bonus + scorer.most
            for token, score in frame.items():
                if total + score + highest < floors[0]:
                    break  # less probable tokens cannot enter either, whatever the scorer adds
                found = known.get(token)
                if found is None:
                    state, added = scorer.extend(prefix.state, token)
                    found = known[token] = state, prefix.bonus + added
                state, bonus = found
                # An upper bound: a repeated token does not extend all alignments.
                if total + score + bonus < floors[0]:
                    continue
                child = prefix.child(token)
                if child.rank == OUTSIDE:
                    growth = prefix.grow(token, score, self.num_frames)
                    heappushpop(floors, growth.total + bonus)
                    child.start(growth)
                    child.state, child.bonus = state, bonus
                    entering.append(child)
        return entering

    def _select(self, entering: list[Prefix]) -> None:
        """Select the new beam from the old one and `entering`."""
        by = _by_score if self._scorer is None else _by_total
        ranked = sorted(self._beam + entering, key=by, reverse=True)
        self._beam = [prefix for prefix in ranked[: self.beam_size] if prefix.score > NEVER]
        for rank, prefix in enumerate(self._beam):
            prefix.rank = rank
        dropped = ranked[len(self._beam) :]
        for prefix in dropped:
            prefix.rank = OUTSIDE
            prefix.extensions = None
        for prefix in dropped:
            prefix.prune()


def ctc_prefix_beam_search(
    log_probs: NDArray[np.floating[Any]],
    beam_size: int = 10,
    blank_id: int = 0,
    scorer: PrefixScorer | None = None,
) -> list[Hypothesis]:
    """Return the n-best token sequences of one utterance, best first; log_probs: (T', V) without padding."""
    beam = PrefixBeam(beam_size, blank_id, scorer=scorer)
    beam.advance(log_probs)
    return beam.nbest(is_final=True)


def _most_probable(log_probs: NDArray[np.floating[Any]], count: int) -> Iterator[dict[int, float]]:
    """Yield the `count` most probable tokens of each frame with their log-probabilities (t, V), best first."""
    # Sort by token before the stable sort, so that equally probable tokens have a fixed order.
    tokens = np.sort(_top(log_probs, min(count, log_probs.shape[1])), axis=1)
    scores = np.take_along_axis(log_probs, tokens, axis=1)
    order = np.argsort(scores, axis=1, kind="stable")[:, ::-1]
    tokens, scores = np.take_along_axis(tokens, order, axis=1), np.take_along_axis(scores, order, axis=1)
    for frame in zip(tokens.tolist(), scores.tolist(), strict=True):
        yield dict(zip(*frame, strict=True))


def _top(values: NDArray[np.floating[Any]], count: int) -> NDArray[np.int64]:
    """Return the indices (n, count) of the `count` largest `values` (n, V) in each row, in any order; count <= V.

    This is a tournament, several times faster than a partition of long rows: the largest values are in the groups with
    the largest maxima, or in the few columns that do not fill a group.
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
