"""Second pass: the attention decoders score the CTC n-best (U2, arXiv 2012.05481; both directions: 2106.05642)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from unichoir.decoding.backend import Backend, Floats, ModelInfo
from unichoir.decoding.correction import correct, ctc_score
from unichoir.decoding.hypothesis import Hypothesis
from unichoir.decoding.options import SearchOptions
from unichoir.decoding.scoring import PrefixScorer
from unichoir.errors import DecodingError

BONUS_WEIGHT = 1.0
"""Chosen on dev sets with hotwords (docs/results/hotwords.md)."""


def attention_rescoring(
    backend: Backend,
    encoder_out: Floats,
    hyps: Sequence[Hypothesis],
    ctc_weight: float | None = None,
    reverse_weight: float | None = None,
) -> list[Hypothesis]:
    """The hypotheses of CTC prefix beam search with new scores, best first.

    score = (1 - r) * left-to-right + r * right-to-left + ctc_weight * CTC + bonus, with r = `reverse_weight`, each
    decoder's score the sum over the tokens and its eos, and as bonus `BONUS_WEIGHT` times that of the search.
    encoder_out: (T', D) without padding; a weight of None: the model's own.
    Raises DecodingError when r > 0 and the model has no right-to-left decoder.
    """
    ctc_weight = backend.info.ctc_weight if ctc_weight is None else ctc_weight
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


def corrected(
    backend: Backend,
    encoder_out: Floats,
    log_probs: Floats,
    hyps: Sequence[Hypothesis],
    options: SearchOptions,
    scorer: PrefixScorer | None = None,
    restrict: Callable[[Floats], Floats] | None = None,
) -> list[Hypothesis]:
    """Rescored hypotheses and what the left-to-right decoder makes of the best one (`correction`), best first.

    hyps: of `attention_rescoring` with the same options; log_probs: (T', V) of CTC, restricted to the options'
    language; scorer: that of the search; restrict: to the language, for the decoder (N, V). The list does not grow
    beyond `beam_size`. Does nothing where options and model want no corrections, and where CTC cannot write what the
    decoder wants.
    """
    rounds = num_corrections(backend.info, options)
    if not rounds:
        return list(hyps)
    tokens = correct(backend, encoder_out, hyps[0].tokens, rounds, restrict)
    if any(hyp.tokens == tokens for hyp in hyps):
        return list(hyps)
    ctc = ctc_score(log_probs, tokens, backend.info.blank_id)
    if not math.isfinite(ctc):
        return list(hyps)
    bonus = _bonus(scorer, tokens)
    found = Hypothesis(tokens, ctc + bonus, bonus=bonus)
    rescored = attention_rescoring(backend, encoder_out, [found], options.ctc_weight, options.reverse_weight)
    return sorted([*hyps, *rescored], key=lambda hyp: hyp.score, reverse=True)[: max(options.beam_size, len(hyps))]


def num_corrections(info: ModelInfo, options: SearchOptions) -> int:
    """How many the options want or, where they leave it open, the model."""
    return info.corrections if options.corrections is None else options.corrections


def _bonus(scorer: PrefixScorer | None, tokens: Sequence[int]) -> float:
    """What hotwords and language model add to a whole hypothesis."""
    if scorer is None:
        return 0.0
    state, total = scorer.start(), 0.0
    for token in tokens:
        state, added = scorer.extend(state, token)
        total += added
    return total + scorer.finish(state)


def _rescored(hyp: Hypothesis, score: float, ctc_weight: float) -> Hypothesis:
    bonus = BONUS_WEIGHT * hyp.bonus
    return replace(hyp, score=score + ctc_weight * (hyp.score - hyp.bonus) + bonus, bonus=bonus)
