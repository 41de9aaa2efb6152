"""Corrections of a hypothesis: a decoder that knows the true text, greedy decoding step by step, CTC in plain ways."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.decoding.test_rescoring import directed
from tests.decoding.textbook import random_log_probs, sum_over_alignments

from unichoir.api import load_recognizer
from unichoir.decoding import correction
from unichoir.decoding.backend import Floats, ModelInfo
from unichoir.decoding.correction import correct, ctc_score
from unichoir.decoding.hypothesis import Hypothesis
from unichoir.decoding.language import LanguageTokens
from unichoir.decoding.options import DecodingOptions, StreamingOptions
from unichoir.decoding.prefix_beam import ctc_prefix_beam_search
from unichoir.decoding.recognizer import Recognizer
from unichoir.decoding.rescoring import attention_rescoring, corrected
from unichoir.decoding.search import search

Listen = Callable[..., Any]
EOS = 2
NOTHING = np.zeros((4, 8), np.float32)


class Knowing:
    """A decoder that knows the text: behind a beginning of it, it wants the next token; else all are alike to it."""

    def __init__(self, text: Sequence[int], gain: float = 10.0, end_gain: float | None = None) -> None:
        self.info: Any = ModelInfo(vocab_size=20, encoder_dim=8, sos_id=EOS, eos_id=EOS)
        self.text, self.gain = tuple(text), gain
        self.end_gain = gain if end_gain is None else end_gain
        self.rounds: list[list[tuple[int, ...]]] = []

    def following(self, beginning: tuple[int, ...]) -> np.ndarray:
        logits = np.zeros(20)
        if beginning == self.text:
            logits[EOS] = self.end_gain
        elif beginning == self.text[: len(beginning)]:
            logits[self.text[len(beginning)]] = self.gain
        return logits - np.logaddexp.reduce(logits)

    def continuations(self, encoder_out: Floats, hyps: Sequence[Sequence[int]]) -> list[np.ndarray]:
        assert encoder_out is NOTHING
        self.rounds.append([tuple(hyp) for hyp in hyps])
        return [np.stack([self.following(tuple(hyp[:n])) for n in range(len(hyp) + 1)]) for hyp in hyps]


TEXT = (3, 4, 5, 6, 7, 8, 9)


@pytest.mark.parametrize(
    ("draft", "corrections"),
    [
        (TEXT, 0),
        ((3, 4, 15, 6, 7, 8, 9), 1),  # a substitution
        ((15, 4, 5, 6, 7, 8, 9), 1),
        ((3, 4, 5, 6, 7, 8, 15), 1),
        ((3, 4, 6, 7, 8, 9), 1),  # a token is missing
        ((4, 5, 6, 7, 8, 9), 1),
        ((3, 4, 5, 6, 7, 8), 1),
        ((3, 4, 15, 5, 6, 7, 8, 9), 1),  # one too many, two
        ((3, 4, 15, 16, 5, 6, 7, 8, 9), 1),
        ((3, 4, 5, 6, 7, 8, 9, 15, 15, 15, 15), 1),
        ((3, 15, 16, 6, 7, 8, 9), 2),  # two neighbours, of which each is repaired and nothing of the rest is lost
        ((15, 3, 4, 6, 7, 16, 9), 3),
        ((3, 3, 3, 3), 6),
        ((), 7),
    ],
)
def test_errors_are_repaired(draft: tuple[int, ...], corrections: int) -> None:
    """As many corrections as there are errors, and one run of the decoder more."""
    backend = Knowing(TEXT)
    assert correct(backend, NOTHING, draft, 20) == TEXT  # type: ignore[arg-type]
    ended_early = draft[: len(TEXT)] == TEXT and draft != TEXT
    assert len(backend.rounds) == corrections + (not ended_early)
    assert backend.rounds[0] == [draft]
    assert all(len(drafts) <= 1 + correction.SKIPPED for drafts in backend.rounds)
    exact = Knowing(TEXT)
    assert correct(exact, NOTHING, draft, corrections) == TEXT  # type: ignore[arg-type]


def test_no_more_corrections_than_allowed() -> None:
    draft = (15, 4, 5, 16, 7, 8, 17)
    found = [correct(Knowing(TEXT), NOTHING, draft, count) for count in range(4)]  # type: ignore[arg-type]
    assert found == [draft, (3, 4, 5, 16, 7, 8, 17), (3, 4, 5, 6, 7, 8, 17), TEXT]


def test_the_last_correction_is_followed_by_the_best_rest() -> None:
    """After a missing token and behind superfluous ones the length of the draft says nothing."""
    for draft in ((3, 5, 6, 7, 8, 9), (3, 15, 16, 4, 5, 6, 7, 8, 9), (3, 15, 4, 5, 6, 7, 8, 9)):
        assert correct(Knowing(TEXT), NOTHING, draft, 1) == TEXT  # type: ignore[arg-type]


def test_a_decoder_that_never_ends_is_stopped() -> None:
    backend = Knowing((5,) * 100)
    assert correct(backend, NOTHING, (5, 5), 3) == (5,) * 5  # type: ignore[arg-type]
    assert len(backend.rounds) == 4
    assert correct(Knowing((5,) * 100), NOTHING, (6, 6), 3) == (5,) * 3  # type: ignore[arg-type]


def test_margins() -> None:
    """Only what the decoder clearly wants is done; to end early it must be surer still."""
    sub, long = (3, 15, 5, 6, 7, 8, 9), (*TEXT, 15)
    for gain, expected in ((correction.MARGIN - 0.01, sub), (correction.MARGIN + 0.01, TEXT)):
        assert correct(Knowing(TEXT, gain), NOTHING, sub, 9) == expected  # type: ignore[arg-type]
    for gain, expected in ((correction.END_MARGIN - 0.01, long), (correction.END_MARGIN + 0.01, TEXT)):
        assert correct(Knowing(TEXT, end_gain=gain), NOTHING, long, 9) == expected  # type: ignore[arg-type]


def test_of_whole_drafts_the_most_probable() -> None:
    """Behind its end the decoder would bear one token more, which no draft that ends there must lose to."""
    backend = Knowing((3, 4, 5), end_gain=correction.END_MARGIN - 1)
    assert correct(backend, NOTHING, (3, 4, 15), 9) == (3, 4, 5)  # type: ignore[arg-type]


def test_another_language_is_not_written() -> None:
    """The decoder hears language 11; only 10 is asked for."""
    text = (11, 3, 4)
    assert correct(Knowing(text), NOTHING, (10, 3, 4), 5) == text  # type: ignore[arg-type]
    restrict = partial(LanguageTokens({"a": 10, "b": 11}).restrict, language="a")
    assert correct(Knowing(text), NOTHING, (10, 3, 4), 5, restrict) == (10, 3, 4)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Path) -> Recognizer:
    return load_recognizer(tiny_checkpoint, num_threads=1)


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(3).normal(0, 0.1, 32000).astype(np.float32)


@pytest.fixture
def decisive(tiny: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a real decoder the better token, whatever it is better by."""
    for name in ("MARGIN", "END_MARGIN"):
        monkeypatch.setattr(correction, name, 0.0)


