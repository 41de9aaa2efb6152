"""The interface of models for punctuation and case."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Marked:
    """A word in written form, and the mark after it, if any."""

    text: str
    mark: str = ""


@dataclass(frozen=True, kw_only=True)
class Context:
    """The text around a text."""

    before: str = ""
    """Written text before it, which determines whether a sentence begins. Empty: a sentence begins."""
    after: str = ""
    """Spoken text after it. Empty: unknown, or nothing."""


NO_CONTEXT = Context()


class Punctuator(Protocol):
    """Adds marks and, if supported, case to words. It never changes, adds or removes words.

    context: may be ignored by a model.
    """

    def __call__(self, words: Sequence[str], context: Context = ...) -> list[Marked]: ...
