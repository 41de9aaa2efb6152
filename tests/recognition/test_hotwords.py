"""Hotwords and language models through the recogniser: recordings, streams and their utterances, what is refused."""

import math
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.search.spelled import SpelledTokenizer
from tests.tone_model import TOKENS, Listen, ToneBackend

from unichoir.audio.fbank import FbankConfig
from unichoir.errors import DecodingError
from unichoir.recognition.options import DecodingOptions, EndpointRules, StreamingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.search import scoring
from unichoir.search.hotwords import ContextGraph, Hotword
from unichoir.search.hypothesis import Hypothesis
from unichoir.search.options import SearchOptions
from unichoir.search.prefix_beam import ctc_prefix_beam_search
from unichoir.search.rescoring import BONUS_WEIGHT, Rescorer
from unichoir.search.search import Search

PHRASES = (Hotword("\u2581low \u2581mid high", 1.0), Hotword("\u2581mid", 0.5))
TONES = [(3, 0.2, 0.5), (4, 0.9, 1.3), (5, 1.3, 1.6), (3, 3.4, 3.9), (4, 4.1, 4.4)]


class EveryToken:
    """A language model that prefers one token, and texts of at most two."""

    def __init__(self, token: int) -> None:
        self.token = token
        self.asked: list[tuple[float | None, float | None]] = []
        self.required = True

    def scorer(self, options: SearchOptions) -> Any:
        self.asked.append((options.lm_weight, options.length_bonus))
        weight = 1.0 if options.lm_weight is None else options.lm_weight
        token, bonus = self.token, options.length_bonus or 0.0

        class Scorer:
            most = math.inf

            def start(self) -> int:
                return 0

            def extend(self, state: int, other: int) -> tuple[int, float]:
                return state + 1, bonus + weight * (0.0 if other == token else -3.0)

            def finish(self, state: int) -> float:
                return -5.0 * weight if state > 2 else 0.0

        return Scorer()


@pytest.fixture
def tokenizer() -> SpelledTokenizer:
    return SpelledTokenizer(TOKENS)


@pytest.fixture
def graph(tokenizer: SpelledTokenizer) -> ContextGraph:
    return ContextGraph(PHRASES, tokenizer)


@pytest.fixture
def log_probs() -> np.ndarray:
    return np.log(np.random.default_rng(3).dirichlet(np.full(len(TOKENS), 0.5), size=6)).astype(np.float32)


def test_search_adds_hotwords(recognizer, graph, encoder_out, log_probs) -> None:
    options = DecodingOptions(mode="ctc_prefix_beam_search", hotwords=PHRASES)
    found = recognizer.search(encoder_out, log_probs, options)
    assert found == ctc_prefix_beam_search(log_probs, 10, scorer=graph)
    assert found != ctc_prefix_beam_search(log_probs, 10)
    assert found[0].bonus > 0
    plain = replace(options, hotwords=())
    assert recognizer.search(encoder_out, log_probs, plain) == ctc_prefix_beam_search(log_probs, 10)
    rescored = recognizer.search(encoder_out, log_probs, replace(options, mode="attention_rescoring", ctc_weight=0.7))
    assert rescored == Rescorer(recognizer.backend, encoder_out, 0.7)(found)


def test_rescoring_weighs_the_bonus_apart_from_the_audio(backend: ToneBackend, encoder_out: np.ndarray) -> None:
    plain = [Hypothesis((3, 4), -1.0, (0, 2)), Hypothesis((4,), -4.0, (1,))]
    boosted = [replace(hyp, score=hyp.score + bonus, bonus=bonus) for hyp, bonus in zip(plain, (0.5, 9.0), strict=True)]
    before = {hyp.tokens: hyp for hyp in Rescorer(backend, encoder_out, 0.7)(plain)}
    after = Rescorer(backend, encoder_out, 0.7)(boosted)
    assert [hyp.tokens for hyp in after] == [(4,), (3, 4)]
    for hyp, bonus in zip(after, (9.0, 0.5), strict=True):
        assert hyp.bonus == pytest.approx(BONUS_WEIGHT * bonus)
        assert hyp.score == pytest.approx(before[hyp.tokens].score + BONUS_WEIGHT * bonus)


