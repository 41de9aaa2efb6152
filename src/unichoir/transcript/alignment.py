"""The best CTC alignment of a token sequence: the frames in which each token was spoken."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK_FRAMES = 1024
"""Scores are kept for one in so many encoder frames; for an hour of audio that is 90 rows."""


class Span(NamedTuple):
    """The encoder frames of one token, first to last, and its highest CTC probability in them."""

    first: int
    last: int
    probability: float


def ctc_align(log_probs: NDArray[np.floating[Any]], tokens: Sequence[int], blank_id: int = 0) -> list[Span]:
    """Return the most probable alignment of `tokens` to all frames (Viterbi over the CTC topology).

    log_probs: (T', V), T' > 0. Tokens without any alignment (more tokens than frames, or impossible ones) are spread
    evenly; only the attention decoder produces them.
    """
    if not len(tokens):
        return []
    num_frames, places = len(log_probs), np.arange(len(tokens) + 1)
    states = _viterbi_states(log_probs, tokens, blank_id)
    if states is None:
        starts = places * num_frames // len(tokens)
        firsts, lasts = starts[:-1], np.maximum(starts[:-1], starts[1:] - 1)
    else:
        firsts = np.searchsorted(states, 2 * places[:-1] + 1, side="left")
        lasts = np.searchsorted(states, 2 * places[:-1] + 1, side="right") - 1
    return [
        Span(first, last, min(1.0, math.exp(log_probs[first : last + 1, token].max())))
        for first, last, token in zip(firsts.tolist(), lasts.tolist(), tokens, strict=True)
    ]


def _viterbi_states(
    log_probs: NDArray[np.floating[Any]], tokens: Sequence[int], blank_id: int
) -> NDArray[np.int64] | None:
    """Return the state of each frame (T',): 2 * k + 1 in token k, even in a blank; None if there is no alignment.

    Scores are kept only for every BLOCK_FRAMES-th frame. The others are computed again, block by block from the end,
    for the few states that can reach the known end of the block. The result is exact.
    """
    labels = np.full(2 * len(tokens) + 1, blank_id, dtype=np.int64)
    labels[1::2] = tokens
    skips = np.full(len(labels), -np.inf)
    skips[3::2][labels[3::2] != labels[1:-2:2]] = 0.0
    # An imaginary frame before the first one, in the first blank.
    kept = [np.full(len(labels), -np.inf)]
    kept[0][0] = 0.0
    blocks = [log_probs[start : start + BLOCK_FRAMES] for start in range(0, len(log_probs), BLOCK_FRAMES)]
    for block in blocks[:-1]:
        kept.append(_advance(kept[-1], block, labels, skips))
    states = np.empty(len(log_probs), dtype=np.int64)
    end, state = len(log_probs), len(labels) - 1
    for before, block in zip(reversed(kept), reversed(blocks), strict=True):
        part = slice(max(0, state - 2 * len(block) - 1), state + 1)
        moves = np.empty((len(block), part.stop - part.start), dtype=np.int8)
        scores = _advance(before[part], block, labels[part], skips[part], moves)
        if end == len(log_probs):
            # The alignment may also end in the last token.
            state -= int(scores[-2] >= scores[-1])
            if scores[state - part.start] == -np.inf:
                return None
        for frame in range(len(block) - 1, -1, -1):
            states[end - len(block) + frame] = state
            state -= int(moves[frame, state - part.start])
        end -= len(block)
    return states


def _advance(
    scores: NDArray[np.float64],
    log_probs: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    skips: NDArray[np.float64],
    moves: NDArray[np.int8] | None = None,
) -> NDArray[np.float64]:
    """Return the best scores (S,) of adjacent states after the frames `log_probs` (B, V), from those before them.

    moves: (B, S), filled with the distance of each state from its best predecessor, the nearest one if there are
    several.
    """
    # Two unreachable states come first, so every state has two predecessors.
    before, after = np.full((2, 2 + len(scores)), -np.inf)
    before[2:] = scores
    best = np.empty_like(scores)
    for frame, row in enumerate(log_probs):
        skip = before[:-2] + skips
        np.maximum(before[2:], before[1:-1], out=best)
        if moves is not None:
            moves[frame] = np.where(skip > best, 2, before[1:-1] > before[2:])
        np.maximum(best, skip, out=best)
        np.add(best, row[labels], out=after[2:])
        before, after = after, before
    last: NDArray[np.float64] = before[2:]
    return last
