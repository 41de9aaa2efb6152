"""Hotwords of clients: checks, and building of their graphs outside the event loop and the engine."""

from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from unichoir.errors import DecodingError, UnichoirError
from unichoir.recognition.recognizer import Recognizer
from unichoir.search.hotwords import Hotword, parse_hotwords
from unichoir.search.options import SearchOptions
from unichoir.search.scoring import PrefixScorer
from unichoir.serving.settings import Settings

MEAN_CHARACTERS = 20
"""Characters of a phrase, on average over a client's list. The memory of a graph grows with the characters."""
MAX_PHRASE_BYTES = 4 * MEAN_CHARACTERS
"""The same limit in bytes of UTF-8."""


class InvalidHotwords(Exception):
    """A list of phrases that is malformed, too long, or that the model cannot write."""


def client_hotwords(phrases: Any, settings: Settings) -> tuple[Hotword, ...]:
    """Return a client's phrases, which may end in a boost (` :2.5`). Raises InvalidHotwords."""
    if not isinstance(phrases, (list, tuple)) or not all(isinstance(phrase, str) for phrase in phrases):
        raise InvalidHotwords("expected a list of texts")
    if len(phrases) > settings.max_hotwords:
        raise InvalidHotwords(f"{len(phrases)} phrases, this server takes at most {settings.max_hotwords}")
    if sum(map(len, phrases)) > (limit := MEAN_CHARACTERS * settings.max_hotwords):
        raise InvalidHotwords(f"more than the {limit} characters in all that this server takes")
    try:
        return parse_hotwords(phrases)
    except DecodingError as error:
        raise _invalid(error) from None


class Builder:
    """Builds what searches with hotwords need. One list at a time, so many clients don't slow down the engine."""

    def __init__(self, recognizer: Recognizer) -> None:
        self._recognizer = recognizer
        self._limiter = anyio.CapacityLimiter(1)

    async def prepare(self, options: SearchOptions) -> PrefixScorer | None:
        """Return what the recogniser needs for these options. Keep it as long as the options are in use.

        Raises InvalidHotwords.
        """
        if not options.hotwords:
            return None
        try:
            return await anyio.to_thread.run_sync(
                partial(self._recognizer.search.scorer, options), limiter=self._limiter
            )
        except UnichoirError as error:
            raise _invalid(error) from None


def _invalid(error: UnichoirError) -> InvalidHotwords:
    return InvalidHotwords(str(error).removeprefix("hotwords: "))
