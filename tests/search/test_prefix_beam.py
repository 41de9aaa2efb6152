"""Prefix beam search against the sum over all alignments, against the textbook's algorithm and WeNet's, and WeNet."""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.search.textbook import BLANK, grow, random_log_probs, sum_over_alignments

from unichoir.search.hypothesis import Hypothesis
from unichoir.search.prefix_beam import PrefixBeam, ctc_prefix_beam_search
from unichoir.search.prefixes import log_add


def textbook_beam(log_probs: np.ndarray, beam_size: int) -> list[tuple[tuple[int, ...], float]]:
    """Hannun et al. 2014, as `grow` has it."""
    beam = {(): (1.0, 0.0)}
    for row in np.exp(log_probs):
        grown = grow(beam, row, beam_size)
        best = sorted(grown.items(), key=lambda item: -sum(item[1]))[:beam_size]
        beam = {prefix: (scores[0], scores[1]) for prefix, scores in best if sum(scores) > 0}
    return [(prefix, float(np.log(sum(scores)))) for prefix, scores in beam.items()]


@dataclass
class WenetPrefix:
    blank: float = -np.inf
    token: float = -np.inf
    best_blank: float = -np.inf
    best_token: float = -np.inf
    token_probability: float = -np.inf
    times_blank: tuple[int, ...] = ()
    times_token: tuple[int, ...] = ()

    @property
    def score(self) -> float:
        return float(np.logaddexp(self.blank, self.token))

    @property
    def best(self) -> tuple[float, tuple[int, ...]]:
        return max((self.best_token, self.times_token), (self.best_blank, self.times_blank), key=lambda pair: pair[0])


def wenet_beam(
    log_probs: np.ndarray, beam_size: int, blank: int
) -> list[tuple[tuple[int, ...], float, tuple[int, ...]]]:
    """WeNet's algorithm as it is written there, token by token over whole tuples: tokens, score and times of each."""
    beam = {(): WenetPrefix(blank=0.0, best_blank=0.0)}
    for time, row in enumerate(log_probs.tolist()):
        grown: dict[tuple[int, ...], WenetPrefix] = defaultdict(WenetPrefix)

        def end_in_token(
            tokens: tuple[int, ...], score: float, best: float, times: tuple[int, ...], probability: float
        ) -> None:
            new = grown[tokens]  # noqa: B023
            new.token = float(np.logaddexp(new.token, score))
            if best > new.best_token:
                new.best_token, new.times_token, new.token_probability = best, times, probability

        for token in sorted(range(len(row)), key=lambda token: -row[token])[:beam_size]:
            here = row[token]
            for tokens, prefix in beam.items():
                best, times = prefix.best
                if token == blank:
                    new = grown[tokens]
                    new.blank = float(np.logaddexp(new.blank, prefix.score + here))
                    new.best_blank, new.times_blank = best + here, times
                elif tokens and tokens[-1] == token:
                    new = grown[tokens]
                    new.token = float(np.logaddexp(new.token, prefix.token + here))
                    if prefix.best_token + here > new.best_token:
                        new.best_token = prefix.best_token + here
                        if here > new.token_probability:
                            new.token_probability, new.times_token = here, (*prefix.times_token[:-1], time)
                    again = (*prefix.times_blank, time)
                    end_in_token((*tokens, token), prefix.blank + here, prefix.best_blank + here, again, here)
                else:
                    end_in_token((*tokens, token), prefix.score + here, best + here, (*times, time), here)
        ranked = sorted(grown.items(), key=lambda item: -item[1].score)[:beam_size]
        beam = {tokens: prefix for tokens, prefix in ranked if prefix.score > -np.inf}
    return [(tokens, prefix.score, prefix.best[1]) for tokens, prefix in beam.items()]


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


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    frames=st.integers(1, 40),
    vocab=st.sampled_from([1, 2, 3, 5, 12, 40, 100]),
    beam_size=st.integers(1, 9),
    sharpness=st.sampled_from([0.03, 0.2, 1.0]),
    surely_blank=st.floats(0.0, 1.0),
    impossible=st.sampled_from([0.0, 0.0, 0.3, 0.9]),
    dtype=st.sampled_from([np.float32, np.float64]),
    cuts=st.lists(st.floats(0.0, 1.0), max_size=5),
)
def test_every_hypothesis_is_that_of_wenets_algorithm(
    seed: int,
    frames: int,
    vocab: int,
    beam_size: int,
    sharpness: float,
    surely_blank: float,
    impossible: float,
    dtype: type,
    cuts: list[float],
) -> None:
    rng = np.random.default_rng(seed)
    blank = int(rng.integers(vocab))
    # Far apart enough to be no ties in float32, which leave open which token is considered and which prefix is better.
    log_probs = np.log(rng.dirichlet(np.full(vocab, sharpness), size=frames) + 1e-9 * rng.random((frames, vocab)))
    quiet = rng.random(frames) < surely_blank
    log_probs[quiet] += np.log(1e-4)
    log_probs[quiet, blank] = -rng.random(quiet.sum()) * 1e-3
    log_probs[rng.random(log_probs.shape) < impossible] = -np.inf
    log_probs = log_probs.astype(dtype)
    beam = PrefixBeam(beam_size, blank)
    for part in np.split(log_probs, sorted(int(cut * frames) for cut in cuts)):
        beam.advance(part)
    check_against(beam.nbest(), wenet_beam(without_impossible_frames(log_probs, blank), beam_size, blank))


