"""What models of marks and case are asked and answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Marked:
    """A word as it is to be written, and the mark after it, if any."""

    text: str
    mark: str = ""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What stands around a text."""

    before: str = ""
    """Written already: by it is known whether a sentence begins. Empty: one does."""
    after: str = ""
    """What was said next. Empty: it is not known, or nothing."""


NO_CONTEXT = Context()


class Punctuator(Protocol):
    """Gives words their marks and, if it knows about that, their case; never another word, one more or one less.

    context: what a model that knows nothing about it may ignore.
    """

    def __call__(self, words: Sequence[str], context: Context = ...) -> list[Marked]: ...
