"""Join the transcripts of a recording's channels, each of which was recognised separately."""

from collections.abc import Sequence
from dataclasses import replace

from unichoir.text.normalize import canonical_text
from unichoir.transcript.formats import speech_segments
from unichoir.transcript.results import Alternative, Transcript, mean_confidence


def join_channels(transcripts: Sequence[Transcript]) -> Transcript:
    """Return one transcript of all channels; transcripts: at least one, in the order of the channels.

    Words and tokens have the number of their channel. The text is in the order in which the segments of all channels
    begin; segments of different channels can overlap. The score is the sum of the scores.
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
