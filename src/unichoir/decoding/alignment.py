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
    num_frames = len(log_probs)
    states = _viterbi_states(log_probs, tokens, blank_id) if len(tokens) else None
    spans = []
    for place, token in enumerate(tokens):
        if states is None:
            first = place * num_frames // len(tokens)
            last = max(first, (place + 1) * num_frames // len(tokens) - 1)
        else:
            first = int(np.searchsorted(states, 2 * place + 1, side="left"))
            last = int(np.searchsorted(states, 2 * place + 1, side="right")) - 1
        spans.append(Span(first, last, min(1.0, math.exp(log_probs[first : last + 1, token].max()))))
    return spans


def _viterbi_states(
    log_probs: NDArray[np.floating[Any]], tokens: Sequence[int], blank_id: int
) -> NDArray[np.int64] | None:
    """The state of each frame (T',): 2 * k + 1 in token k, even in a blank; None when no alignment is possible."""
    labels = np.full(2 * len(tokens) + 1, blank_id, dtype=np.int64)
    labels[1::2] = tokens
    emissions = log_probs[:, labels].astype(np.float64)
    skips = np.zeros(len(labels), dtype=bool)
    skips[3::2] = labels[3::2] != labels[1:-2:2]
    scores = np.full(len(labels), -np.inf)
    scores[:2] = emissions[0, :2]
    moves = np.zeros(emissions.shape, dtype=np.int8)
    for frame in range(1, len(emissions)):
        candidates = np.full((3, len(labels)), -np.inf)
        candidates[0] = scores
        candidates[1, 1:] = scores[:-1]
        candidates[2, 2:] = np.where(skips[2:], scores[:-2], -np.inf)
        moves[frame] = candidates.argmax(axis=0)
        scores = candidates.max(axis=0) + emissions[frame]
    state = int(len(labels) - 2 + scores[-2:].argmax())
    if scores[state] == -np.inf:
        return None
    states = np.empty(len(emissions), dtype=np.int64)
    for frame in range(len(emissions) - 1, -1, -1):
        states[frame] = state
        state -= int(moves[frame, state])
    return states
