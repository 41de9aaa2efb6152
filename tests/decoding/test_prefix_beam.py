"""Prefix beam search against the sum over all alignments, against the textbook's algorithm, and against WeNet."""

import json
from collections import defaultdict
from itertools import groupby, product
from pathlib import Path

import numpy as np
import pytest

from unichoir.decoding.prefix_beam import PrefixBeam, ctc_prefix_beam_search, log_add

BLANK = 0


def random_log_probs(seed: int, frames: int, vocab: int, sharpness: float) -> np.ndarray:
    probabilities = np.random.default_rng(seed).dirichlet(np.full(vocab, sharpness), size=frames)
    return np.log(probabilities + 1e-12)


def sum_over_alignments(log_probs: np.ndarray) -> dict[tuple[int, ...], float]:
    totals: dict[tuple[int, ...], float] = defaultdict(float)
    for path in product(range(log_probs.shape[1]), repeat=len(log_probs)):
        tokens = tuple(token for token, _ in groupby(path) if token != BLANK)
        totals[tokens] += float(np.exp(sum(row[token] for row, token in zip(log_probs, path, strict=True))))
    return totals


def textbook_beam(log_probs: np.ndarray, beam_size: int) -> list[tuple[tuple[int, ...], float]]:
    """Hannun et al. 2014 in plain probabilities, every extension computed, without any shortcut."""
    beam = {(): (1.0, 0.0)}
    for row in np.exp(log_probs):
        grown: dict[tuple[int, ...], list[float]] = defaultdict(lambda: [0.0, 0.0])
        for token in np.argsort(-row)[:beam_size].tolist():
            for prefix, (blank, no_blank) in beam.items():
                if token == BLANK:
                    grown[prefix][0] += (blank + no_blank) * row[token]
                elif prefix and prefix[-1] == token:
                    grown[prefix][1] += no_blank * row[token]
                    grown[(*prefix, token)][1] += blank * row[token]
                else:
                    grown[(*prefix, token)][1] += (blank + no_blank) * row[token]
        best = sorted(grown.items(), key=lambda item: -sum(item[1]))[:beam_size]
        beam = {prefix: (scores[0], scores[1]) for prefix, scores in best if sum(scores) > 0}
    return [(prefix, float(np.log(sum(scores)))) for prefix, scores in beam.items()]


@pytest.mark.parametrize(("frames", "vocab"), [(1, 3), (3, 4), (4, 4), (5, 3), (6, 3)])
@pytest.mark.parametrize("sharpness", [0.2, 2.0])
def test_a_wide_beam_sums_all_alignments_of_every_sequence(frames: int, vocab: int, sharpness: float) -> None:
    log_probs = random_log_probs(frames * vocab, frames, vocab, sharpness)
    expected = sum_over_alignments(log_probs)
    found = ctc_prefix_beam_search(log_probs, beam_size=len(expected))
    assert {hyp.tokens for hyp in found} == set(expected)
    for hyp in found:
        assert hyp.score == pytest.approx(np.log(expected[hyp.tokens]), abs=1e-9)
    assert [hyp.score for hyp in found] == sorted((hyp.score for hyp in found), reverse=True)


@pytest.mark.parametrize("seed", range(30))
def test_skipping_hopeless_extensions_changes_nothing(seed: int) -> None:
    # From flat to nearly certain, with runs of nearly certain blanks: where most of the work is skipped.
    log_probs = random_log_probs(seed, 60, 20, [0.02, 0.1, 1.0][seed % 3])
    log_probs[20:40] += np.log(1e-5)
    log_probs[20:40, BLANK] = np.log(1 - 1e-5)
    beam_size = [1, 2, 4, 8, 25][seed % 5]
    expected = textbook_beam(log_probs, beam_size)
    found = ctc_prefix_beam_search(log_probs, beam_size)
    assert [hyp.tokens for hyp in found] == [tokens for tokens, _ in expected]
    np.testing.assert_allclose([hyp.score for hyp in found], [score for _, score in expected], atol=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_any_split_into_chunks_gives_the_same(seed: int) -> None:
    log_probs = random_log_probs(seed, 40, 10, 0.3)
    beam = PrefixBeam(beam_size=5)
    cuts = np.sort(np.random.default_rng(seed).integers(0, 41, size=6))
    for part in np.split(log_probs, cuts):
        beam.advance(part)
    assert beam.num_frames == 40
    assert beam.nbest() == ctc_prefix_beam_search(log_probs, beam_size=5)


def test_partial_results_are_those_of_the_frames_so_far() -> None:
    log_probs = random_log_probs(3, 30, 10, 0.3)
    beam = PrefixBeam(beam_size=4)
    for end in range(5, 31, 5):
        beam.advance(log_probs[end - 5 : end])
        assert beam.nbest() == ctc_prefix_beam_search(log_probs[:end], beam_size=4)


def test_before_any_frame_the_empty_sequence_is_certain() -> None:
    (hyp,) = PrefixBeam(beam_size=3).nbest()
    assert (hyp.tokens, hyp.score, hyp.frames) == ((), 0.0, ())


def test_a_repeated_token_needs_a_blank_between() -> None:
    certain = np.log(np.eye(3) * 0.998 + 1e-3)
    assert ctc_prefix_beam_search(certain[[1, 1, 0, 1, 2, 2]], beam_size=3)[0].tokens == (1, 1, 2)


def test_frames_are_where_the_tokens_are() -> None:
    certain = np.log(np.eye(4) * 0.996 + 1e-3)
    hyp = ctc_prefix_beam_search(certain[[0, 1, 1, 0, 0, 2, 3, 3, 3, 0]], beam_size=3)[0]
    assert (hyp.tokens, hyp.frames) == ((1, 2, 3), (2, 5, 8))


def test_another_blank() -> None:
    log_probs = random_log_probs(1, 10, 5, 0.3)
    swapped = log_probs[:, [4, 1, 2, 3, 0]]
    expected = ctc_prefix_beam_search(log_probs, beam_size=4)
    found = ctc_prefix_beam_search(swapped, beam_size=4, blank_id=4)
    assert [tuple(token % 4 for token in hyp.tokens) for hyp in found] == [
        tuple(token % 4 for token in hyp.tokens) for hyp in expected
    ]


def test_log_add() -> None:
    assert log_add(-np.inf, -np.inf) == -np.inf
    assert log_add(-np.inf, -3.0) == log_add(-3.0, -np.inf) == -3.0
    assert log_add(-1.0, -2.5) == pytest.approx(np.logaddexp(-1.0, -2.5))
    assert log_add(-1000.0, 0.0) == 0.0


def check_against_wenet(folder: Path) -> None:
    arrays = np.load(folder / "reference.npz")
    decoded = json.loads((folder / "decode.json").read_text())
    for row, reference in enumerate(decoded["results"]["full"]["ctc_prefix_beam_search"]):
        log_probs = arrays["ctc_log_probs_full"][row, : arrays["encoder_out_full_lens"][row]]
        found = ctc_prefix_beam_search(log_probs, decoded["beam_size"])
        assert [list(hyp.tokens) for hyp in found] == reference["nbest"]
        np.testing.assert_allclose([hyp.score for hyp in found], reference["nbest_scores"], atol=1e-9)
        assert list(found[0].frames) == reference["times"]


def test_wenet_tiny(fixtures: Path) -> None:
    check_against_wenet(fixtures / "wenet_moe_tiny")


@pytest.mark.parametrize("name", ["wenet_dense", "wenet_moe", "wenet_moe_top1_nobias"])
def test_wenet(shared: Path, name: str) -> None:
    check_against_wenet(shared / "fixtures" / "wenet" / name)
