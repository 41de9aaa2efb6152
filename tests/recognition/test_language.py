"""Language tokens with the model of three tones, two of which now name a language: said, asked for, never a word."""

import math
from typing import Any

import numpy as np
import pytest
from tests.tone_model import TOKENS, Listen, ToneBackend

from unichoir.audio.fbank import FbankConfig
from unichoir.errors import DecodingError
from unichoir.recognition.options import DecodingOptions, EndpointRules, StreamingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.search.hypothesis import Hypothesis
from unichoir.search.language import LanguageTokens
from unichoir.search.options import MODES
from unichoir.text.tokenizer import BpeTokenizer
from unichoir.transcript.results import Alternative, Word
from unichoir.transcript.segments import Segment, join_segments

EN, AR, HIGH = 3, 4, 5
CTC_MODES = ("ctc_greedy_search", "ctc_prefix_beam_search")
SAID = [(EN, 0.2, 0.4), (HIGH, 0.6, 0.9), (HIGH, 1.4, 1.7)]


@pytest.fixture
def recognizer(backend: ToneBackend) -> Recognizer:
    """Recognises the word `high` in English (announced by a low tone) and in Arabic (by a middle tone)."""
    return Recognizer(backend, BpeTokenizer([*TOKENS[:3], "<|en|>", "<|ar|>", "\u2581high"], None), FbankConfig())


@pytest.mark.parametrize("mode", CTC_MODES)
@pytest.mark.parametrize(("token", "language"), [(EN, "en"), (AR, "ar")])
def test_the_language_is_reported_and_no_word(recognizer: Recognizer, play: Any, mode: Any, token: int, language: str):
    transcript = recognizer.recordings.recognize(play([(token, 0.2, 0.4), *SAID[1:]], 2.0), DecodingOptions(mode=mode))
    assert (transcript.text, transcript.language) == ("high high", language)
    assert [one.id for one in transcript.tokens] == [HIGH, HIGH] == list(transcript.nbest[0].tokens)
    assert transcript.to_dict()["language"] == language
    for word, (_, start, end) in zip(transcript.words, SAID[1:], strict=True):
        assert start * 1000 - 130 <= word.start_ms <= start * 1000 + 45
        assert end * 1000 - 45 <= word.end_ms <= end * 1000 + 130
        assert word.confidence > 0.9


def test_nothing_is_reported_where_no_language_is_heard(recognizer: Recognizer, play: Any) -> None:
    assert (
        recognizer.recordings.recognize(play(SAID[1:], 2.0), DecodingOptions(mode="ctc_greedy_search")).language is None
    )


@pytest.mark.parametrize("mode", CTC_MODES)
@pytest.mark.parametrize("chunk_size", [None, 4])
def test_another_language_than_asked_for_is_impossible(
    recognizer: Recognizer, play: Any, mode: Any, chunk_size: int | None
) -> None:
    samples = play(SAID, 2.0)
    free = recognizer.recordings.recognize(samples, DecodingOptions(mode=mode, chunk_size=chunk_size))
    options = DecodingOptions(mode=mode, chunk_size=chunk_size, language="ar")
    restricted = recognizer.recordings.recognize(samples, options)
    assert (free.language, restricted.language) == ("en", "ar")
    assert [(word.text, word.start_ms) for word in restricted.words] == [(w.text, w.start_ms) for w in free.words]


@pytest.mark.parametrize("mode", MODES)
def test_no_search_finds_it(recognizer: Recognizer, play: Any, mode: Any) -> None:
    feats = np.random.default_rng(3).normal(size=(60, 80)).astype(np.float32)
    recognizer.backend.ctc_log_probs = lambda encoder_out: np.full((1, encoder_out.shape[1], 6), -math.log(6))

    def tokens(language: str | None) -> set[int]:
        options = DecodingOptions(mode=mode, language=language, beam_size=12, max_length=4)
        [(encoder_out, log_probs)] = recognizer.recordings.encode([feats], options)
        hyps = recognizer.search(encoder_out, log_probs, options)
        return {token for hyp in hyps for token in hyp.tokens}

    if mode != "ctc_greedy_search":
        assert AR in tokens(None)  # what is possible without
    assert AR not in tokens("en")
    assert EN not in tokens("ar")


@pytest.mark.parametrize("mode", MODES)
def test_readings_differ_in_more_than_language(recognizer: Recognizer, play: Any, mode: Any) -> None:
    transcript = recognizer.recordings.recognize(play(SAID, 2.0), DecodingOptions(mode=mode, beam_size=8, max_length=5))
    tokens = [item.tokens for item in transcript.nbest]
    assert len(set(tokens)) == len(tokens)
    assert not {EN, AR} & {token for each in tokens for token in each}


