"""Rescoring against its formula, token by token."""

import numpy as np
import pytest

from unichoir.errors import DecodingError
from unichoir.search.hypothesis import Hypothesis
from unichoir.search.rescoring import Rescorer

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
