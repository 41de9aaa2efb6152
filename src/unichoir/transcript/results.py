"""What recognition returns, of recordings and of streams. All immutable."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Token:
    """One recognised token; `id` in the vocabulary, times in ms from the start of the audio."""

    id: int
    text: str
    start_ms: int
    end_ms: int
    confidence: float
    """Highest CTC probability of the token in the frames it is aligned to, 0 to 1."""
    channel: int | None = None
    """Of the recording, from 1, where each was transcribed by itself."""


@dataclass(frozen=True, kw_only=True)
class Word:
    """One recognised word (a CJK character is one); times in ms from the start of the audio."""

    text: str
    start_ms: int
    end_ms: int
    confidence: float
    """That of its least certain token, 0 to 1: it never falls when the model is more certain of any of them."""
    channel: int | None = None
    """Of the recording, from 1, where each was transcribed by itself."""


def mean_confidence(words: Sequence[Word]) -> float:
    """Of words, 0 to 1; 0 when there is none."""
    return sum(word.confidence for word in words) / len(words) if words else 0.0


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """One of the n-best readings of the whole audio."""

    text: str
    tokens: tuple[int, ...]
    score: float
    spoken: str | None = None
    """The bare words, where `text` is a written form of them."""


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """What was said in one recording."""

    text: str
    tokens: tuple[Token, ...]
    words: tuple[Word, ...]
    score: float
    """Natural log, the best alternative's; which one depends on the mode. Comparable only within one recording."""
    confidence: float
    """Mean of the words' confidences, 0 to 1; 0 when there is no word."""
    nbest: tuple[Alternative, ...]
    """Best first, the transcript itself at the head. Greedy search knows only that one."""
    duration_ms: int
    language: str | None = None
    """As the model has heard it; None for a model without language tokens, and where it has heard none."""
    warnings: tuple[str, ...] = ()
    """What of the recording is missing, or not as one would think."""

    @property
    def spoken(self) -> str:
        """The bare words, as the model's vocabulary has them, whatever `text` has made of them."""
        return _spoken(self.nbest)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, ready for JSON; `spoken` where something is written in another form,
        `channel` where channels were transcribed one by one, `warnings` where there are some."""
        return {**asdict(self, dict_factory=_plain), **_said(self.nbest)}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One of the n-best readings of an utterance."""

    text: str
    tokens: tuple[Token, ...]
    words: tuple[Word, ...]
    score: float
    """Natural log; comparable only within one utterance."""
    spoken: str | None = None
    """The bare words, where `text` is a written form of them."""

    @property
    def confidence(self) -> float:
        """Mean of the words' confidences, 0 to 1; 0 when there is no word."""
        return mean_confidence(self.words)


@dataclass(frozen=True, kw_only=True)
class StreamResult:
    """What is known of one utterance of a stream; times in ms from the start of the stream."""

    utterance: int
    """Its number in the stream, from 0."""
    is_final: bool
    """False while it may still change."""
    start_ms: int
    end_ms: int
    """Up to where it has been heard; that of a final result is where the next utterance starts."""
    nbest: tuple[Reading, ...]
    """Best first. Those of a partial result have tokens and words only where the stream's options want them."""
    language: str | None = None
    """Of the best reading; None for a model without language tokens, and where it has heard none."""

    @property
    def text(self) -> str:
        """Of the best reading."""
        return self.nbest[0].text

    @property
    def spoken(self) -> str:
        """Of the best reading the bare words, whatever `text` has made of them."""
        return _spoken(self.nbest)

    @property
    def tokens(self) -> tuple[Token, ...]:
        """Of the best reading."""
        return self.nbest[0].tokens

    @property
    def words(self) -> tuple[Word, ...]:
        """Of the best reading."""
        return self.nbest[0].words

    @property
    def confidence(self) -> float:
        """Of the best reading."""
        return self.nbest[0].confidence

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, ready for JSON; `spoken` where something is written in another form."""
        best = {"text": self.text, **_said(self.nbest), "confidence": self.confidence}
        return {**best, **asdict(self, dict_factory=_plain)}


def _spoken(nbest: Sequence[Alternative | Reading]) -> str:
    return nbest[0].text if nbest[0].spoken is None else nbest[0].spoken


def _said(nbest: Sequence[Alternative | Reading]) -> dict[str, str]:
    return {} if all(reading.spoken is None for reading in nbest) else {"spoken": _spoken(nbest)}


_OPTIONAL = ("spoken", "channel", "warnings")
"""Fields that are left out where they say nothing."""


def _plain(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in items
        if name not in _OPTIONAL or value not in (None, ())
    }
