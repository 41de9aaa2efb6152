"""Clean-up of each corpus' transcripts: mark-up is removed, words stay.

Each function takes the published text and returns the transcript. It is empty if nothing was said, and None if the
audio isn't speech.
"""

import re

from unichoir.text.normalize import canonical_text, normalize_for_scoring

_PUNCTUATION_TAG = re.compile("<(COMMA|PERIOD|QUESTIONMARK|EXCLAMATIONPOINT)>")
_NO_SPEECH_TAG = re.compile("<(SIL|MUSIC|NOISE|OTHER)>")
_AN4_EDGES = re.compile("^<s>|</s>$")


def as_published(text: str) -> str:
    """LibriSpeech: upper case without punctuation; only white space is made canonical."""
    return canonical_text(text)


def mandarin(text: str) -> str:
    """AISHELL and THCHS-30: upper case, no spaces between Han characters. lhotse's recipes have corrected letters."""
    return canonical_text(text.upper())


def without_punctuation(text: str) -> str:
    """Common Voice and WenetSpeech: normalised as for scoring, upper case without punctuation (NFKC)."""
    return normalize_for_scoring(text)


def gigaspeech(text: str) -> str | None:
    """GigaSpeech: punctuation tags are removed.

    Utterances tagged as silence, music, noise or other sound are not speech.
    """
    if _NO_SPEECH_TAG.search(text):
        return None
    return canonical_text(_PUNCTUATION_TAG.sub(" ", text))


def an4(text: str) -> str:
    """AN4: the start and end marks of some lines are removed."""
    return canonical_text(_AN4_EDGES.sub("", text.strip()))
