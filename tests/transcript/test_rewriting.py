"""Transcripts in written form keep the times and confidence of the spoken words."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.samples import SMALL_MODEL, SPOKEN

import unichoir
from unichoir.text.normalize import canonical_text
from unichoir.text.written import WrittenForm
from unichoir.transcript.results import Alternative, Reading, StreamResult, Token, Transcript, Word
from unichoir.transcript.rewriting import rewrite, rewrite_words
from unichoir.transcript.segments import Segment

ENGLISH = WrittenForm(itn="en")
WORDS = (
    *("twenty", "ONE", "five", "July", "third", "of", "p", "m", "dollars", "hundred"),
    *("past", "half", "dot", "a", "second", "oh", "mister", "<unk>", "two"),
)


def timed(text: str, confidences: list[float] | None = None) -> tuple[Word, ...]:
    """Return words of 100 ms with gaps of 20 ms."""
    words = text.split()
    confidences = confidences or [0.5] * len(words)
    return tuple(
        Word(text=word, start_ms=120 * place, end_ms=120 * place + 100, confidence=confidence)
        for place, (word, confidence) in enumerate(zip(words, confidences, strict=True))
    )


def transcript(text: str, *others: str) -> Transcript:
    words = timed(text)
    nbest = tuple(Alternative(text=other, tokens=(1,), score=-1.0) for other in (text, *others))
    tokens = (Token(id=1, text="a", start_ms=0, end_ms=100, confidence=0.5),)
    return Transcript(text=text, tokens=tokens, words=words, score=-1.0, confidence=0.5, nbest=nbest, duration_ms=9000)


def test_a_number_has_the_time_of_its_words_and_the_least_confidence() -> None:
    words = rewrite_words(timed("WE HAVE TWENTY ONE DOGS", [0.9, 0.8, 0.7, 0.6, 0.95]), ENGLISH)
    assert words == (
        Word(text="WE", start_ms=0, end_ms=100, confidence=0.9),
        Word(text="HAVE", start_ms=120, end_ms=220, confidence=0.8),
        Word(text="21", start_ms=240, end_ms=460, confidence=0.6),
        Word(text="DOGS", start_ms=480, end_ms=580, confidence=0.95),
    )


def test_what_is_still_there_keeps_its_time_and_new_words_share_theirs() -> None:
    words = rewrite_words(timed("july fourth nineteen seventy six", [0.9, 0.8, 0.7, 0.6, 0.5]), ENGLISH)
    assert words == (
        Word(text="july", start_ms=0, end_ms=100, confidence=0.9),
        Word(text="4", start_ms=120, end_ms=350, confidence=0.5),
        Word(text="1976", start_ms=350, end_ms=580, confidence=0.5),
    )


def test_a_word_that_is_left_out_leaves_its_time_to_the_others() -> None:
    words = rewrite_words(timed("five million dollars", [0.9, 0.8, 0.7]), ENGLISH)
    assert words == (
        Word(text="$5", start_ms=0, end_ms=170, confidence=0.7),
        Word(text="million", start_ms=170, end_ms=340, confidence=0.7),
    )


def test_characters_are_words() -> None:
    words = rewrite_words(timed("我 有 二 十 一 块 钱"), WrittenForm(itn="zh"))
    assert [(word.text, word.start_ms, word.end_ms) for word in words] == [
        ("我", 0, 100),
        ("有", 120, 220),
        ("21", 240, 580),
        ("块", 600, 700),
        ("钱", 720, 820),
    ]


def test_a_transcript_keeps_all_but_words() -> None:
    said = transcript("TWENTY ONE DOGS", "TWENTY ONE DOCKS", "")
    written = rewrite(said, ENGLISH)
    assert written == replace(
        said,
        text="21 DOGS",
        words=written.words,
        nbest=(
            replace(said.nbest[0], text="21 DOGS", spoken="TWENTY ONE DOGS"),
            replace(said.nbest[1], text="21 DOCKS", spoken="TWENTY ONE DOCKS"),
            said.nbest[2],
        ),
    )
    assert (written.spoken, written.to_dict()["spoken"]) == (said.text, said.text)
    assert rewrite(written, ENGLISH) == written
    assert "spoken" not in json.dumps(said.to_dict())
    assert [word.text for word in written.words] == ["21", "DOGS"]
    assert written.confidence == pytest.approx(sum(word.confidence for word in written.words) / 2)


def test_segments_and_final_results() -> None:
    words = timed("FIVE DOLLARS")
    segment = Segment(words=words, nbest=(Alternative(text="FIVE DOLLARS", tokens=(), score=0.0),))
    written = rewrite(segment, ENGLISH)
    assert (written.words[0].text, written.nbest[0].text) == ("$5", "$5")
    reading = Reading(text="FIVE DOLLARS", tokens=(), words=words, score=0.0)
    final = StreamResult(utterance=0, is_final=True, start_ms=0, end_ms=900, nbest=(reading, reading))
    assert [(other.text, other.words) for other in rewrite(final, ENGLISH).nbest] == [("$5", written.words)] * 2
    partial = replace(final, is_final=False)
    assert rewrite(partial, ENGLISH) is partial
    assert rewrite(Segment(), ENGLISH) == Segment()


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=12), st.data())
def test_words_spell_the_text_within_the_times_of_what_was_said(texts: list[str], data: st.DataObject) -> None:
    steps = data.draw(st.lists(st.integers(0, 300), min_size=2 * len(texts), max_size=2 * len(texts)))
    confidences = data.draw(st.lists(st.floats(0, 1), min_size=len(texts), max_size=len(texts)))
    edges = [sum(steps[: place + 1]) for place in range(len(steps))]
    said = tuple(
        Word(text=text, start_ms=edges[2 * place], end_ms=edges[2 * place + 1], confidence=confidence)
        for place, (text, confidence) in enumerate(zip(texts, confidences, strict=True))
    )
    words = rewrite_words(said, ENGLISH)
    assert canonical_text(" ".join(word.text for word in words)) == ENGLISH(" ".join(texts))
    assert all(word.start_ms <= word.end_ms for word in words)
    assert all(word.end_ms <= following.start_ms for word, following in pairwise(words))
    if said:
        assert (words[0].start_ms, words[-1].end_ms) == (said[0].start_ms, said[-1].end_ms)
        assert min(word.confidence for word in words) == min(confidences)


@pytest.mark.parametrize(
    ("clip", "said", "written"),
    [("clip-3", "NINE ONE EIGHT TWO", "9182"), ("clip-4", "J O H N S O N", "J O H N S O N")],
)
def test_a_recording_with_known_words(clip: str, said: str, written: str) -> None:
    heard = unichoir.load_model(SMALL_MODEL).transcribe(SPOKEN / "audio" / f"{clip}.flac")
    result = rewrite(heard, ENGLISH)
    assert heard.text == said
    assert result.text == result.nbest[0].text == " ".join(word.text for word in result.words) == written
    assert (result.words[0].start_ms, result.words[-1].end_ms) == (heard.words[0].start_ms, heard.words[-1].end_ms)
    assert result.tokens == heard.tokens
