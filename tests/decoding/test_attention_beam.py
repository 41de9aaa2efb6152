"""Attention beam search against all sequences there are."""

from itertools import product

import numpy as np
import pytest

from unichoir.decoding.attention_beam import attention_beam_search

EOS = 2


def all_sequences(backend, encoder_out: np.ndarray, max_length: int) -> dict[tuple[int, ...], float]:
    """Every sequence of at most max_length steps with its score: ended by eos, or cut after the last step."""
    others = [token for token in range(backend.info.vocab_size) if token != EOS]
    scores = {}
    for length in range(max_length + 1):
        for tokens in product(others, repeat=length):
            steps = [*tokens, EOS][:max_length]
            prefix, score = [EOS], 0.0
            for token in steps:
                score += backend.next_token_log_probs(encoder_out, np.array([prefix]))[0, token]
                prefix.append(token)
            scores[tokens] = score
    return scores


@pytest.mark.parametrize("max_length", [1, 2, 3, 4])
def test_a_wide_beam_finds_every_sequence(backend, encoder_out: np.ndarray, max_length: int) -> None:
    expected = all_sequences(backend, encoder_out, max_length)
    found = attention_beam_search(backend, encoder_out, beam_size=len(expected), max_length=max_length)
    assert {hyp.tokens: pytest.approx(hyp.score, abs=1e-5) for hyp in found} == expected
    assert [hyp.score for hyp in found] == sorted((hyp.score for hyp in found), reverse=True)


@pytest.mark.parametrize("length_penalty", [0.5, 1.0])
def test_length_penalty_divides_the_scores(backend, encoder_out: np.ndarray, length_penalty: float) -> None:
    expected = all_sequences(backend, encoder_out, 3)
    penalised = {tokens: score / (len(tokens) + 1) ** length_penalty for tokens, score in expected.items()}
    found = attention_beam_search(backend, encoder_out, len(expected), 3, length_penalty)
    assert found[0].tokens == max(penalised, key=penalised.__getitem__)
    assert found[0].score == pytest.approx(max(penalised.values()), abs=1e-5)


def test_a_beam_of_one_takes_the_best_token_each_time(backend, encoder_out: np.ndarray) -> None:
    prefix, score = [EOS], 0.0
    for _ in range(len(encoder_out)):
        row = backend.next_token_log_probs(encoder_out, np.array([prefix]))[0]
        prefix.append(int(row.argmax()))
        score += row.max()
        if prefix[-1] == EOS:
            break
    (hyp,) = attention_beam_search(backend, encoder_out, beam_size=1)
    assert hyp.tokens == tuple(token for token in prefix if token != EOS)
    assert hyp.score == pytest.approx(score, abs=1e-5)


def test_by_default_as_many_steps_as_encoder_frames(backend, encoder_out: np.ndarray) -> None:
    backend.place[0, :, EOS] = -50.0
    assert len(attention_beam_search(backend, encoder_out, beam_size=3)[0].tokens) == len(encoder_out)