@pytest.mark.parametrize("seed", range(20))
def test_sequences_that_come_back_into_the_beam_begin_anew(seed: int) -> None:
    # Few tokens and many frames: sequences leave the beam while longer ones stay in it, and return.
    log_probs = random_log_probs(seed, 60, 3, 0.3)
    check_against(ctc_prefix_beam_search(log_probs, beam_size=6), wenet_beam(log_probs, 6, BLANK))


def without_impossible_frames(log_probs: np.ndarray, blank: int = BLANK) -> np.ndarray:
    """In a frame without any possible token WeNet's beam becomes empty; here it counts as a certain blank."""
    log_probs = log_probs.copy()
    log_probs[(log_probs == -np.inf).all(axis=1), blank] = 0.0
    return log_probs


def check_against(found: list[Hypothesis], expected: list[tuple[tuple[int, ...], float, tuple[int, ...]]]) -> None:
    assert [(hyp.tokens, hyp.frames) for hyp in found] == [(tokens, times) for tokens, _, times in expected]
    np.testing.assert_allclose([hyp.score for hyp in found], [score for _, score, _ in expected], rtol=1e-9, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    weights=st.integers(1, 4).flatmap(
        lambda vocab: st.lists(st.lists(st.integers(0, 2), min_size=vocab, max_size=vocab), min_size=1, max_size=5)
    )
)
def test_ties_and_impossible_tokens_lose_nothing(weights: list[list[int]]) -> None:
    with np.errstate(divide="ignore"):
        log_probs = np.log(np.array(weights, dtype=np.float64)) - 1.0
    totals = sum_over_alignments(without_impossible_frames(log_probs))
    expected = {tokens: total for tokens, total in totals.items() if total > 0}
    found = ctc_prefix_beam_search(log_probs, beam_size=4**5)
    assert {hyp.tokens for hyp in found} == set(expected)
    assert len(found) == len(expected)
    for hyp in found:
        assert hyp.score == pytest.approx(np.log(expected[hyp.tokens]), abs=1e-9)


@pytest.mark.parametrize("beam_size", [1, 2, 10])
@pytest.mark.parametrize("vocab", [1, 2, 31, 32, 33, 319, 320, 327, 2561, 8003])
def test_one_frame_gives_its_most_probable_tokens(vocab: int, beam_size: int) -> None:
    row = np.random.default_rng(vocab).permutation(vocab).astype(np.float32) / -100
    found = ctc_prefix_beam_search(row[None], beam_size)
    best = np.argsort(-row)[:beam_size].tolist()
    assert [hyp.tokens for hyp in found] == [() if token == BLANK else (token,) for token in best]
    assert [hyp.score for hyp in found] == row[best].tolist()


