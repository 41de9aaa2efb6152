"""Transcripts in written form: new words with the times and confidences of the spoken words."""

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
    """Return the result in written form or, if there is no written form or it fails, the result itself.

    A failure is logged as a warning by `unichoir.transcript.rewriting`, which Python prints on standard error.
    """
    if written is None:
        return result
    try:
        return rewrite(result, written, context)
    except DecodingError as error:
        _logger.warning("%s: the words stay as they were said", error)
        return result


def rewrite(result: _Result, written: WrittenForm, context: Context = NO_CONTEXT) -> _Result:
    """Return the result in written form: text, words and n-best readings.

    Tokens and scores do not change. `spoken` is the previous text if it differs. Partial results of streams are
    returned unchanged, because their text may still change. context: the text around the result. Raises DecodingError
    as `WrittenForm.spans` does.
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
    """Return a reading with its text in written form; its words stay."""
    text = written(reading.text, context)
    if text == reading.text:
        return reading
    return replace(reading, text=text, spoken=reading.text if reading.spoken is None else reading.spoken)


def rewrite_segments(segments: Sequence[Segment], form: Callable[[str | None], WrittenForm | None]) -> list[Segment]:
    """Return all segments of a recording in written form (`written_or_said`), each with the text around it as context.

    form: the written form for a language; None: an unknown language.
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
    """Return the last words of a text, as many as matter for the context of the next one."""
    return " ".join(text[-CONTEXT_CHARACTERS:].split()[-CONTEXT_WORDS:])


def _first_words(text: str) -> str:
    return " ".join(text[:CONTEXT_CHARACTERS].split()[:CONTEXT_WORDS])


def rewrite_words(words: Sequence[Word], written: WrittenForm, context: Context = NO_CONTEXT) -> tuple[Word, ...]:
    """Return words in written form, with the times of the spoken words.

    A word that stands for several, as 21 for TWENTY ONE, lasts from the start of the first to the end of the last and
    has the lowest of their confidences. If several words stand for them, these share the time evenly.
    """
    rewritten: list[Word] = []
    for span in written.spans([word.text for word in words], context):
        rewritten += _timed(words[span.first : span.end], written_words(span.text))
    return tuple(rewritten)


def _timed(said: Sequence[Word], texts: Sequence[str]) -> Iterator[Word]:
    """Yield timed words for one span. Words that did not change, as JULY in JULY 4, keep their times."""
    matcher = SequenceMatcher(None, [_key(word.text) for word in said], [_key(text) for text in texts], autojunk=False)
    steps = [step[1:] for step in matcher.get_opcodes()]
    if any(first == end or start == stop for first, end, start, stop in steps):
        steps = [(0, len(said), 0, len(texts))]  # otherwise a word would have no time, or a time no word
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
