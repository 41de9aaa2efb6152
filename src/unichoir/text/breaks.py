"""Costs of separating words, which decide where subtitles and segments end, and the display width of text."""

import re
import unicodedata

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# Includes the marks of Chinese, Japanese, Arabic and Urdu.
_CLOSING = "\"'\u201d\u2019\u00bb)\\]\u300d\u300f\uff09"
_SENTENCE_END = re.compile(f"[.?!\u2026\u3002\uff1f\uff01\uff61\u061f\u06d4][{_CLOSING}]*$")
_CLAUSE_END = re.compile(f"[,;:\uff0c\u3001\uff1b\uff1a\u060c\u061b\u2013\u2014][{_CLOSING}]*$")
_LAST_CLOSING = re.compile(f"[{_CLOSING}]+$")
_OPENING = "\"'\u201c\u2018\u00ab(["
_ABBREVIATIONS = frozenset({"mr.", "mrs.", "ms.", "dr.", "st.", "prof.", "vs.", "no."})
# English words that belong to the next word: articles, determiners, prepositions, conjunctions, auxiliaries that are
# never stressed. A line that ends with one is hard to read.
_CLINGING_WORDS = """
a an the this these those my your his her its our their some any every each no
of in on at to for from with by into onto over under about between through during without within upon than as
and or but nor so because if when where how what while that which who whose
i'm i you're we're they're he's she's it's mr mrs ms dr
"""
_CLINGING = frozenset(_CLINGING_WORDS.split())

SENTENCE, CLAUSE, PHRASE, ANYWHERE, CLINGING, FORBIDDEN = 0.0, 0.3, 0.7, 1.0, 2.0, 10.0
"""Costs of separating two words: after a sentence, at another mark, before a word that begins a phrase, anywhere, after
a word that belongs to the next, before a mark."""
PAUSE_WEIGHT = 0.8
"""Fraction of the cost that the longest pause within a cue removes. Shorter pauses remove proportionally less."""


def plain_line(text: str) -> str:
    """Return the text without control characters and line ends, so it fits into one line."""
    return " ".join(_CONTROL.sub(" ", text).split())


def display_width(text: str) -> int:
    """Return the columns of a line: two for a wide character (Han, kana, Hangul), none for a combining mark."""
    return sum(map(_character_width, text))


def ends_sentence(word: str) -> bool:
    """Return whether a word ends with a mark that ends a sentence, and isn't an abbreviation such as Dr. or p.m."""
    if not _SENTENCE_END.search(word):
        return False
    bare = _LAST_CLOSING.sub("", word)
    return not bare.endswith(".") or not (
        bare.casefold() in _ABBREVIATIONS or "." in bare.rstrip(".") or _initial(bare)
    )


def break_cost(word: str, following: str, pause: float) -> float:
    """Return the cost of separating `word` from `following`, 0 to 10.

    pause: 0 to 1, the pause between them relative to the longest possible one.
    """
    if not any(character.isalnum() for character in following) and _is_mark(following):
        return FORBIDDEN
    if ends_sentence(word):
        return SENTENCE
    return _cost_within(word, following) * (1 - PAUSE_WEIGHT * pause)


def _cost_within(word: str, following: str) -> float:
    """Return the cost inside a sentence, without a pause."""
    if _CLAUSE_END.search(word):
        return CLAUSE
    if word.casefold().lstrip(_OPENING) in _CLINGING:
        return CLINGING
    return PHRASE if following.casefold() in _CLINGING else ANYWHERE


def _initial(word: str) -> bool:
    return len(word) == 2 and word[0].isupper() and word[0] not in "AI"


def _is_mark(word: str) -> bool:
    return bool(_SENTENCE_END.search(word) or _CLAUSE_END.search(word))


def _character_width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