@pytest.mark.parametrize("beam_size", [1, 3, 10])
def test_where_nothing_is_possible_there_still_is_a_hypothesis(beam_size: int) -> None:
    impossible = np.full((1, 6), -np.inf)
    beam = PrefixBeam(beam_size)
    beam.advance(impossible)
    assert (beam.nbest(), beam.is_empty, beam.num_frames) == ([Hypothesis(tokens=(), score=0.0)], True, 1)
    log_probs = random_log_probs(2, 12, 6, 0.5)
    beam.advance(log_probs)
    assert [hyp.score for hyp in beam.nbest()] == [hyp.score for hyp in ctc_prefix_beam_search(log_probs, beam_size)]
    before = beam.nbest()
    beam.advance(impossible)
    assert (beam.nbest(), beam.num_frames) == (before, 14)


def test_only_blank_and_only_one_token_are_possible() -> None:
    with np.errstate(divide="ignore"):
        log_probs = np.log(np.eye(3)[[1, 0, 1, 1, 2]])
    assert [hyp.tokens for hyp in ctc_prefix_beam_search(log_probs, beam_size=2)] == [(1, 1, 2)]


def test_steps_may_stop_after_any_frame() -> None:
    log_probs = random_log_probs(4, 20, 8, 0.3)
    for end in range(1, 21):
        beam = PrefixBeam(beam_size=3)
        for _ in beam.steps(log_probs):
            assert beam.is_empty == (beam.nbest()[0].tokens == ())
            if beam.num_frames == end:
                break
        assert beam.nbest() == ctc_prefix_beam_search(log_probs[:end], beam_size=3)


def test_a_sequence_may_be_long() -> None:
    certain = np.log(np.array([[0.01, 0.97, 0.02], [0.01, 0.02, 0.97]]))
    beam = PrefixBeam(beam_size=2)
    for _ in range(200):
        beam.advance(np.tile(certain, (50, 1)))
    best = beam.nbest()[0]
    assert best.tokens == (1, 2) * 10_000
    assert best.frames == tuple(range(20_000))


@pytest.mark.parametrize("seed", range(5))
def test_only_the_beam_and_what_leads_there_is_remembered(seed: int) -> None:
    beam = PrefixBeam(beam_size=6)
    beam.advance(random_log_probs(seed, 200, 12, 0.5))
    needed = {hyp.tokens[:end] for hyp in beam.nbest() for end in range(len(hyp.tokens) + 1)}
    (root,) = {id(node): node for node in map(root_of, beam._beam)}.values()
    assert sorted(sequences_below(root, ())) == sorted(needed)


def root_of(node: Any) -> Any:
    while node.parent is not None:
        node = node.parent
    return node


def sequences_below(node: Any, tokens: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    yield tokens
    for token, child in node.children.items():
        yield from sequences_below(child, (*tokens, token))


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


@pytest.mark.parametrize("name", ["wenet_moe_tiny", "wenet_dense", "wenet_moe_top1_nobias"])
def test_wenet(fixtures: Path, name: str) -> None:
    folder = fixtures / name
    arrays = np.load(folder / "reference.npz")
    decoded = json.loads((folder / "decode.json").read_text())
    for row, reference in enumerate(decoded["results"]["full"]["ctc_prefix_beam_search"]):
        log_probs = arrays["ctc_log_probs_full"][row, : arrays["encoder_out_full_lens"][row]]
        found = ctc_prefix_beam_search(log_probs, decoded["beam_size"])
        assert [list(hyp.tokens) for hyp in found] == reference["nbest"]
        np.testing.assert_allclose([hyp.score for hyp in found], reference["nbest_scores"], atol=1e-9)
        assert list(found[0].frames) == reference["times"]
