"""Transcripts in OpenAI's JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unichoir.serving.engine import Piece
from unichoir.serving.parameters import Parameters
from unichoir.transcript.formats import log_probability, segment_dict, word_dict
from unichoir.transcript.results import Token, Transcript
from unichoir.transcript.segments import Segment, join_segments

WORD_START = "\u2581"


@dataclass(frozen=True)
class Recording:
    """The pieces of a recognised recording, with its duration in seconds."""

    pieces: Sequence[Piece]
    duration: float
    warnings: Sequence[str] = ()
    """Missing parts of the audio."""

    @property
    def transcript(self) -> Transcript:
        """The transcript of all pieces."""
        return join_segments([piece.segment for piece in self.pieces], 1, round(self.duration * 1000))


def logprob_dict(token: Token) -> dict[str, Any]:
    """Return OpenAI's log probability of a token, from its confidence. Tokens at word starts begin with a space."""
    text = token.text.replace(WORD_START, " ")
    return {"token": text, "logprob": log_probability(token), "bytes": list(text.encode())}


def usage_dict(duration: float) -> dict[str, Any]:
    """Return OpenAI's usage: the duration."""
    return {"type": "duration", "seconds": round(duration, 3)}


def json_body(recording: Recording, parameters: Parameters) -> dict[str, Any]:
    """Return OpenAI's `Transcription`."""
    transcript = recording.transcript
    body: dict[str, Any] = {"text": transcript.text, "usage": usage_dict(recording.duration)}
    body |= _warnings(recording.warnings)
    if "logprobs" in parameters.include:
        body["logprobs"] = [logprob_dict(token) for token in transcript.tokens]
    return body


def verbose_body(recording: Recording, parameters: Parameters, language: str, weights: float) -> dict[str, Any]:
    """Return OpenAI's `TranscriptionVerbose`, with the task as in OpenAI's service.

    Segments are the pieces with words, from the first word to the last. `seek`, as Whisper's, is the start of the piece
    in steps of 10 ms. language: for models without language tokens; may be empty. weights: the sum of the weights in a
    score of rescoring, else 1.
    """
    transcript = recording.transcript
    body: dict[str, Any] = {
        "task": "transcribe",
        "language": transcript.language or language,
        "duration": round(recording.duration, 3),
        "text": transcript.text,
        "usage": usage_dict(recording.duration),
        **_warnings(recording.warnings),
    }
    if "segment" in parameters.timestamp_granularities:
        starts = [0.0, *(piece.seconds for piece in recording.pieces)]
        spoken = [
            (start, piece.segment)
            for start, piece in zip(starts, recording.pieces, strict=False)
            if piece.segment.words
        ]
        body["segments"] = [
            _segment_dict(number, start, segment, weights) for number, (start, segment) in enumerate(spoken)
        ]
    if "word" in parameters.timestamp_granularities:
        body["words"] = [word_dict(word) for word in transcript.words]
    return body


def delta_event(delta: str, piece: Piece, duration: float, parameters: Parameters) -> dict[str, Any]:
    """Return OpenAI's `TranscriptionTextDeltaEvent` for a piece, with its end and, if included, its words."""
    event: dict[str, Any] = {
        "type": "transcript.text.delta",
        "delta": delta,
        "position": round(piece.seconds, 3),
        "duration": round(duration, 3),
    }
    if "words" in parameters.include:
        event["words"] = [word_dict(word) for word in piece.segment.words]
    if "logprobs" in parameters.include:
        event["logprobs"] = [logprob_dict(token) for token in piece.segment.tokens]
    return event


def done_event(
    text: str, tokens: Sequence[Token], duration: float, parameters: Parameters, warnings: Sequence[str] = ()
) -> dict[str, Any]:
    """Return OpenAI's `TranscriptionTextDoneEvent`."""
    event: dict[str, Any] = {"type": "transcript.text.done", "text": text, "usage": usage_dict(duration)}
    event |= _warnings(warnings)
    if "logprobs" in parameters.include:
        event["logprobs"] = [logprob_dict(token) for token in tokens]
    return event


def _warnings(warnings: Sequence[str]) -> dict[str, list[str]]:
    """Return the key `warnings`, which OpenAI doesn't have, if there are any."""
    return {"warnings": list(warnings)} if warnings else {}


def segment_text(segment: Segment) -> str:
    """Return the text of the best reading."""
    return segment.nbest[0].text


def _segment_dict(number: int, start: float, segment: Segment, weights: float) -> dict[str, Any]:
    """Return OpenAI's segment for a piece that begins at `start`, in seconds.

    avg_logprob is the score per token, including the end of the sentence. Rescoring adds `ctc_weight` times the CTC
    score to the decoders' score. Divided by `weights`, the sum is a log probability again.
    """
    best = segment.nbest[0]
    return segment_dict(
        number,
        segment.words,
        text=best.text,
        seek_ms=round(start * 1000),
        tokens=best.tokens,
        avg_logprob=best.score / weights / (len(best.tokens) + 1),
    )
