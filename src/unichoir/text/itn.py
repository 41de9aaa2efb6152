"""Inverse text normalisation: numbers, dates, times and amounts in written form, everything else as spoken.

It uses wetext (extra `itn`): the grammars of WeTextProcessing as finite-state transducers. Known errors of its English
grammar are filtered out, so a number may stay in words but never becomes another number: see `_is_right`.
"""

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from typing import Any, Literal, get_args

from unichoir.errors import ConfigError, DecodingError, UnichoirError
from unichoir.text.normalize import canonical_text

ItnLanguage = Literal["en", "ja", "zh"]
ITN_LANGUAGES: tuple[ItnLanguage, ...] = get_args(ItnLanguage)

_MAX_WORDS = 64
"""Maximum words per call of the grammar, whose time and memory grow with the text."""
_CONTEXT = 16
"""The grammar's output for this many last words may change with later words, so it is discarded except at the end."""
_GRAMMAR_IN_USE = threading.Lock()
"""wetext's objects are not thread-safe: they store the current text."""
_UNITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = (
    *("ten", "eleven", "twelve", "thirteen", "fourteen"),
    *("fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_DIGITS = {
    **{word: str(number) for number, word in enumerate((*_UNITS, *_TEENS))},
    **{word: str(number) for number, word in enumerate(_TENS, 2)},
    "oh": "0",
}


@dataclass(frozen=True)
class Span:
    """A written form: words [first, end) become `text`, which is not empty."""

    first: int
    end: int
    text: str


@lru_cache(maxsize=len(ITN_LANGUAGES))
def load_grammar(language: ItnLanguage) -> Any:
    """Return wetext's grammar, loaded once.

    Raises ConfigError for another language, UnichoirError without the extra.
    """
    if language not in ITN_LANGUAGES:
        raise ConfigError(f"itn: '{language}' is not one of {', '.join(ITN_LANGUAGES)}")
    try:
        from wetext import Normalizer
    except ImportError:
        raise UnichoirError("inverse text normalisation needs wetext: pip install 'unichoir[itn]'") from None
    return Normalizer(lang=language, operator="itn")


def is_readable(word: str) -> bool:
    """Return whether the grammars accept a word: no quotation mark, backslash or unprintable character."""
    return word.isprintable() and not set(word) & {'"', "\\"}


def write_numbers(words: Sequence[str], language: ItnLanguage) -> list[Span]:
    """Return the written form of words, all readable and not empty, as consecutive spans that cover all of them.

    Raises DecodingError, naming the text, if the grammar fails.
    """
    spans: list[Span] = []
    while (start := spans[-1].end if spans else 0) < len(words):
        found = _write_window(tuple(words[start : start + _MAX_WORDS]), language)
        if start + _MAX_WORDS < len(words):
            found = tuple(span for span in found if span.end <= _MAX_WORDS - _CONTEXT) or found
        spans += [replace(span, first=start + span.first, end=start + span.end) for span in found]
    return spans


@lru_cache(maxsize=1024)
def _write_window(words: tuple[str, ...], language: ItnLanguage) -> tuple[Span, ...]:
    """Return the spans of a window. The cache helps because n-best hypotheses share many words."""
    lowered = [word.lower() for word in words]  # the grammars only accept lower case
    text = canonical_text(" ".join(lowered))
    starts = _starts(text, lowered)
    spans: list[Span] = []
    for first, end, written in _changes(text, starts, language):
        here = spans[-1].end if spans else 0
        if first >= here:
            spans += [Span(place, place + 1, words[place]) for place in range(here, first)]
            spans.append(Span(first, end, _recased(words[first:end], canonical_text(written))))
    here = spans[-1].end if spans else 0
    return (*spans, *(Span(place, place + 1, words[place]) for place in range(here, len(words))))


def _changes(text: str, starts: Sequence[int], language: ItnLanguage) -> Iterator[tuple[int, int, str]]:
    """Yield words [first, end) and their written form, in order, if the grammar is reliable."""
    grammar = load_grammar(language)
    try:
        with _GRAMMAR_IN_USE:
            if grammar.normalize(text) == text:
                return  # this check is seven times faster than finding changes
            mappings = grammar.normalize_with_mapping(text).mappings
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise DecodingError(f"inverse text normalisation fails on '{text[:80]}': {error}") from None
    for change in mappings:
        new = change.output_text.strip()
        if new and (language != "en" or _is_right(change.token_type, change.input_text.split(), new)):
            first = bisect_right(starts, change.input_start) - 1
            end = bisect_left(starts, change.input_end)
            before, after = text[starts[first] : change.input_start], text[change.input_end : starts[end]]
            yield first, end, before + new + after


def _is_right(kind: str, said: Sequence[str], written: str) -> bool:
    """Return whether the English grammar's output matches the spoken words.

    wetext 0.1.8 writes 01:15 for `one forty five` and 9809 for `nine eighty nine`, and joins sentences with an `at` or
    a `dot` to addresses. Therefore addresses are rejected, and times and sequences of digits must have the spoken
    digits.
    """
    if kind not in ("telephone", "time"):
        return kind != "electronic"
    digits = "".join(character for character in written if character.isdigit())
    if kind == "telephone":
        return digits == _said_digits(said)
    return "past" in said or digits.lstrip("0") in (_said_digits(said), _said_digits(said) + "00")


def _said_digits(said: Sequence[str]) -> str:
    """Return the digits of numbers below a hundred, concatenated. O next to other letters is a letter."""
    is_spelled = any(len(word) == 1 and word != "o" for word in said)
    digits = ""
    for word, following in zip(said, (*said[1:], ""), strict=True):
        digits += "0" if word == "o" and not is_spelled else _DIGITS.get(word, "")
        if word in _TENS and following not in _UNITS[1:]:
            digits += "0"
    return digits


def _starts(text: str, words: Sequence[str]) -> list[int]:
    """Return the start of each word in the canonical text, and the length of the text."""
    places = [place for place, character in enumerate(text) if not character.isspace()] + [len(text)]
    lengths = (len("".join(word.split())) for word in words)
    return [places[number] for number in accumulate(lengths, initial=0)]


def _recased(said: Sequence[str], written: str) -> str:
    """Return the written form with as much of the spoken case as possible: JULY FOURTH is JULY 4, Mister is Mr."""
    if "".join(said).isupper():
        return written.upper()
    spellings = {word.lower(): word for word in said}
    written = " ".join(spellings.get(word, word) for word in written.split())
    return written[0].upper() + written[1:] if said[0][0].isupper() else written
