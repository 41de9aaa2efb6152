"""Attention beam search against an exhaustive search of all sequences."""

import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unichoir.api import load_recognizer
from unichoir.engine.backend import Backend
from unichoir.search.attention_beam import attention_beam_search
from unichoir.search.hypothesis import Hypothesis

EOS = 2


def found_by(
    backend: Backend, encoder_out: np.ndarray, beam_size: int, max_length: int, **options: Any
) -> list[Hypothesis]:
    return attention_beam_search(backend.decoder(encoder_out), backend.info, beam_size, max_length, **options)


def all_sequences(backend, encoder_out: np.ndarray, max_length: int) -> dict[tuple[int, ...], float]:
    """Every sequence of at most max_length steps with its score: ended by eos, or cut after the last step."""
    others = [token for token in range(backend.info.vocab_size) if token != EOS]
    scores = {}
    for length in range(max_length + 1):
        for tokens in product(others, repeat=length):
            steps = [*tokens, EOS][:max_length]
            prefix, score = [EOS], 0.0
            for token in steps:
                score += backend.next_token(False, encoder_out, prefix)[token]
                prefix.append(token)
            scores[tokens] = score
    return scores


@pytest.mark.parametrize("max_length", [1, 2, 3, 4])
def test_a_wide_beam_finds_every_sequence(backend, encoder_out: np.ndarray, max_length: int) -> None:
    expected = all_sequences(backend, encoder_out, max_length)
    found = found_by(backend, encoder_out, len(expected), max_length)
    assert {hyp.tokens: pytest.approx(hyp.score, abs=1e-5) for hyp in found} == expected
    assert [hyp.score for hyp in found] == sorted((hyp.score for hyp in found), reverse=True)


@pytest.mark.parametrize("length_penalty", [0.5, 1.0])
def test_length_penalty_divides_the_scores(backend, encoder_out: np.ndarray, length_penalty: float) -> None:
    expected = all_sequences(backend, encoder_out, 3)
    penalised = {tokens: score / (len(tokens) + 1) ** length_penalty for tokens, score in expected.items()}
    found = found_by(backend, encoder_out, len(expected), 3, length_penalty=length_penalty)
    assert found[0].tokens == max(penalised, key=penalised.__getitem__)
    assert found[0].score == pytest.approx(max(penalised.values()), abs=1e-5)


def greedy(backend: Any, encoder_out: np.ndarray) -> tuple[tuple[int, ...], float]:
    prefix, score = [EOS], 0.0
    for _ in range(len(encoder_out)):
        row = backend.next_token(False, encoder_out, prefix)
        prefix.append(int(row.argmax()))
        score += row.max()
        if prefix[-1] == EOS:
            break
    return tuple(token for token in prefix if token != EOS), score


def test_a_beam_of_one_takes_the_best_token_each_time(backend, encoder_out: np.ndarray) -> None:
    tokens, score = greedy(backend, encoder_out)
    (hyp,) = found_by(backend, encoder_out, 1, len(encoder_out))
    assert hyp.tokens == tokens
    assert hyp.score == pytest.approx(score, abs=1e-5)


def test_a_margin_ends_what_is_much_worse(backend, encoder_out: np.ndarray) -> None:
    """Without any the best one goes on alone; what is left of a wide beam is found by the whole beam, too."""
    (hyp,) = found_by(backend, encoder_out, 5, len(encoder_out), margin=0.0)
    assert hyp.tokens == greedy(backend, encoder_out)[0]
    every = all_sequences(backend, encoder_out, 3)
    whole = found_by(backend, encoder_out, len(every), 3)
    sizes = []
    for margin in (0.5, 1.0, 2.0, math.inf):
        left = found_by(backend, encoder_out, len(every), 3, margin=margin)
        assert all(hyp in whole for hyp in left)
        assert left[0].score - left[-1].score <= margin
        sizes.append(len(left))
    assert sizes == sorted(sizes)
    assert 1 < sizes[1] < sizes[-1] == len(whole)


class Counting:
    """A backend whose decoders count their calls."""

    def __init__(self, backend: Backend) -> None:
        self.backend, self.info, self.asked = backend, backend.info, 0

    def decoder(self, encoder_out: np.ndarray) -> "Counting":
        self.inner = self.backend.decoder(encoder_out)
        return self

    def continuations(self, hyps: Any) -> list[np.ndarray]:
        self.asked += 1
        return self.inner.continuations(hyps)


@pytest.mark.parametrize("beam_size", [1, 4])
def test_drafts_change_nothing_but_the_effort(tiny_checkpoint: Path, beam_size: int) -> None:
    """Of a real decoder: whatever the draft, the same hypotheses; with a good one it is asked a few times only."""
    backend = load_recognizer(tiny_checkpoint, num_threads=1).backend
    rng = np.random.default_rng(beam_size)
    for _ in range(5):
        encoder_out = (3 * rng.normal(size=(12, backend.info.encoder_dim))).astype(np.float32)
        expected = found_by(backend, encoder_out, beam_size, 12)
        best = expected[0].tokens
        noise = rng.integers(3, backend.info.vocab_size, 9).tolist()
        for draft in (best, best[2:], [*best[:4], *noise], noise, [noise[0], *best], ()):
            counting: Any = Counting(backend)
            found = found_by(counting, encoder_out, beam_size, 12, drafts=[draft, noise])
            assert [hyp.tokens for hyp in found] == [hyp.tokens for hyp in expected]
            np.testing.assert_allclose([hyp.score for hyp in found], [hyp.score for hyp in expected], atol=1e-4)
            if draft is best and beam_size == 1:
                assert counting.asked <= 1 + math.ceil((len(best) + 1) / 2)
