"""Prefix beam search with a scorer against all alignments, and against the textbook's algorithm without shortcuts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.search.spelled import SpelledTokenizer
from tests.search.textbook import BLANK, grow, random_log_probs, sum_over_alignments

from unichoir.search.hotwords import ContextGraph, Hotword
from unichoir.search.prefix_beam import WIDENING, PrefixBeam, ctc_prefix_beam_search
from unichoir.search.scoring import JointScorer, PrefixScorer


class Pairs:
    """A scorer that adds a random number, often a large one, for each pair of neighbours and for the last token."""

    def __init__(self, seed: int, vocab: int, scale: float = 2.0) -> None:
        rng = np.random.default_rng(seed)
        self.table = rng.normal(0, scale, (vocab, vocab))
        self.ends = rng.normal(0, scale, vocab)
        self.most = float(self.table.max())

    def start(self) -> int:
        return 0

    def extend(self, state: int, token: int) -> tuple[int, float]:
        return token, float(self.table[state, token])

    def finish(self, state: int) -> float:
        return float(self.ends[state])


def total(scorer: PrefixScorer, tokens: tuple[int, ...], is_final: bool = True) -> float:
    state, added = scorer.start(), 0.0
    for token in tokens:
        state, more = scorer.extend(state, token)
        added += more
    return added + (scorer.finish(state) if is_final else 0.0)


def hotwords(*phrases: str) -> ContextGraph:
    """Hotwords made of the tokens 3 to 5."""
    tokenizer = SpelledTokenizer(["<blank>", "<unk>", "<sos/eos>", "\u2581a", "b", "\u2581c"])
    return ContextGraph([Hotword(phrase, 1.5) for phrase in phrases], tokenizer)


@pytest.mark.parametrize(
    ("scorer", "vocab", "frames"),
    [
        (Pairs(1, 4), 4, 5),
        (Pairs(2, 3, scale=20.0), 3, 6),
        (hotwords("\u2581a b", "\u2581c", "b \u2581c \u2581a"), 6, 4),
        (JointScorer([hotwords("\u2581a b"), Pairs(3, 6)]), 6, 4),
    ],
)
def test_a_wide_beam_has_every_sequence_with_all_its_alignments_and_its_bonus(
    scorer: PrefixScorer, vocab: int, frames: int
) -> None:
    log_probs = random_log_probs(frames, frames, vocab, 0.5)
    sums = sum_over_alignments(log_probs)
    found = ctc_prefix_beam_search(log_probs, len(sums), scorer=scorer)
    assert {hyp.tokens for hyp in found} == set(sums)
    for hyp in found:
        assert hyp.bonus == pytest.approx(total(scorer, hyp.tokens), abs=1e-9)
        assert hyp.score - hyp.bonus == pytest.approx(np.log(sums[hyp.tokens]), abs=1e-8)
    assert [hyp.score for hyp in found] == sorted((hyp.score for hyp in found), reverse=True)


def textbook_beam(
    log_probs: np.ndarray, beam_size: int, scorer: PrefixScorer
) -> list[tuple[tuple[int, ...], float, float]]:
    """Hannun et al. 2014 with a bonus in the ranking, every extension computed; tokens, CTC score, bonus so far."""
    beam = {(): (1.0, 0.0)}
    for row in np.exp(log_probs):
        grown = grow(beam, row, WIDENING * beam_size)
        possible = {prefix: sum(scores) for prefix, scores in grown.items() if sum(scores) > 0}
        rank = {prefix: np.log(score) + total(scorer, prefix, is_final=False) for prefix, score in possible.items()}
        best = sorted(rank, key=lambda prefix: -rank[prefix])[:beam_size]
        beam = {prefix: (grown[prefix][0], grown[prefix][1]) for prefix in best}
    return [
        (prefix, float(np.log(sum(scores))), total(scorer, prefix, is_final=False)) for prefix, scores in beam.items()
    ]


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    beam_size=st.integers(1, 8),
    sharpness=st.sampled_from([0.03, 0.2, 1.0]),
    scale=st.sampled_from([0.1, 1.0, 5.0]),
    cuts=st.lists(st.integers(0, 40), max_size=4),
)
def test_a_narrow_beam_is_the_textbooks(
    seed: int, beam_size: int, sharpness: float, scale: float, cuts: list[int]
) -> None:
    vocab = 20
    log_probs = random_log_probs(seed, 40, vocab, sharpness)
    # Runs of nearly certain blanks, where most of the work is skipped.
    log_probs[15:30] += np.log(1e-3)
    log_probs[15:30, BLANK] = np.log(1 - 1e-3)
    scorer = Pairs(seed, vocab, scale)
    beam = PrefixBeam(beam_size, scorer=scorer)
    for part in np.split(log_probs, sorted(cuts)):
        beam.advance(part)
    expected = textbook_beam(log_probs, beam_size, scorer)
    found = beam.nbest()
    assert [hyp.tokens for hyp in found] == [tokens for tokens, _, _ in expected]
    np.testing.assert_allclose([hyp.score for hyp in found], [ctc + bonus for _, ctc, bonus in expected], atol=1e-7)
    np.testing.assert_allclose([hyp.bonus for hyp in found], [bonus for *_, bonus in expected], atol=1e-9)
    finals = sorted(((ctc + total(scorer, tokens), tokens) for tokens, ctc, _ in expected), reverse=True)
    assert [hyp.tokens for hyp in beam.nbest(is_final=True)] == [tokens for _, tokens in finals]
    np.testing.assert_allclose([hyp.score for hyp in beam.nbest(is_final=True)], [s for s, _ in finals], atol=1e-7)


@pytest.mark.parametrize("seed", range(5))
def test_a_scorer_that_adds_nothing_changes_nothing(seed: int) -> None:
    log_probs = random_log_probs(seed, 60, 8, 0.3)
    found = ctc_prefix_beam_search(log_probs, 10, scorer=Pairs(0, 8, scale=0.0))
    expected = ctc_prefix_beam_search(log_probs, 10)
    assert [(hyp.tokens, hyp.frames) for hyp in found] == [(hyp.tokens, hyp.frames) for hyp in expected]
    np.testing.assert_allclose([hyp.score for hyp in found], [hyp.score for hyp in expected], atol=1e-9)
    assert {hyp.bonus for hyp in expected} == {0.0}


def test_a_token_below_the_most_probable_ones_enters_where_the_scorer_wants_it() -> None:
    row = np.log(np.array([0.4, 0.1, 0.1, 0.15, 0.05, 0.2]))
    graph = hotwords("b")  # token 4, the least probable
    assert [hyp.tokens for hyp in ctc_prefix_beam_search(row[None], 3)] == [(), (5,), (3,)]
    assert [hyp.tokens for hyp in ctc_prefix_beam_search(row[None], 3, scorer=graph)] == [(), (4,), (5,)]


def test_frames_in_which_nothing_is_possible() -> None:
    beam = PrefixBeam(3, scorer=Pairs(0, 6))
    beam.advance(np.full((2, 6), -np.inf))
    (hyp,) = beam.nbest()
    assert (hyp.tokens, hyp.score, beam.num_frames) == ((), 0.0, 2)


def test_what_has_left_the_beam_is_forgotten() -> None:
    beam = PrefixBeam(4, scorer=Pairs(5, 12))
    beam.advance(random_log_probs(0, 300, 12, 0.5))
    in_beam = {id(prefix) for prefix in beam._beam}
    node = beam._beam[0].parent
    while node is not None:
        assert node.extensions is None or id(node) in in_beam
        node = node.parent
