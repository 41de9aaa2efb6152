"""Transcripts in written form: other words, but the times and the confidence of what was said."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from typing import TypeVar

from unichoir.errors import DecodingError
from unichoir.text.marked import NO_CONTEXT, Context
from unichoir.text.normalize import normalize_for_scoring
from unichoir.text.written import WrittenForm, written_words
from unichoir.transcript.results import Alternative, Reading, StreamResult, Transcript, Word, mean_confidence
from unichoir.transcript.segments import Segment

_Reading = TypeVar("_Reading", Alternative, Reading)
_Result = TypeVar("_Result", Transcript, Segment, StreamResult)
CONTEXT_WORDS, CONTEXT_CHARACTERS = 16, 400
_logger = logging.getLogger(__name__)


def written_or_said(result: _Result, written: WrittenForm | None, context: Context = NO_CONTEXT) -> _Result:
    """`rewrite`, but where the written form fails, or there is none, what came: words are worth more than their form.

    The failure is a warning of the logger `unichoir.transcript.rewriting`, which Python shows on standard error.
    """
    if written is None:
        return result
    try:
        return rewrite(result, written, context)
    except DecodingError as error:
        _logger.warning("%s: the words stay as they were said", error)
        return result


def rewrite(result: _Result, written: WrittenForm, context: Context = NO_CONTEXT) -> _Result:
    """The same in written form: text, words and n-best readings; tokens and scores stay, and `spoken` is the text
    of before where that is another.

    A partial result of a stream comes back as it is: what it says may still change. context: what stands around it.
    Raises DecodingError as `WrittenForm.spans` does.
    """
    if isinstance(result, StreamResult):
        if not result.is_final:
            return result
        readings = [
            replace(_rewritten(reading, written, context), words=rewrite_words(reading.words, written, context))
            for reading in result.nbest
        ]
        return replace(result, nbest=tuple(readings))
    words = rewrite_words(result.words, written, context)
    nbest = tuple(_rewritten(reading, written, context) for reading in result.nbest)
    if isinstance(result, Segment):
        return replace(result, words=words, nbest=nbest)
    text = written(result.text, context)
    return replace(result, text=text, words=words, nbest=nbest, confidence=mean_confidence(words))


def _rewritten(reading: _Reading, written: WrittenForm, context: Context) -> _Reading:
    """Text alone."""
    text = written(reading.text, context)
    if text == reading.text:
        return reading
    return replace(reading, text=text, spoken=reading.text if reading.spoken is None else reading.spoken)


def rewrite_segments(segments: Sequence[Segment], form: Callable[[str | None], WrittenForm | None]) -> list[Segment]:
    """`written_or_said` for all pieces of a recording, each of which knows what was said before and after it.

    form: how what was said in a language, or in an unknown one, is written.
    """
    rewritten: list[Segment] = []
    before, texts = "", [segment.nbest[0].text for segment in segments]
    following = [""] * len(texts)
    for place in range(len(texts) - 2, -1, -1):
        following[place] = texts[place + 1] or following[place + 1]
    for segment, after in zip(segments, following, strict=True):
        context = Context(before=before, after=_first_words(after))
        rewritten.append(written_or_said(segment, form(segment.language), context))
        before = last_words(rewritten[-1].nbest[0].text) or before
    return rewritten


def last_words(text: str) -> str:
    """As many as matter to what follows."""
    return " ".join(text[-CONTEXT_CHARACTERS:].split()[-CONTEXT_WORDS:])


def _first_words(text: str) -> str:
    return " ".join(text[:CONTEXT_CHARACTERS].split()[:CONTEXT_WORDS])


def rewrite_words(words: Sequence[Word], written: WrittenForm, context: Context = NO_CONTEXT) -> tuple[Word, ...]:
    """Words in written form, with the times of the words said.

    What is written for several words, as 21 for TWENTY ONE, lasts from the start of the first to the end of the last
    and has the least of their confidences; several words written for them share that time evenly.
    """
    rewritten: list[Word] = []
    for span in written.spans([word.text for word in words], context):
        rewritten += _timed(words[span.first : span.end], written_words(span.text))
    return tuple(rewritten)


def _timed(said: Sequence[Word], texts: Sequence[str]) -> Iterator[Word]:
    """Times for what is written for some words; those that are still among them, as JULY in JULY 4, keep theirs."""
    matcher = SequenceMatcher(None, [_key(word.text) for word in said], [_key(text) for text in texts], autojunk=False)
    steps = [step[1:] for step in matcher.get_opcodes()]
    if any(first == end or start == stop for first, end, start, stop in steps):
        steps = [(0, len(said), 0, len(texts))]  # a word would have no time, or a time no word
    for first, end, start, stop in steps:
        if end - first == stop - start:
            yield from (replace(word, text=text) for word, text in zip(said[first:end], texts[start:stop], strict=True))
        else:
            yield from _shared(said[first:end], texts[start:stop])


def _shared(said: Sequence[Word], texts: Sequence[str]) -> Iterator[Word]:
    begin, length = said[0].start_ms, said[-1].end_ms - said[0].start_ms
    confidence = min(word.confidence for word in said)
    for place, text in enumerate(texts):
        yield Word(
            text=text,
            start_ms=begin + length * place // len(texts),
            end_ms=begin + length * (place + 1) // len(texts),
            confidence=confidence,
        )


def _key(text: str) -> str:
    return normalize_for_scoring(text) or text