@pytest.mark.parametrize("rules", [EndpointRules(silence_after_speech=0.5), EndpointRules(max_utterance=1.0), None])
def test_every_utterance_of_a_stream_begins_anew(
    recognizer: Recognizer, graph: ContextGraph, play, listen: Listen, rules: EndpointRules | None
) -> None:
    """Against the search over the frames of each utterance, however it has ended."""
    options = StreamingOptions(
        chunk_size=6, mode="ctc_prefix_beam_search", num_best=10, hotwords=PHRASES, endpoint=rules
    )
    # Where an utterance is cut at a pause of a phrase, no part of it counts on the other side.
    heard = listen(recognizer, recognizer.streams.create_stream(options), [play(TONES, 5.3)])
    for result, encoder_out in zip(heard.finals, heard.encoder_out, strict=True):
        hyps = ctc_prefix_beam_search(recognizer.backend.ctc_log_probs(encoder_out[None])[0], 10, scorer=graph)
        assert [reading.score for reading in result.nbest] == pytest.approx([hyp.score for hyp in hyps])
        assert result.text == recognizer.tokenizer.decode(hyps[0].tokens)
    assert len(heard.finals) > (1 if rules else 0)
    assert heard.text.startswith("low midhigh low mid")


def test_partial_results_know_what_has_begun(recognizer: Recognizer, graph: ContextGraph, play) -> None:
    """Half of a phrase counts as long as the rest may follow; a final result takes it back."""
    samples = play([(3, 0.2, 0.5), (4, 0.9, 1.3)], 1.6)
    options = StreamingOptions(chunk_size=4, mode="ctc_prefix_beam_search", hotwords=PHRASES[:1], endpoint=None)
    plain = recognizer.streams.create_stream(replace(options, hotwords=()))
    boosted = recognizer.streams.create_stream(options)
    for stream in (plain, boosted):
        stream.accept_waveform(samples, 16000)
        while recognizer.streams.is_ready(stream):
            recognizer.streams.decode_streams([stream])
    scores = [recognizer.streams.get_result(stream).nbest[0].score for stream in (plain, boosted)]
    assert scores[1] - scores[0] == pytest.approx(2.0, abs=1e-4)
    for stream in (plain, boosted):
        stream.input_finished()
        while recognizer.streams.is_ready(stream):
            recognizer.streams.decode_streams([stream])
    scores = [recognizer.streams.get_result(stream).nbest[0].score for stream in (plain, boosted)]
    assert scores[1] == pytest.approx(scores[0], abs=1e-4)


