"""The results of recognition, for recordings and streams. All types are immutable."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Token:
    """One recognised token, with its `id` in the vocabulary and times in ms from the start of the audio."""

    id: int
    text: str
    start_ms: int
    end_ms: int
    confidence: float
    """Highest CTC probability of the token in the frames it is aligned to, 0 to 1."""
    channel: int | None = None
    """The channel of the recording, from 1, if channels were transcribed separately."""


@dataclass(frozen=True, kw_only=True)
class Word:
    """One recognised word (each CJK character is a word), with times in ms from the start of the audio."""

    text: str
    start_ms: int
    end_ms: int
    confidence: float
    """The lowest confidence of its tokens, 0 to 1."""
    channel: int | None = None
    """The channel of the recording, from 1, if channels were transcribed separately."""


def mean_confidence(words: Sequence[Word]) -> float:
    """Return the mean confidence of words, 0 to 1; 0 without words."""
    return sum(word.confidence for word in words) / len(words) if words else 0.0


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """One entry of the n-best list of a recording."""

    text: str
    tokens: tuple[int, ...]
    score: float
    spoken: str | None = None
    """The bare words, if `text` is a written form of them."""


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """The transcript of one recording."""

    text: str
    tokens: tuple[Token, ...]
    words: tuple[Word, ...]
    score: float
    """The score of the best alternative: a natural log whose terms depend on the mode. Compare scores only within one
    recording."""
    confidence: float
    """The mean confidence of the words, 0 to 1; 0 without words."""
    nbest: tuple[Alternative, ...]
    """The alternatives, best first; the first one is the transcript itself. Greedy search gives only this one."""
    duration_ms: int
    language: str | None = None
    """The recognised language; None if the model has no language tokens or recognised no language."""
    warnings: tuple[str, ...] = ()
    """Parts of the recording that are missing or damaged, and other surprises."""

    @property
    def spoken(self) -> str:
        """The bare words, as in the model's vocabulary, without the written form."""
        return _spoken(self.nbest)

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers for JSON.

        `spoken` is included if it differs from `text`, `channel` if channels were transcribed separately, `warnings` if
        there are any.
        """
        return {**asdict(self, dict_factory=_plain), **_said(self.nbest)}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One entry of the n-best list of an utterance."""

    text: str
    tokens: tuple[Token, ...]
    words: tuple[Word, ...]
    score: float
    """A natural log. Compare scores only within one utterance."""
    spoken: str | None = None
    """The bare words, if `text` is a written form of them."""

    @property
    def confidence(self) -> float:
        """The mean confidence of the words, 0 to 1; 0 without words."""
        return mean_confidence(self.words)


@dataclass(frozen=True, kw_only=True)
class StreamResult:
    """The result of one utterance of a stream, partial or final, with times in ms from the start of the stream."""

    utterance: int
    """The number of the utterance in the stream, from 0."""
    is_final: bool
    """Whether the result is final; a partial one may still change."""
    start_ms: int
    end_ms: int
    """The end of the audio that the result covers. After a final result, the next utterance starts here."""
    nbest: tuple[Reading, ...]
    """The readings, best first. Partial results have tokens and words only with the option `partial_words`."""
    language: str | None = None
    """The language of the best reading; None if the model has no language tokens or recognised no language."""

    @property
    def text(self) -> str:
        """The text of the best reading."""
        return self.nbest[0].text

    @property
    def spoken(self) -> str:
        """The bare words of the best reading, without the written form."""
        return _spoken(self.nbest)

    @property
    def tokens(self) -> tuple[Token, ...]:
        """The tokens of the best reading."""
        return self.nbest[0].tokens

    @property
    def words(self) -> tuple[Word, ...]:
        """The words of the best reading."""
        return self.nbest[0].words

    @property
    def confidence(self) -> float:
        """The confidence of the best reading."""
        return self.nbest[0].confidence

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers for JSON; `spoken` is included if it differs from `text`."""
        best = {"text": self.text, **_said(self.nbest), "confidence": self.confidence}
        return {**best, **asdict(self, dict_factory=_plain)}


def _spoken(nbest: Sequence[Alternative | Reading]) -> str:
    return nbest[0].text if nbest[0].spoken is None else nbest[0].spoken


def _said(nbest: Sequence[Alternative | Reading]) -> dict[str, str]:
    return {} if all(reading.spoken is None for reading in nbest) else {"spoken": _spoken(nbest)}


_OPTIONAL = ("spoken", "channel", "warnings")
"""Fields that are left out if they are empty."""


def _plain(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in items
        if name not in _OPTIONAL or value not in (None, ())
    }
