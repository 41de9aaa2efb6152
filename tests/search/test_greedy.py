"""Greedy search against a loop over runs."""

from itertools import groupby

import numpy as np
import pytest

from unichoir.search.greedy import ctc_greedy_search


@pytest.mark.parametrize("seed", range(20))
def test_equals_collapsing_the_best_path(seed: int) -> None:
    rng = np.random.default_rng(seed)
    blank = seed % 3
    log_probs = np.log(rng.dirichlet(np.full(3, 0.3), size=12) + 1e-9)
    path = [max(range(3), key=lambda token: row[token]) for row in log_probs]
    tokens, frames, frame = [], [], -1
    for token, run in groupby(path):
        frame += len(list(run))
        if token != blank:
            tokens.append(token)
            frames.append(frame)
    hyp = ctc_greedy_search(log_probs, blank)
    assert hyp.tokens == tuple(tokens)
    assert hyp.frames == tuple(frames)
    assert hyp.score == pytest.approx(sum(row[token] for row, token in zip(log_probs, path, strict=True)))


def test_only_blanks_are_no_tokens() -> None:
    hyp = ctc_greedy_search(np.log(np.array([[0.9, 0.1]] * 4)))
    assert hyp.tokens == () == hyp.frames


def test_no_frames_are_no_tokens() -> None:
    assert ctc_greedy_search(np.zeros((0, 5))).tokens == ()


def test_of_equally_probable_tokens_the_first_counts_once() -> None:
    hyp = ctc_greedy_search(np.array([[-3.0, -1.0, -1.0], [-1.0, -1.0, -2.0], [-np.inf, -2.0, -0.5]]))
    assert (hyp.tokens, hyp.score, hyp.frames) == ((1, 2), -2.5, (0, 2))
