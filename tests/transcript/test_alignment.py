"""Forced alignment against an exhaustive search of all alignments."""

from itertools import groupby, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unichoir.transcript import alignment
from unichoir.transcript.alignment import ctc_align


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("tokens", [(), (1,), (2, 1), (1, 1), (2, 2, 1)])
def test_spans_are_the_runs_of_the_best_alignment(seed: int, tokens: tuple[int, ...]) -> None:
    log_probs = np.log(np.random.default_rng(seed).dirichlet(np.full(3, 0.7), size=6))
    paths = [
        path
        for path in product(range(3), repeat=6)
        if tuple(token for token, _ in groupby(path) if token != 0) == tokens
    ]
    best = max(paths, key=lambda path: sum(row[token] for row, token in zip(log_probs, path, strict=True)))
    expected, frame = [], 0
    for token, run in groupby(best):
        length = len(list(run))
        if token != 0:
            expected.append((frame, frame + length - 1))
        frame += length
    spans = ctc_align(log_probs, tokens)
    assert [(span.first, span.last) for span in spans] == expected
    for token, span in zip(tokens, spans, strict=True):
        assert span.probability == pytest.approx(max(np.exp(log_probs[span.first : span.last + 1, token])))


@settings(max_examples=150, deadline=None)
@given(
    weights=st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=1, max_size=6),
    tokens=st.lists(st.integers(1, 2), min_size=1, max_size=4),
)
def test_with_ties_and_impossible_tokens_no_alignment_is_better(weights: list[list[int]], tokens: list[int]) -> None:
    def score(path: tuple[int, ...]) -> float:
        return float(sum(row[token] for row, token in zip(log_probs, path, strict=True)))

    with np.errstate(divide="ignore"):
        log_probs = np.log(np.array(weights)) - 2.0
    paths = [
        path
        for path in product(range(3), repeat=len(weights))
        if [token for token, _ in groupby(path) if token != 0] == tokens
    ]
    best = max(map(score, paths), default=-np.inf)
    spans = ctc_align(log_probs, tokens)
    if best == -np.inf:
        starts = [place * len(weights) // len(tokens) for place in range(len(tokens))]
        assert [span.first for span in spans] == starts
    else:
        found = [0] * len(weights)
        for token, span in zip(tokens, spans, strict=True):
            found[span.first : span.last + 1] = [token] * (span.last + 1 - span.first)
        assert tuple(found) in paths
        assert score(tuple(found)) == pytest.approx(best)


def test_of_equally_good_alignments_tokens_begin_early_and_the_last_is_long() -> None:
    log_probs = np.full((4, 4), np.log(0.25))
    assert [span[:2] for span in ctc_align(log_probs, [1, 2, 3])] == [(0, 0), (1, 1), (2, 3)]


@pytest.mark.parametrize("block_frames", [1, 2, 3, 7, 50, 64])
@pytest.mark.parametrize("seed", range(6))
def test_blocks_of_any_size_give_the_alignment_of_all_scores_kept(
    seed: int, block_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    log_probs = np.log(rng.dirichlet(np.full(4, 0.3), size=64))
    tokens = rng.integers(1, 4, size=(4, 12, 18, 25, 30, 31)[seed]).tolist()
    expected = naive_spans(log_probs, tokens)
    monkeypatch.setattr(alignment, "BLOCK_FRAMES", block_frames)
    found = ctc_align(log_probs, tokens)
    assert [(span.first, span.last) for span in found] == expected


def naive_spans(log_probs: np.ndarray, tokens: list[int]) -> list[tuple[int, int]]:
    """Return first and last frame of each token in the best path, keeping the whole path of every state."""
    labels = [0, *(label for token in tokens for label in (token, 0))]
    paths: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for row in log_probs:
        longer: dict[int, tuple[float, list[int]]] = {}
        for state, (score, path) in paths.items():
            for after in (state, state + 1, state + 2):
                if after >= len(labels) or (after == state + 2 and (after % 2 == 0 or labels[after] == labels[state])):
                    continue
                total = score + float(row[labels[after]])
                if after not in longer or total > longer[after][0]:
                    longer[after] = total, [*path, after]
        paths = longer
    _, best = max(paths[state] for state in (len(labels) - 1, len(labels) - 2) if state in paths)
    return [(best.index(2 * k + 1), len(best) - 1 - best[::-1].index(2 * k + 1)) for k in range(len(tokens))]


@pytest.mark.parametrize("num_tokens", [5, 7, 23])
def test_more_tokens_than_frames_are_spread_evenly(num_tokens: int) -> None:
    log_probs = np.log(np.random.default_rng(0).dirichlet(np.ones(3), size=5))
    tokens = [1] * num_tokens
    spans = ctc_align(log_probs, tokens)
    assert len(spans) == num_tokens
    assert all(0 <= span.first <= span.last < 5 and 0 <= span.probability <= 1 for span in spans)
    assert sorted(span.first for span in spans) == [span.first for span in spans]


def test_a_blank_that_is_not_zero() -> None:
    log_probs = np.log(np.eye(3) * 0.97 + 0.01)[[2, 0, 0, 2, 1]]
    assert [span[:2] for span in ctc_align(log_probs, [0, 1], blank_id=2)] == [(1, 2), (4, 4)]
