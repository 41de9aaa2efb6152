"""Second pass: the attention decoders score the CTC n-best (U2, arXiv 2012.05481; both directions: 2106.05642).

The left-to-right decoder can also search for hypotheses of its own, so the result is not limited to those of CTC.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from unichoir.engine.backend import Backend, Decoder, Floats, ModelInfo
from unichoir.errors import DecodingError
from unichoir.search.attention_beam import attention_beam_search
from unichoir.search.ctc_scores import ctc_scores
from unichoir.search.hypothesis import Hypothesis
from unichoir.search.options import SearchOptions
from unichoir.search.scoring import PrefixScorer

BONUS_WEIGHT = 1.0
"""Chosen on dev sets with hotwords (docs/results/hotwords.md)."""
MARGIN = 1.5
"""In the decoder's own search, hypotheses grow if their score is at most this many nats below the best."""
LONGER, MORE = 1.5, 10
"""The decoder's own hypotheses have at most `LONGER` times the tokens of the best CTC hypothesis plus `MORE`. Without a
limit, a decoder can repeat itself endlessly."""


class Rescorer:
    """The attention decoders of one utterance, and the weights of their scores.

    score = (1 - r) * left-to-right + r * right-to-left + ctc_weight * CTC + bonus, where r is `reverse_weight`, the
    score of a decoder is the sum over the tokens and eos, and bonus is `BONUS_WEIGHT` times the bonus of the search.
    memory: (T'', D), the encoder frames that the decoders attend to (`decoder_memory`), without padding, T'' > 0. A
    weight of None is the model's default. Raises DecodingError if r > 0 and the model has no right-to-left decoder.
    """

    def __init__(
        self,
        backend: Backend,
        memory: Floats,
        ctc_weight: float | None = None,
        reverse_weight: float | None = None,
    ) -> None:
        info = backend.info
        self.ctc_weight = info.ctc_weight if ctc_weight is None else ctc_weight
        self.reverse_weight = info.reverse_weight if reverse_weight is None else reverse_weight
        if self.reverse_weight > 0 and not info.has_reverse_decoder:
            raise DecodingError(f"reverse_weight {self.reverse_weight}: this model has no right-to-left decoder")
        self.left = backend.decoder(memory)
        self._right = backend.decoder(memory, reverse=True) if self.reverse_weight > 0 else None
        self._eos_id = info.eos_id

    def __call__(self, hyps: Sequence[Hypothesis]) -> list[Hypothesis]:
        """Return the hypotheses of CTC prefix beam search with new scores, best first."""
        tokens = [hyp.tokens for hyp in hyps]
        scores = [(1 - self.reverse_weight) * score for score in sequence_scores(self.left, tokens, self._eos_id)]
        if self._right is not None:
            reverse_scores = sequence_scores(self._right, [each[::-1] for each in tokens], self._eos_id)
            scores = [left + self.reverse_weight * right for left, right in zip(scores, reverse_scores, strict=True)]
        rescored = [self._rescored(hyp, score) for hyp, score in zip(hyps, scores, strict=True)]
        return sorted(rescored, key=lambda hyp: hyp.score, reverse=True)

    def _rescored(self, hyp: Hypothesis, score: float) -> Hypothesis:
        bonus = BONUS_WEIGHT * hyp.bonus
        return replace(hyp, score=score + self.ctc_weight * (hyp.score - hyp.bonus) + bonus, bonus=bonus)


def decoder_memory(info: ModelInfo, encoder_out: Floats, log_probs: Floats) -> Floats:
    """Return the encoder frames of one utterance that its decoders attend to: all, or those that aren't blank.

    encoder_out: (T', D); log_probs: (T', V) of CTC, as the search uses them; both without padding. A frame is blank if
    the blank is its most probable token. If all are blank, all are used, as in training
    (`network.asr_model.AsrModel.decoder_memory`).
    """
    if info.decoder_memory == "all":
        return encoder_out
    is_chosen = log_probs.argmax(axis=-1) != info.blank_id
    return encoder_out[is_chosen] if is_chosen.any() else encoder_out


def sequence_scores(decoder: Decoder, sequences: Sequence[Sequence[int]], eos_id: int) -> list[float]:
    """Return a decoder's log-probability of each sequence including eos; the tokens in the order of the decoder."""
    found = decoder.continuations(sequences)
    return [
        float(log_probs[range(len(tokens) + 1), [*tokens, eos_id]].sum())
        for log_probs, tokens in zip(found, sequences, strict=True)
    ]


def attention_rescoring(
    backend: Backend,
    encoder_out: Floats,
    log_probs: Floats,
    hyps: Sequence[Hypothesis],
    options: SearchOptions,
    scorer: PrefixScorer | None = None,
    restrict: Callable[[Floats], Floats] | None = None,
) -> list[Hypothesis]:
    """Return the hypotheses with the scores of `Rescorer`, best first.

    Without `attention_beam`, these are the hypotheses of CTC prefix beam search. With it, they are the best one of
    these and the hypotheses of the left-to-right decoder's own beam search, except those without a CTC alignment. The
    result has at most as many hypotheses as the larger of `beam_size` and `hyps`.

    encoder_out: (T', D) of one utterance without padding, T' > 0; log_probs: (T', V) of CTC, restricted to the options'
    language; hyps: at least one, best first; scorer: the scorer of the search; restrict: restricts the decoder's
    log-probabilities (N, V) to the language. Raises DecodingError as `Rescorer` does.
    """
    memory = decoder_memory(backend.info, encoder_out, log_probs)
    rescorer = Rescorer(backend, memory, options.ctc_weight, options.reverse_weight)
    width = attention_beam_of(backend.info, options)
    if not width:
        return rescorer(hyps)
    best = hyps[0]  # the decoder's own hypotheses are as good as the others (docs/results/included-model.md)
    most = min(len(encoder_out), int(LONGER * len(best.tokens)) + MORE)
    drafts = [hyp.tokens for hyp in hyps]
    rescorer.left.continuations([best.tokens])  # one run instead of one per token in the search
    own = attention_beam_search(rescorer.left, backend.info, width, most, 0.0, restrict, MARGIN, drafts)
    new = [hyp.tokens for hyp in own if hyp.tokens != best.tokens]
    bonuses = [_bonus(scorer, tokens) for tokens in new]
    scores = ctc_scores(log_probs, new, backend.info.blank_id)
    found = [
        Hypothesis(tokens, score + bonus, bonus=bonus)
        for tokens, score, bonus in zip(new, scores, bonuses, strict=True)
        if math.isfinite(score)
    ]
    return rescorer([best, *found])[: max(options.beam_size, len(hyps))]


def attention_beam_of(info: ModelInfo, options: SearchOptions) -> int:
    """Return the width of the decoder's own search: from the options or, if they leave it open, from the model."""
    return info.attention_beam if options.attention_beam is None else options.attention_beam


def is_reencoded(info: ModelInfo, options: SearchOptions) -> bool:
    """Whether the second pass encodes the whole utterance again: from the options or, if None, from the model."""
    wanted = info.reencode if options.reencode is None else options.reencode
    return wanted and options.mode == "attention_rescoring"


def _bonus(scorer: PrefixScorer | None, tokens: Sequence[int]) -> float:
    """Return the score that hotwords and the language model add to a whole hypothesis."""
    if scorer is None:
        return 0.0
    state, total = scorer.start(), 0.0
    for token in tokens:
        state, added = scorer.extend(state, token)
        total += added
    return total + scorer.finish(state)
