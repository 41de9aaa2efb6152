"""The transcripts of a recording's channels, each recognised by itself, as one."""

from collections.abc import Sequence
from dataclasses import replace

from unichoir.text.normalize import canonical_text
from unichoir.transcript.formats import speech_segments
from unichoir.transcript.results import Alternative, Transcript, mean_confidence


def join_channels(transcripts: Sequence[Transcript]) -> Transcript:
    """One transcript of all channels, at least one, in their order.

    Segments follow each other as they begin, each of one channel, which its words and tokens name; those of two
    channels may overlap. Scores add up.
    """
    parts = [
        replace(
            each,
            words=tuple(replace(word, channel=number) for word in each.words),
            tokens=tuple(replace(token, channel=number) for token in each.tokens),
        )
        for number, each in enumerate(transcripts, start=1)
    ]
    segments = sorted(
        (each for part in parts for each in speech_segments(part.words)), key=lambda each: each[0].start_ms
    )
    words = tuple(word for segment in segments for word in segment)
    tokens = tuple(token for part in parts for token in part.tokens)
    text = canonical_text(" ".join(word.text for word in words))
    score = sum(part.score for part in parts)
    spoken = None
    if any(part.nbest[0].spoken is not None for part in parts):
        spoken = canonical_text(" ".join(part.spoken for part in parts))
    return Transcript(
        text=text,
        tokens=tokens,
        words=words,
        score=score,
        confidence=mean_confidence(words),
        nbest=(Alternative(text=text, tokens=tuple(token.id for token in tokens), score=score, spoken=spoken),),
        duration_ms=max(part.duration_ms for part in parts),
        language=next((part.language for part in parts if part.language), None),
    )
