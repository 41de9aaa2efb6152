"""Beam search with only the left-to-right attention decoder."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unichoir.engine.backend import Decoder, Floats, ModelInfo
from unichoir.search.hypothesis import Hypothesis

LOOKAHEAD = 4
"""Number of draft tokens that are computed ahead (docs/results/included-model.md)."""
DRIFT = 6
"""The largest distance, in tokens, between a place in a prefix and the matching place in a draft."""


def attention_beam_search(
    decoder: Decoder,
    info: ModelInfo,
    beam_size: int,
    max_length: int,
    length_penalty: float = 0.0,
    restrict: Callable[[Floats], Floats] | None = None,
    margin: float = math.inf,
    drafts: Sequence[Sequence[int]] = (),
) -> list[Hypothesis]:
    """Return the hypotheses in the last beam, best first.

    A hypothesis ends with eos and keeps its place in the beam while others grow. The search ends when all hypotheses
    have ended, or after `max_length` steps; unfinished hypotheses then count as they are. The score is the sum of the
    log-probabilities, including eos, divided by (tokens + 1) ** length_penalty.

    decoder: the left-to-right decoder of an utterance. restrict: changes the log-probabilities (N, V) of every step.
    margin: hypotheses whose score is lower than the best by more than this do not grow further. drafts: guesses of the
    result, which make the search faster and change nothing else (`_Ahead`).
    """
    live, live_scores = np.zeros((1, 0), dtype=np.int64), np.zeros(1)
    ended: list[tuple[tuple[int, ...], float]] = []
    ahead = _Ahead(decoder, drafts)
    for _ in range(max_length):
        if not len(live):
            break
        log_probs = ahead.following([tuple(row) for row in live.tolist()])
        log_probs = (restrict(log_probs) if restrict else log_probs).astype(np.float64)
        parents, tokens, grown_scores = _grow(log_probs, live_scores, beam_size)
        scores = np.concatenate([[score for _, score in ended], grown_scores])
        best = np.argsort(-scores, kind="stable")[:beam_size]
        best = best[scores[best] >= scores[best[0]] - margin]
        grown = best[best >= len(ended)] - len(ended)
        ended = [ended[place] for place in best if place < len(ended)]
        for place in grown[tokens[grown] == info.eos_id]:
            ended.append((tuple(live[parents[place]].tolist()), float(grown_scores[place])))
        grown = grown[tokens[grown] != info.eos_id]
        live = np.concatenate([live[parents[grown]], tokens[grown, None]], axis=1)
        live_scores = grown_scores[grown]
    ended += [(tuple(row.tolist()), float(score)) for row, score in zip(live, live_scores, strict=True)]
    hyps = [Hypothesis(tokens, score / (len(tokens) + 1) ** length_penalty) for tokens, score in ended]
    return sorted(hyps, key=lambda hyp: hyp.score, reverse=True)


class _Ahead:
    """A decoder that looks ahead (speculative decoding, arXiv 2211.17192).

    With the next token after each prefix it also computes those after likely continuations, because a larger run of the
    decoder takes little longer. A continuation is the text that follows the same tokens in a draft, near the same
    place.
    """

    def __init__(self, decoder: Decoder, drafts: Sequence[Sequence[int]]) -> None:
        self._decoder, self._drafts = decoder, [tuple(draft) for draft in drafts]
        self._following: dict[tuple[int, ...], Floats] = {}

    def following(self, prefixes: Sequence[tuple[int, ...]]) -> Floats:
        """Return the log-probabilities (N, V) of the token after each prefix."""
        if not all(prefix in self._following for prefix in prefixes):
            # Look ahead for all prefixes: the cost is per run.
            asked = {prefix + self._continuation(prefix): prefix for prefix in prefixes}
            new = [tokens for tokens in asked if tokens not in self._following]
            for tokens, rows in zip(new, self._decoder.continuations(new), strict=True):
                for length in range(len(asked[tokens]), len(tokens) + 1):
                    self._following[tokens[:length]] = rows[length].copy()  # a view would keep all rows
        return np.stack([self._following[prefix] for prefix in prefixes])

    def _continuation(self, prefix: tuple[int, ...]) -> tuple[int, ...]:
        """Return at most LOOKAHEAD likely tokens; none if no draft has the last tokens of the prefix.

        If needed, the last token of the prefix counts as a substitution and the tokens before it are matched.
        """
        for replaced in (0, 1):
            for known in (2, 1):
                end = len(prefix) - replaced
                last, near = prefix[max(end - known, 0) : end], range(end - DRIFT, end + DRIFT + 1)
                for draft in self._drafts:
                    places = [place for place in near if place >= known and draft[place - known : place] == last]
                    if len(last) == known and places:
                        place = min(places, key=lambda place: abs(place - end)) + replaced
                        return draft[place : place + LOOKAHEAD]
        return ()


def _grow(
    log_probs: NDArray[np.floating[Any]], scores: NDArray[np.float64], beam_size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return parent, token and score, (N * width,) each, of the best extensions of each prefix."""
    num_prefixes, vocab_size = log_probs.shape
    width = min(beam_size, vocab_size)
    tokens = np.argpartition(log_probs, vocab_size - width, axis=1)[:, -width:]
    grown = scores[:, None] + np.take_along_axis(log_probs, tokens, axis=1)
    return np.repeat(np.arange(num_prefixes), width), tokens.reshape(-1), grown.reshape(-1)
