"""The results of the pieces of a recording, and their transcript."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nlargest
from operator import itemgetter
from typing import NamedTuple

from unichoir.text.normalize import canonical_text
from unichoir.transcript.results import Alternative, Token, Transcript, Word, mean_confidence


@dataclass(frozen=True, kw_only=True)
class Segment:
    """The result of one piece of a recording."""

    tokens: tuple[Token, ...] = ()
    words: tuple[Word, ...] = ()
    nbest: tuple[Alternative, ...] = (Alternative(text="", tokens=(), score=0.0),)
    language: str | None = None


class _Chain(NamedTuple):
    """One reading of consecutive segments, as a linked list from the last segment."""

    part: Alternative
    before: "_Chain | None"


def join_segments(segments: Sequence[Segment], num_best: int, duration_ms: int) -> Transcript:
    """Return the transcript of consecutive segments, which were recognised independently.

    Its n-best list has the best combinations of the segments' n-best lists; the scores add up.
    """
    # Readings share their beginnings: copying them would take quadratic time.
    readings: list[tuple[float, _Chain | None]] = [(0.0, None)]
    for segment in segments:
        longer = ((score + part.score, _Chain(part, before)) for score, before in readings for part in segment.nbest)
        readings = nlargest(num_best, longer, key=itemgetter(0))
    nbest = tuple(
        Alternative(
            text=canonical_text(" ".join(part.text for part in parts)),
            tokens=tuple(token for part in parts for token in part.tokens),
            score=score,
            spoken=_spoken(parts),
        )
        for score, parts in ((score, _unchain(last)) for score, last in readings)
    )
    words = tuple(word for segment in segments for word in segment.words)
    return Transcript(
        text=nbest[0].text,
        tokens=tuple(token for segment in segments for token in segment.tokens),
        words=words,
        score=nbest[0].score,
        confidence=mean_confidence(words),
        nbest=nbest,
        duration_ms=duration_ms,
        language=_main_language(segments),
    )


def _spoken(parts: Sequence[Alternative]) -> str | None:
    if all(part.spoken is None for part in parts):
        return None
    return canonical_text(" ".join(part.text if part.spoken is None else part.spoken for part in parts))


def _unchain(last: _Chain | None) -> list[Alternative]:
    parts = []
    while last is not None:
        parts.append(last.part)
        last = last.before
    return parts[::-1]


def _main_language(segments: Sequence[Segment]) -> str | None:
    """Return the language with the most words, the first one on a tie; None if no segment has a language."""
    words: Counter[str] = Counter()
    for segment in segments:
        if segment.language is not None:
            words[segment.language] += len(segment.words)
    return max(words, key=words.__getitem__, default=None)
