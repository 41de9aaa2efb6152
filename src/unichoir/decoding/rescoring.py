"""Second pass: the attention decoders score the CTC n-best (U2, arXiv 2012.05481; both directions: 2106.05642)."""

from collections.abc import Sequence
from dataclasses import replace

from unichoir.decoding.backend import Backend, Floats
from unichoir.decoding.hypothesis import Hypothesis
from unichoir.errors import DecodingError

BONUS_WEIGHT = 1.0
"""Chosen on dev sets with hotwords (docs/results/hotwords.md)."""


def attention_rescoring(
    backend: Backend,
    encoder_out: Floats,
    hyps: Sequence[Hypothesis],
    ctc_weight: float = 0.5,
    reverse_weight: float | None = None,
) -> list[Hypothesis]:
    """The hypotheses of CTC prefix beam search with new scores, best first.

    score = (1 - r) * left-to-right + r * right-to-left + ctc_weight * CTC + bonus, with r = `reverse_weight` (None: the
    model's), each decoder's score the sum over the tokens and its eos, and as bonus `BONUS_WEIGHT` times that of the
    search. encoder_out: (T', D) without padding.
    Raises DecodingError when r > 0 and the model has no right-to-left decoder.
    """
    reverse_weight = backend.info.reverse_weight if reverse_weight is None else reverse_weight
    if reverse_weight > 0 and not backend.info.has_reverse_decoder:
        raise DecodingError(f"reverse_weight {reverse_weight}: this model has no right-to-left decoder")
    tokens = [hyp.tokens for hyp in hyps]
    scores = [(1 - reverse_weight) * float(s.sum()) for s in backend.score_hypotheses(encoder_out, tokens, False)]
    if reverse_weight > 0:
        reverse_scores = backend.score_hypotheses(encoder_out, tokens, True)
        scores = [score + reverse_weight * float(s.sum()) for score, s in zip(scores, reverse_scores, strict=True)]
    rescored = [_rescored(hyp, score, ctc_weight) for hyp, score in zip(hyps, scores, strict=True)]
    return sorted(rescored, key=lambda hyp: hyp.score, reverse=True)


def _rescored(hyp: Hypothesis, score: float, ctc_weight: float) -> Hypothesis:
    bonus = BONUS_WEIGHT * hyp.bonus
    return replace(hyp, score=score + ctc_weight * (hyp.score - hyp.bonus) + bonus, bonus=bonus)
