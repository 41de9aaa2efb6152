"""What becomes of the transcripts of each corpus: mark-up goes, words stay.

A function takes the text as published and returns the transcript, empty where nothing was said, or None for what is no
speech.
"""

import re

from unichoir.text.normalize import canonical_text, normalize_for_scoring

_PUNCTUATION_TAG = re.compile("<(COMMA|PERIOD|QUESTIONMARK|EXCLAMATIONPOINT)>")
_NO_SPEECH_TAG = re.compile("<(SIL|MUSIC|NOISE|OTHER)>")
_AN4_EDGES = re.compile("^<s>|</s>$")


def as_published(text: str) -> str:
    """LibriSpeech, in upper case and without punctuation: only white space is made canonical."""
    return canonical_text(text)


def mandarin(text: str) -> str:
    """AISHELL and THCHS-30: upper case, no spaces between Han characters. lhotse's recipes mended letters before."""
    return canonical_text(text.upper())


def without_punctuation(text: str) -> str:
    """Common Voice and WenetSpeech: what scoring counts, upper case without punctuation (NFKC)."""
    return normalize_for_scoring(text)


def gigaspeech(text: str) -> str | None:
    """Tags of punctuation go; an utterance tagged as silence, music, noise or other sound is not speech."""
    if _NO_SPEECH_TAG.search(text):
        return None
    return canonical_text(_PUNCTUATION_TAG.sub(" ", text))


def an4(text: str) -> str:
    """The marks of beginning and end, which some lines have, go."""
    return canonical_text(_AN4_EDGES.sub("", text.strip()))
