"""Rescoring with the decoder's own hypotheses: the joint score computed by hand, CTC by plain code."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.search.test_rescoring import directed
from tests.search.textbook import random_log_probs, sum_over_alignments
from tests.tone_model import ToneBackend

from unichoir.api import load_recognizer
from unichoir.engine.backend import Backend
from unichoir.recognition.options import DecodingOptions, StreamingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.search import rescoring
from unichoir.search.attention_beam import attention_beam_search
from unichoir.search.ctc_scores import ctc_score, ctc_scores
from unichoir.search.hypothesis import Hypothesis
from unichoir.search.language import LanguageTokens
from unichoir.search.prefix_beam import ctc_prefix_beam_search
from unichoir.search.rescoring import Rescorer, attention_rescoring
from unichoir.search.search import Search
from unichoir.text.tokenizer import BpeTokenizer

Listen = Callable[..., Any]


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Path) -> Recognizer:
    return load_recognizer(tiny_checkpoint, num_threads=1)


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(3).normal(0, 0.1, 32000).astype(np.float32)


def proposals(
    backend: Backend, encoder_out: np.ndarray, width: int, ctc_length: int, **more: Any
) -> set[tuple[int, ...]]:
    """Return the decoder's own hypotheses."""
    most = min(len(encoder_out), int(rescoring.LONGER * ctc_length) + rescoring.MORE)
    decoder = backend.decoder(encoder_out)
    found = attention_beam_search(decoder, backend.info, width, most, margin=rescoring.MARGIN)
    return {hyp.tokens for hyp in found}


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


def test_ctc_of_several_sequences_is_that_of_each() -> None:
    log_probs = random_log_probs(1, 9, 4, 1.0)
    sequences = [(1, 1, 2), (), (3,), (1, 0), (2,) * 9, (1, 2, 3, 1, 2, 3)]
    assert ctc_scores(log_probs, sequences) == [pytest.approx(ctc_score(log_probs, each)) for each in sequences]
    assert ctc_scores(log_probs, []) == []


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


def test_the_joint_score_decides(backend, encoder_out: np.ndarray) -> None:
    """Of what the decoder proposes and the best of CTC; over many utterances it wins in some and loses in others."""
    backend.place[0, :, 0] = -50.0  # what has a blank in it CTC cannot write
    won = set()
    for seed in range(30):
        log_probs = random_log_probs(seed, len(encoder_out), 6, 1.0 if seed % 3 else 10.0)
        totals = sum_over_alignments(log_probs) if seed < 2 else None
        width = 1 + seed % 4
        hyps = ctc_prefix_beam_search(log_probs, 2)
        options = DecodingOptions(beam_size=3, ctc_weight=0.5, attention_beam=width)
        found = attention_rescoring(backend, encoder_out, log_probs, hyps, options)
        known = {hyps[0].tokens: hyps[0].score}
        own = proposals(backend, encoder_out, width, len(hyps[0].tokens)) - known.keys()
        ctc = {tokens: ctc_score(log_probs, tokens) for tokens in own}
        for tokens, score in ctc.items():
            if totals is not None and tokens in totals:
                assert score == pytest.approx(np.log(totals[tokens]))
        ctc |= known
        expected = {tokens: naive(backend, encoder_out, tokens, each, 0.5) for tokens, each in ctc.items()}
        best = sorted((tokens for tokens in expected if np.isfinite(expected[tokens])), key=lambda x: -expected[x])[:3]
        assert [hyp.tokens for hyp in found] == best
        assert [hyp.score for hyp in found] == [pytest.approx(expected[tokens]) for tokens in best]
        won.add(found[0].tokens in own)
    assert won == {True, False}


def test_what_ctc_cannot_write_is_no_hypothesis(backend, encoder_out: np.ndarray) -> None:
    """Not with a weight of 0 either, where nothing times infinity is no number."""
    hyps = [Hypothesis((3,), -1.0)]
    assert proposals(backend, encoder_out, 4, 1) - {(3,)}
    log_probs = np.full((6, 6), -np.inf)
    log_probs[:, [0, 3]] = np.log(0.5)
    options = DecodingOptions(ctc_weight=0.0, attention_beam=4)
    found = attention_rescoring(backend, encoder_out, log_probs, hyps, options)
    assert all(set(hyp.tokens) <= {3} for hyp in found)
    assert Rescorer(backend, encoder_out, 0.0)(hyps)[0] in found


def test_a_decoder_that_never_ends_is_stopped(backend) -> None:
    backend.place[0, :, [0, 2]] = -50.0  # blank, end
    encoder_out = np.random.default_rng(0).normal(size=(40, 80)).astype(np.float32)
    log_probs = random_log_probs(1, 40, 6, 1.0)
    hyps = [Hypothesis((3, 4), -1.0)]
    options = DecodingOptions(attention_beam=1, ctc_weight=0.0, reverse_weight=0.0)
    found = attention_rescoring(backend, encoder_out, log_probs, hyps, options)
    assert max(len(hyp.tokens) for hyp in found) == 3 + rescoring.MORE


