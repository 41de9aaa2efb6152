"""Beam search with the left-to-right attention decoder alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unichoir.decoding.backend import Backend, Floats
from unichoir.decoding.hypothesis import Hypothesis


def attention_beam_search(
    backend: Backend,
    encoder_out: Floats,
    beam_size: int = 10,
    max_length: int | None = None,
    length_penalty: float = 0.0,
    restrict: Callable[[Floats], Floats] | None = None,
) -> list[Hypothesis]:
    """The hypotheses in the last beam, best first.

    encoder_out: (T', D) of one utterance without padding; max_length: most decoder steps, None for T' (WeNet takes the
    longest T' of the batch). A hypothesis ends with eos and keeps its place in the beam while others grow; the search
    ends when all have ended or after the last step, where those that never ended count as they are. The score is the
    sum of log-probabilities, eos included, divided by (tokens + 1) ** length_penalty. restrict: changes the
    log-probabilities (N, V) of every step.
    """
    info = backend.info
    max_length = len(encoder_out) if max_length is None else max_length
    live, live_scores = np.full((1, 1), info.sos_id, dtype=np.int64), np.zeros(1)
    ended: list[tuple[tuple[int, ...], float]] = []
    for _ in range(max_length):
        if not len(live):
            break
        log_probs = backend.next_token_log_probs(encoder_out, live)
        log_probs = (restrict(log_probs) if restrict else log_probs).astype(np.float64)
        parents, tokens, grown_scores = _grow(log_probs, live_scores, beam_size)
        scores = np.concatenate([[score for _, score in ended], grown_scores])
        best = np.argsort(-scores, kind="stable")[:beam_size]
        grown = best[best >= len(ended)] - len(ended)
        ended = [ended[place] for place in best if place < len(ended)]
        for place in grown[tokens[grown] == info.eos_id]:
            ended.append((tuple(live[parents[place], 1:].tolist()), float(grown_scores[place])))
        grown = grown[tokens[grown] != info.eos_id]
        live = np.concatenate([live[parents[grown]], tokens[grown, None]], axis=1)
        live_scores = grown_scores[grown]
    ended += [(tuple(row[1:].tolist()), float(score)) for row, score in zip(live, live_scores, strict=True)]
    hyps = [Hypothesis(tokens, score / (len(tokens) + 1) ** length_penalty) for tokens, score in ended]
    return sorted(hyps, key=lambda hyp: hyp.score, reverse=True)


def _grow(
    log_probs: NDArray[np.floating[Any]], scores: NDArray[np.float64], beam_size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Parent, token and score of the extensions that may enter the beam: the best of each prefix, (N * width,) each."""
    num_prefixes, vocab_size = log_probs.shape
    width = min(beam_size, vocab_size)
    tokens = np.argpartition(log_probs, vocab_size - width, axis=1)[:, -width:]
    grown = scores[:, None] + np.take_along_axis(log_probs, tokens, axis=1)
    return np.repeat(np.arange(num_prefixes), width), tokens.reshape(-1), grown.reshape(-1)
