"""Rescoring against its formula, token by token."""

from typing import Any

import numpy as np
import pytest
from tests.search.textbook import random_log_probs

from unichoir.errors import DecodingError
from unichoir.recognition.options import DecodingOptions
from unichoir.search.ctc_scores import ctc_score
from unichoir.search.hypothesis import Hypothesis
from unichoir.search.rescoring import Rescorer, attention_rescoring

HYPS = [
    Hypothesis((3, 4), -1.0, (0, 2)),
    Hypothesis((), -1.5, ()),
    Hypothesis((5, 5, 4, 3), -2.0, (1, 2, 3, 5)),
    Hypothesis((4,), -4.0, (1,)),
]


def directed(backend, encoder_out: np.ndarray, tokens: tuple[int, ...], reverse: bool) -> float:
    prefix, score = [2], 0.0
    for token in [*(tokens[::-1] if reverse else tokens), 2]:
        score += backend.next_token(reverse, encoder_out, prefix)[token]
        prefix.append(token)
    return score


@pytest.mark.parametrize(("ctc_weight", "reverse_weight"), [(0.5, 0.3), (0.0, 0.0), (2.0, 1.0), (0.5, None)])
def test_formula(backend, encoder_out: np.ndarray, ctc_weight: float, reverse_weight: float | None) -> None:
    share = 0.3 if reverse_weight is None else reverse_weight
    expected = {
        hyp.tokens: (1 - share) * directed(backend, encoder_out, hyp.tokens, False)
        + share * directed(backend, encoder_out, hyp.tokens, True)
        + ctc_weight * hyp.score
        for hyp in HYPS
    }
    found = Rescorer(backend, encoder_out, ctc_weight, reverse_weight)(HYPS)
    assert {hyp.tokens: pytest.approx(hyp.score) for hyp in found} == expected
    assert [hyp.score for hyp in found] == sorted(expected.values(), reverse=True)
    assert {hyp.tokens: hyp.frames for hyp in found} == {hyp.tokens: hyp.frames for hyp in HYPS}


def test_a_model_without_the_reverse_decoder(backend, encoder_out: np.ndarray) -> None:
    object.__setattr__(backend.info, "has_reverse_decoder", False)
    with pytest.raises(DecodingError, match=r"reverse_weight 0\.2: this model has no right-to-left decoder"):
        Rescorer(backend, encoder_out, reverse_weight=0.2)
    assert Rescorer(backend, encoder_out, reverse_weight=0.0)(HYPS)


@pytest.mark.parametrize("beam", [0, 2])
@pytest.mark.parametrize("speech", ["some", "none"])
def test_decoders_that_only_see_frames_that_are_not_blank(
    backend: Any, encoder_out: np.ndarray, speech: str, beam: int
) -> None:
    """The scores are those of frames that are chosen one by one; without any, all frames count."""
    object.__setattr__(backend.info, "decoder_memory", "non_blank")
    log_probs = random_log_probs(2, len(encoder_out), 6, 1.0)
    log_probs[1::2, 0] = 5.0
    if speech == "none":
        log_probs[:, 0] = 5.0
    kept = [frame for frame, scores in zip(encoder_out, log_probs, strict=True) if max(scores[1:]) > scores[0]]
    memory = np.stack(kept) if kept else encoder_out
    assert (0 < len(kept) < len(encoder_out)) if speech == "some" else not kept
    options = DecodingOptions(ctc_weight=0.5, attention_beam=beam, beam_size=3)
    for hyp in attention_rescoring(backend, encoder_out, log_probs, HYPS, options):
        known = {each.tokens: each.score for each in HYPS}
        ctc = known[hyp.tokens] if hyp.tokens in known else ctc_score(log_probs, hyp.tokens)
        left, right = (directed(backend, memory, hyp.tokens, reverse) for reverse in (False, True))
        assert hyp.score == pytest.approx(0.7 * left + 0.3 * right + 0.5 * ctc)