def test_another_language_is_not_written(backend, encoder_out: np.ndarray) -> None:
    """The decoder hears language 5; only 4 is asked for."""
    backend.after[0, 2, 5] = 30.0
    backend.place[0, :, 0], backend.place[0, 3, 2] = -50.0, 50.0  # no blank, and an end that CTC has frames for
    assert {tokens[0] for tokens in proposals(backend, encoder_out, 2, 6)} == {5}
    restrict = partial(LanguageTokens({"a": 4, "b": 5}).restrict, language="a")
    log_probs = restrict(random_log_probs(1, len(encoder_out), 6, 1.0))
    hyps = ctc_prefix_beam_search(log_probs, 2)
    options = DecodingOptions(attention_beam=2, language="a")
    found = attention_rescoring(backend, encoder_out, log_probs, hyps, options, restrict=restrict)
    assert len(found) > len(hyps)
    assert all(5 not in hyp.tokens for hyp in found)


def test_without_a_beam_of_its_own_the_decoder_proposes_nothing(
    backend, tokenizer: BpeTokenizer, encoder_out: np.ndarray
) -> None:
    search = Search(backend, tokenizer)
    log_probs = random_log_probs(1, len(encoder_out), 6, 1.0)
    expected = Rescorer(backend, encoder_out)(ctc_prefix_beam_search(log_probs, 2))
    wanted = search(encoder_out, log_probs, DecodingOptions(beam_size=2, attention_beam=4))
    assert wanted != expected
    object.__setattr__(backend.info, "attention_beam", 4)
    assert search(encoder_out, log_probs, DecodingOptions(beam_size=2)) == wanted
    assert search(encoder_out, log_probs, DecodingOptions(beam_size=2, attention_beam=0)) == expected
    object.__setattr__(backend.info, "attention_beam", 0)
    assert search(encoder_out, log_probs, DecodingOptions(beam_size=2)) == expected


def test_the_model_has_a_weight_of_ctc(backend, tokenizer: BpeTokenizer, encoder_out: np.ndarray) -> None:
    search = Search(backend, tokenizer)
    log_probs = random_log_probs(1, len(encoder_out), 6, 1.0)
    half = search(encoder_out, log_probs, DecodingOptions(beam_size=3))
    assert half == search(encoder_out, log_probs, DecodingOptions(beam_size=3, ctc_weight=0.5))
    object.__setattr__(backend.info, "ctc_weight", 2.0)
    own = search(encoder_out, log_probs, DecodingOptions(beam_size=3))
    assert own != half
    assert own == search(encoder_out, log_probs, DecodingOptions(beam_size=3, ctc_weight=2.0))


class Pairs:
    """A scorer that adds something for every pair of tokens and for the end."""

    most = 2.0

    def start(self) -> int:
        return 0

    def extend(self, state: int, token: int) -> tuple[int, float]:
        return token, (state * 7 + token * 3) % 5 / 4

    def finish(self, state: int) -> float:
        return -state / 8


def test_the_bonus_is_that_of_the_search(encoder_out: np.ndarray) -> None:
    """The proposed tokens get the bonus that a beam which holds every prefix gives them."""
    encoder_out, scorer = encoder_out[:5], Pairs()
    seen = set()
    for seed in range(20):
        backend = ToneBackend(seed)
        backend.place[0, :, 0], backend.place[0, 3, 2] = -50.0, 50.0  # no blank, and an end that CTC has frames for
        log_probs = random_log_probs(seed, len(encoder_out), 6, 1.0)
        every = {hyp.tokens: hyp for hyp in ctc_prefix_beam_search(log_probs, 3000, scorer=scorer)}
        hyps = ctc_prefix_beam_search(log_probs, 1, scorer=scorer)
        options = DecodingOptions(beam_size=4, attention_beam=4)
        for hyp in attention_rescoring(backend, encoder_out, log_probs, hyps, options, scorer):
            if hyp.tokens != hyps[0].tokens:
                assert hyp.bonus == pytest.approx(every[hyp.tokens].bonus)
                (same,) = Rescorer(backend, encoder_out)([every[hyp.tokens]])
                assert hyp.score == pytest.approx(same.score, abs=1e-4)
                seen.add(hyp.bonus)
    assert len(seen) > 2


def test_a_stream_finds_what_a_recording_finds(tiny: Recognizer, noise: np.ndarray, listen: Listen) -> None:
    common: dict[str, Any] = {
        "chunk_size": 4,
        "beam_size": 3,
        "attention_beam": 3,
        "ctc_weight": 0.0,
        "reverse_weight": 0.0,
    }
    whole = tiny.recordings.recognize(noise, DecodingOptions(num_left_chunks=2, **common))
    plain = tiny.recordings.recognize(noise, DecodingOptions(num_left_chunks=2, **{**common, "attention_beam": 0}))
    stream = tiny.streams.create_stream(StreamingOptions(num_left_chunks=2, num_best=3, **common))
    (final,) = listen(tiny, stream, [noise]).finals
    assert final.text == whole.text
    assert [reading.text for reading in final.nbest] == [each.text for each in whole.nbest]
    np.testing.assert_allclose(
        [reading.score for reading in final.nbest], [each.score for each in whole.nbest], rtol=1e-4
    )
    assert [each.tokens for each in whole.nbest] != [each.tokens for each in plain.nbest]