def test_a_language_that_the_model_does_not_have(recognizer: Recognizer, backend: ToneBackend, play: Any) -> None:
    samples = play(SAID, 2.0)
    with pytest.raises(DecodingError, match="language: 'fr' is not known: this model has en, ar"):
        recognizer.recordings.recognize(samples, DecodingOptions(language="fr"))
    with pytest.raises(DecodingError, match="this model has en, ar"):  # too short for a frame
        recognizer.recordings.recognize(samples[:100], DecodingOptions(language="fr"))
    with pytest.raises(DecodingError, match="this model has en, ar"):
        recognizer.streams.create_stream(StreamingOptions(language="fr"))
    plain = Recognizer(backend, BpeTokenizer(TOKENS, None), FbankConfig())
    with pytest.raises(DecodingError, match="no language tokens"):
        plain.recordings.recognize(samples, DecodingOptions(language="en"))


def test_probability_goes_to_the_language_asked_for_and_nowhere_else() -> None:
    log_probs = np.log(np.random.default_rng(0).dirichlet(np.ones(7), size=(2, 5))).astype(np.float32)
    tokens = LanguageTokens({"en": 1, "ar": 4, "zh": 6})
    before = log_probs.copy()
    restricted = tokens.restrict(log_probs, "ar")
    np.testing.assert_array_equal(log_probs, before)
    for place in np.ndindex(2, 5):
        row, new = log_probs[place], restricted[place]
        assert new[1] == new[6] == -math.inf
        assert math.exp(new[4]) == pytest.approx(math.exp(row[1]) + math.exp(row[4]) + math.exp(row[6]), rel=1e-5)
        assert [new[k] for k in (0, 2, 3, 5)] == [row[k] for k in (0, 2, 3, 5)]
    assert tokens.restrict(log_probs, None) is log_probs


def test_a_language_alone_is_no_speech_to_endpoints(recognizer: Recognizer, play: Any, listen: Listen) -> None:
    rules = EndpointRules(silence_after_speech=0.4, silence_before_speech=2.0)
    options = StreamingOptions(chunk_size=2, mode="ctc_prefix_beam_search", endpoint=rules)
    samples = play([(EN, 0.3, 0.5)], 6.0)
    heard = listen(recognizer, recognizer.streams.create_stream(options), np.split(samples, 60))
    assert heard.finals[0].text == ""
    assert heard.finals[0].end_ms > 1900  # the rule for silence after words would have ended it at a second
    assert any(result.language == "en" for result in heard.partials)


@pytest.mark.parametrize("mode", ["ctc_prefix_beam_search", "attention_rescoring"])
def test_silence_is_not_rescored(recognizer: Recognizer, backend: ToneBackend, play: Any, listen: Listen, mode: Any):
    backend.decoder = None  # type: ignore[assignment, method-assign]
    rules = EndpointRules(silence_after_speech=0.4, silence_before_speech=1.0, max_utterance=None)
    options = StreamingOptions(chunk_size=2, mode=mode, endpoint=rules)
    stream = recognizer.streams.create_stream(options)
    stream.accept_waveform(play([(EN, 0.3, 0.5)], 3.0), 16000)
    finals = [result for result in recognizer.streams.results(stream) if result.is_final]
    assert finals
    assert not any(result.text for result in finals)


@pytest.mark.parametrize("max_utterance", [None, 2.0])
def test_streams_know_the_language_of_each_utterance(
    recognizer: Recognizer, play: Any, listen: Listen, max_utterance: float | None
) -> None:
    rules = EndpointRules(silence_after_speech=0.6, max_utterance=max_utterance)
    samples = play([*SAID, (AR, 3.0, 3.2), (HIGH, 3.3, 3.6)], 5.0)
    for language, expected in ((None, ["en", "ar"]), ("en", ["en", "en"])):
        options = StreamingOptions(chunk_size=4, mode="ctc_prefix_beam_search", endpoint=rules, language=language)
        heard = listen(recognizer, recognizer.streams.create_stream(options), np.split(samples, 50))
        assert [result.language for result in heard.finals if result.language] == expected
        assert heard.text == "high high high"
        assert not any(token.id in (EN, AR) for result in heard.finals for token in result.tokens)


def test_the_language_of_several_pieces_is_that_of_most_words() -> None:
    def segment(language: str | None, count: int) -> Segment:
        word = Word(text="a", start_ms=0, end_ms=1, confidence=1.0)
        return Segment(words=(word,) * count, nbest=(Alternative(text="a", tokens=(5,), score=0.0),), language=language)

    def joined(*segments: Segment) -> str | None:
        return join_segments(segments, 1, 1000).language

    assert joined(segment("en", 2), segment("ar", 3), segment(None, 9)) == "ar"
    assert joined(segment("en", 2), segment("ar", 2)) == "en"
    assert joined(segment(None, 1)) is None
    assert joined() is None


def test_without_language_tokens_nothing_changes() -> None:
    hyps = [Hypothesis((3,), -1.0), Hypothesis((3,), -2.0)]
    assert LanguageTokens().distinct(hyps) == hyps
    assert LanguageTokens().split([5, 6]) == (None, [0, 1])