@pytest.mark.usefixtures("decisive")
def test_without_margins_it_is_greedy_decoding(tiny: Recognizer) -> None:
    """Of a real decoder, token by token, whatever the draft; random weights do not end, so a number of tokens does."""
    info = tiny.backend.info
    rng = np.random.default_rng(0)
    for _ in range(4):
        encoder_out = (3 * rng.normal(size=(9, info.encoder_dim))).astype(np.float32)
        greedy: list[int] = []
        while len(greedy) < 10:
            prefix = np.array([[info.sos_id, *greedy]])
            token = int(tiny.backend.next_token_log_probs(encoder_out, prefix)[0].argmax())
            if token == info.eos_id:
                break
            greedy.append(token)
        draft = rng.integers(3, info.vocab_size, 6).tolist()
        for start in ((), greedy[:4], draft, [*greedy[:3], *draft], [*draft[:1], *greedy[1:]]):
            found = correct(tiny.backend, encoder_out, start, 10)
            shared = min(len(found), len(greedy))
            assert found[:shared] == tuple(greedy[:shared])
            assert shared == len(greedy)


def test_what_follows_each_beginning(tiny: Recognizer) -> None:
    info = tiny.backend.info
    encoder_out = np.random.default_rng(1).normal(size=(7, info.encoder_dim)).astype(np.float32)
    hyps = [(3, 4, 5), (), (3, 4, 6, 6), (3, 4, 5)]
    found = tiny.backend.continuations(encoder_out, hyps)
    for hyp, log_probs in zip(hyps, found, strict=True):
        assert log_probs.shape == (len(hyp) + 1, info.vocab_size)
        for length, row in enumerate(log_probs):
            alone = tiny.backend.next_token_log_probs(encoder_out, np.array([[info.sos_id, *hyp[:length]]]))[0]
            np.testing.assert_allclose(row, alone, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_ctc_is_the_sum_over_all_alignments(frames: int) -> None:
    log_probs = random_log_probs(frames, frames, 4, 1.0)
    totals = sum_over_alignments(log_probs)
    assert {(), (1,), (3,)} <= totals.keys()
    for tokens, total in totals.items():
        assert ctc_score(log_probs, tokens) == pytest.approx(np.log(total), abs=1e-9)
    for impossible in ((1, 1, 2, 2, 3), (1,) * (frames // 2 + 2), (1, 0), (1,) * 9):
        assert impossible not in totals
        assert ctc_score(log_probs, impossible) == -np.inf


def test_ctc_of_no_frames() -> None:
    assert ctc_score(np.zeros((0, 4)), ()) == 0
    assert ctc_score(np.zeros((0, 4)), (1,)) == -np.inf


@pytest.mark.parametrize(("tokens", "blank"), [((1, 1, 2, 3, 3, 1, 2), 0), ((0,), 3), ((), 0), ((2, 2, 2, 2), 1)])
def test_ctc_of_torch(tokens: tuple[int, ...], blank: int) -> None:
    log_probs = random_log_probs(7, 30, 4, 1.0).astype(np.float32)
    targets = torch.tensor([tokens], dtype=torch.long).reshape(1, len(tokens))
    loss = torch.nn.functional.ctc_loss(
        torch.from_numpy(log_probs)[:, None], targets, [30], [len(tokens)], blank, reduction="sum"
    )
    assert ctc_score(log_probs, tokens, blank) == pytest.approx(-loss.item(), rel=1e-5)


def naive(backend: Any, encoder_out: np.ndarray, tokens: tuple[int, ...], ctc: float, weight: float) -> float:
    scores = [directed(backend, encoder_out, tokens, reverse) for reverse in (False, True)]
    return 0.7 * scores[0] + 0.3 * scores[1] + weight * ctc


@pytest.mark.usefixtures("decisive")
def test_the_joint_score_decides(backend, encoder_out: np.ndarray) -> None:
    """Of whatever the decoder proposes; over many utterances it wins in some and loses in others."""
    won = set()
    for seed in range(30):
        log_probs = random_log_probs(seed, len(encoder_out), 6, 10.0)
        totals = sum_over_alignments(log_probs) if seed < 2 else None
        options = DecodingOptions(beam_size=2, ctc_weight=0.5, corrections=1 + seed % 4)
        hyps = attention_rescoring(backend, encoder_out, ctc_prefix_beam_search(log_probs, 2), 0.5)
        proposed = correct(backend, encoder_out, hyps[0].tokens, 1 + seed % 4)
        found = corrected(backend, encoder_out, log_probs, hyps, options)
        if proposed in {hyp.tokens for hyp in hyps}:
            assert found == hyps
            continue
        ctc = ctc_score(log_probs, proposed)
        if totals is not None and proposed in totals:
            assert ctc == pytest.approx(np.log(totals[proposed]))
        score = naive(backend, encoder_out, proposed, ctc, 0.5)
        expected = {hyp.tokens: hyp.score for hyp in hyps}
        if np.isfinite(score):
            expected[proposed] = pytest.approx(score)
        best_first = sorted(expected, key=lambda tokens: -(score if tokens == proposed else expected[tokens]))[:2]
        assert [hyp.tokens for hyp in found] == best_first
        assert [hyp.score for hyp in found] == [expected[tokens] for tokens in best_first]
        won.add(found[0].tokens == proposed)
    assert won == {True, False}


@pytest.mark.usefixtures("decisive")
def test_what_ctc_cannot_write_is_no_hypothesis(backend, encoder_out: np.ndarray) -> None:
    """Not with a weight of 0 either, where nothing times infinity is no number."""
    hyps = [Hypothesis((3,), -1.0)]
    assert correct(backend, encoder_out, (3,), 4) != (3,)
    log_probs = np.full((6, 6), -np.inf)
    log_probs[:, [0, 3]] = np.log(0.5)
    options = DecodingOptions(ctc_weight=0.0, corrections=4)
    assert corrected(backend, encoder_out, log_probs, hyps, options) == hyps


@pytest.mark.usefixtures("decisive")
def test_without_corrections_nothing_happens(backend, encoder_out: np.ndarray, monkeypatch) -> None:
    log_probs = random_log_probs(1, len(encoder_out), 6, 1.0)
    expected = attention_rescoring(backend, encoder_out, ctc_prefix_beam_search(log_probs, 2))
    wanted = search(backend, encoder_out, log_probs, DecodingOptions(beam_size=2, corrections=4))
    object.__setattr__(backend.info, "corrections", 4)
    assert search(backend, encoder_out, log_probs, DecodingOptions(beam_size=2)) == wanted
    object.__setattr__(backend.info, "corrections", 0)
    monkeypatch.delattr(type(backend), "continuations")
    assert search(backend, encoder_out, log_probs, DecodingOptions(beam_size=2)) == expected
    object.__setattr__(backend.info, "corrections", 4)
    assert search(backend, encoder_out, log_probs, DecodingOptions(beam_size=2, corrections=0)) == expected


def test_the_model_has_a_weight_of_ctc(backend, encoder_out: np.ndarray) -> None:
    log_probs = random_log_probs(1, len(encoder_out), 6, 1.0)
    half = search(backend, encoder_out, log_probs, DecodingOptions(beam_size=3))
    assert half == search(backend, encoder_out, log_probs, DecodingOptions(beam_size=3, ctc_weight=0.5))
    object.__setattr__(backend.info, "ctc_weight", 2.0)
    own = search(backend, encoder_out, log_probs, DecodingOptions(beam_size=3))
    assert own != half
    assert own == search(backend, encoder_out, log_probs, DecodingOptions(beam_size=3, ctc_weight=2.0))


class Pairs:
    """Adds something for every pair of tokens and for the end."""

    most = 2.0

    def start(self) -> int:
        return 0

    def extend(self, state: int, token: int) -> tuple[int, float]:
        return token, (state * 7 + token * 3) % 5 / 4

    def finish(self, state: int) -> float:
        return -state / 8


@pytest.mark.usefixtures("decisive")
def test_the_bonus_is_that_of_the_search(backend, encoder_out: np.ndarray) -> None:
    """The proposed tokens get the bonus that a beam which holds every prefix gives them."""
    encoder_out = encoder_out[:5]
    scorer = Pairs()
    seen = set()
    for seed in range(20):
        log_probs = random_log_probs(seed, len(encoder_out), 6, 1.0)
        every = {hyp.tokens: hyp for hyp in ctc_prefix_beam_search(log_probs, 3000, scorer=scorer)}
        hyps = attention_rescoring(backend, encoder_out, ctc_prefix_beam_search(log_probs, 1, scorer=scorer))
        found = corrected(backend, encoder_out, log_probs, hyps, DecodingOptions(beam_size=2, corrections=1), scorer)
        for hyp in found:
            if hyp.tokens != hyps[0].tokens:
                assert hyp.bonus == pytest.approx(every[hyp.tokens].bonus)
                (same,) = attention_rescoring(backend, encoder_out, [every[hyp.tokens]])
                assert hyp.score == pytest.approx(same.score, abs=1e-4)
                seen.add(hyp.bonus)
    assert len(seen) > 2


@pytest.mark.usefixtures("decisive")
def test_a_stream_finds_what_a_recording_finds(tiny: Recognizer, noise: np.ndarray, listen: Listen) -> None:
    common: dict[str, Any] = {
        "chunk_size": 4,
        "beam_size": 3,
        "corrections": 3,
        "ctc_weight": 0.0,
        "reverse_weight": 0.0,
    }
    whole = tiny.recognize(noise, DecodingOptions(num_left_chunks=2, **common))
    plain = tiny.recognize(noise, DecodingOptions(num_left_chunks=2, **{**common, "corrections": 0}))
    stream = tiny.create_stream(StreamingOptions(num_left_chunks=2, num_best=3, **common))
    (final,) = listen(tiny, stream, [noise]).finals
    assert final.text == whole.text
    assert [reading.text for reading in final.nbest] == [each.text for each in whole.nbest]
    np.testing.assert_allclose(
        [reading.score for reading in final.nbest], [each.score for each in whole.nbest], rtol=1e-4
    )
    assert [each.tokens for each in whole.nbest] != [each.tokens for each in plain.nbest]