def test_a_graph_is_built_once_for_a_list(recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def build(hotwords: Any, tokenizer: Any) -> ContextGraph:
        built.append(hotwords)
        return ContextGraph(hotwords, tokenizer)

    monkeypatch.setattr(scoring, "ContextGraph", build)
    first = recognizer.search.scorer(DecodingOptions(hotwords=PHRASES))
    assert recognizer.search.scorer(StreamingOptions(hotwords=PHRASES[:1] + PHRASES[1:], beam_size=3)) is first
    assert len(built) == 1
    for boost in range(1, scoring.MAX_GRAPHS + 1):
        recognizer.search.scorer(DecodingOptions(hotwords=(Hotword("high", boost),)))
    assert recognizer.search.scorer(DecodingOptions(hotwords=PHRASES)) is first  # which somebody holds
    assert len(built) == scoring.MAX_GRAPHS + 1
    del first
    for boost in range(1, scoring.MAX_GRAPHS + 1):
        recognizer.search.scorer(DecodingOptions(hotwords=(Hotword("high", boost),)))
    recognizer.search.scorer(DecodingOptions(hotwords=PHRASES))
    assert len(built) > scoring.MAX_GRAPHS + 1


def test_options_travel_and_are_keys() -> None:
    options = DecodingOptions(hotwords=PHRASES, lm_weight=0.3, length_bonus=-1)
    assert pickle.loads(pickle.dumps(options)) == options
    assert {options: 1}[replace(options)] == 1
    assert options != replace(options, hotwords=())


@pytest.mark.parametrize(
    "wrong",
    [
        {"hotwords": ["high"]},
        {"hotwords": ("high",)},
        {"hotwords": "high"},
        {"lm_weight": -0.1},
        {"lm_weight": float("nan")},
        {"length_bonus": float("inf")},
        {"length_bonus": "1"},
    ],
)
@pytest.mark.parametrize("kind", [DecodingOptions, StreamingOptions])
def test_options_that_make_no_sense(kind: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(DecodingError, match=f"^{next(iter(wrong))}: "):
        kind(**wrong)


@pytest.mark.parametrize("mode", ["ctc_greedy_search", "attention"])
@pytest.mark.parametrize("wanted", [{"hotwords": PHRASES}, {"lm_weight": 0.5}, {"length_bonus": 1.0}])
def test_modes_without_a_prefix_beam(mode: Any, wanted: dict[str, Any]) -> None:
    with pytest.raises(DecodingError, match=f"mode: {mode} doesn't use (hotwords|a language model)"):
        DecodingOptions(mode=mode, **wanted)


def test_a_phrase_that_the_model_cannot_write(recognizer: Recognizer) -> None:
    options = {"hotwords": (Hotword("\u2581low \u2581deep"),)}
    with pytest.raises(DecodingError, match=r"hotwords: '▁low ▁deep': this model's vocabulary cannot write"):
        recognizer.recordings.recognize(np.zeros(16000, np.float32), DecodingOptions(**options))
    with pytest.raises(DecodingError, match="cannot write"):
        recognizer.streams.create_stream(StreamingOptions(**options))


def test_a_language_model(backend: ToneBackend, tokenizer, encoder_out, log_probs) -> None:
    model = EveryToken(5)
    recognizer = Recognizer(backend, tokenizer, FbankConfig(), model)
    options = DecodingOptions(mode="ctc_prefix_beam_search")
    (by_model, by_options, by_both, by_none) = (
        recognizer.search(encoder_out, log_probs, each)
        for each in (
            options,
            replace(options, lm_weight=0.5, length_bonus=0.2),
            replace(options, lm_weight=0.5, hotwords=PHRASES),
            replace(options, lm_weight=0),
        )
    )
    assert model.asked == [(None, None), (0.5, 0.2), (0.5, None)]
    assert by_none == Search(backend, tokenizer)(encoder_out, log_probs, options)
    graph = ContextGraph(PHRASES, tokenizer)
    for found, weight, bonus, phrases in [
        (by_model, 1.0, 0, None),
        (by_options, 0.5, 0.2, None),
        (by_both, 0.5, 0, graph),
    ]:
        for hyp in found:
            expected = sum(bonus + weight * (0 if token == 5 else -3) for token in hyp.tokens)
            expected -= 5 * weight * (len(hyp.tokens) > 2)
            if phrases is not None:
                state = phrases.start()
                for token in hyp.tokens:
                    state, added = phrases.extend(state, token)
                    expected += added
                expected += phrases.finish(state)
            assert hyp.bonus == pytest.approx(expected, abs=1e-6)
    stream = recognizer.streams.create_stream(StreamingOptions(lm_weight=0.7))
    assert model.asked[-1] == (0.7, None)
    assert not stream.is_done


def test_a_language_model_where_it_cannot_be_used_or_is_not_there(
    backend: ToneBackend, tokenizer, recognizer, encoder_out, log_probs
) -> None:
    with_model = Recognizer(backend, tokenizer, FbankConfig(), EveryToken(5))
    for mode in ("ctc_greedy_search", "attention"):
        with pytest.raises(DecodingError, match=f"mode: {mode} doesn't use a language model"):
            with_model.search(encoder_out, log_probs, DecodingOptions(mode=mode))
        assert with_model.search(encoder_out, log_probs, DecodingOptions(mode=mode, lm_weight=0))
    for name in ("lm_weight", "length_bonus"):
        with pytest.raises(DecodingError, match=f"{name}: there is no language model"):
            recognizer.search(encoder_out, log_probs, DecodingOptions(**{name: 0.0}))
        with pytest.raises(DecodingError, match=f"{name}: there is no language model"):
            recognizer.streams.create_stream(StreamingOptions(**{name: 0.5}))
