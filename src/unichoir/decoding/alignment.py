"""When each token of a finished hypothesis was spoken: its best CTC alignment, whatever search found the tokens."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Span(NamedTuple):
    """The encoder frames of one token, first to last, and its highest CTC probability in them."""

    first: int
    last: int
    probability: float


def ctc_align(log_probs: NDArray[np.floating[Any]], tokens: Sequence[int], blank_id: int = 0) -> list[Span]:
    """The most probable alignment of `tokens` to all frames (Viterbi over the CTC topology).

    log_probs: (T', V), T' > 0. Tokens that cannot be aligned, which only the attention decoder produces (more of them
    than frames, or impossible ones), are spread evenly instead.
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
    """The state of each frame (T',): 2 * k + 1 in token k, even in a blank; None when no alignment is possible."""
    labels = np.full(2 * len(tokens) + 1, blank_id, dtype=np.int64)
    labels[1::2] = tokens
    emissions = log_probs[:, labels].astype(np.float64)
    skips = np.full(len(labels), -np.inf)
    skips[3::2][labels[3::2] != labels[1:-2:2]] = 0.0
    # Two states that are never reached come first, so that every state has two before it.
    scores = np.full((len(emissions), 2 + len(labels)), -np.inf)
    scores[0, 2:4] = emissions[0, :2]
    for before, after, emission in zip(scores, scores[1:], emissions[1:], strict=False):
        best = np.maximum(before[2:], before[1:-1], out=after[2:])
        np.maximum(best, before[:-2] + skips, out=best)
        best += emission
    state = int(len(labels) - 2 + scores[-1, -2:].argmax())
    if scores[-1, 2 + state] == -np.inf:
        return None
    stay, step, skip = scores[:-1, 2:], scores[:-1, 1:-1], scores[:-1, :-2] + skips
    moves = np.where(skip > np.maximum(stay, step), 2, step > stay)
    states = np.empty(len(emissions), dtype=np.int64)
    states[-1] = state
    for frame in range(len(moves) - 1, -1, -1):
        state -= int(moves[frame, state])
        states[frame] = state
    return states
