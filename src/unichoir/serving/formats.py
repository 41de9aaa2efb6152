"""What has been recognised, in OpenAI's JSON."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unichoir.decoding.hypothesis import Token, Transcript, Word
from unichoir.decoding.options import DecodingOptions
from unichoir.decoding.transcript import Segment, join_segments
from unichoir.serving.engine import Piece
from unichoir.serving.parameters import Parameters

WORD_START = "\u2581"
MIN_PROBABILITY = 1e-10


@dataclass(frozen=True)
class Recording:
    """What has been recognised in a recording of so many seconds."""

    pieces: Sequence[Piece]
    duration: float

    @property
    def transcript(self) -> Transcript:
        """Of all pieces."""
        return join_segments([piece.segment for piece in self.pieces], 1, round(self.duration * 1000))


def word_dict(word: Word) -> dict[str, Any]:
    """OpenAI's word, times in seconds, with our confidence."""
    return {
        "word": word.text,
        "start": word.start_ms / 1000,
        "end": word.end_ms / 1000,
        "confidence": round(word.confidence, 4),
    }


def logprob_dict(token: Token) -> dict[str, Any]:
    """OpenAI's log probability of a token: that of its confidence. A token that begins a word has the space before."""
    text = token.text.replace(WORD_START, " ")
    return {"token": text, "logprob": math.log(max(token.confidence, MIN_PROBABILITY)), "bytes": list(text.encode())}


def usage_dict(duration: float) -> dict[str, Any]:
    """What a client is charged for: nothing here, but it may be of interest."""
    return {"type": "duration", "seconds": round(duration, 3)}


def json_body(recording: Recording, parameters: Parameters) -> dict[str, Any]:
    """OpenAI's `Transcription`."""
    transcript = recording.transcript
    body: dict[str, Any] = {"text": transcript.text, "usage": usage_dict(recording.duration)}
    if "logprobs" in parameters.include:
        body["logprobs"] = [logprob_dict(token) for token in transcript.tokens]
    return body


def verbose_body(
    recording: Recording, parameters: Parameters, language: str, options: DecodingOptions
) -> dict[str, Any]:
    """OpenAI's `TranscriptionVerbose`, with the task as their service has it.

    Segments are the pieces in which something was said, from their first word to their last; as Whisper's `seek`, where
    the piece begins in steps of 10 ms. `language` is empty where the server does not know it.
    """
    transcript = recording.transcript
    body: dict[str, Any] = {
        "task": "transcribe",
        "language": language,
        "duration": round(recording.duration, 3),
        "text": transcript.text,
        "usage": usage_dict(recording.duration),
    }
    if "segment" in parameters.granularities:
        starts = [0.0, *(piece.seconds for piece in recording.pieces)]
        spoken = [
            (start, piece.segment)
            for start, piece in zip(starts, recording.pieces, strict=False)
            if piece.segment.words
        ]
        body["segments"] = [
            _segment_dict(number, start, segment, options) for number, (start, segment) in enumerate(spoken)
        ]
    if "word" in parameters.granularities:
        body["words"] = [word_dict(word) for word in transcript.words]
    return body


def delta_event(delta: str, piece: Piece, duration: float, parameters: Parameters) -> dict[str, Any]:
    """OpenAI's `TranscriptionTextDeltaEvent` for a piece, with how far it goes and, if asked for, its words."""
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


def done_event(text: str, tokens: Sequence[Token], duration: float, parameters: Parameters) -> dict[str, Any]:
    """OpenAI's `TranscriptionTextDoneEvent`."""
    event: dict[str, Any] = {"type": "transcript.text.done", "text": text, "usage": usage_dict(duration)}
    if "logprobs" in parameters.include:
        event["logprobs"] = [logprob_dict(token) for token in tokens]
    return event


def segment_text(segment: Segment) -> str:
    """Of its best reading."""
    return segment.nbest[0].text


def _segment_dict(number: int, start: float, segment: Segment, options: DecodingOptions) -> dict[str, Any]:
    """Whisper's fields, as far as they have a meaning here.

    avg_logprob: the score for each token, that of the sentence's end among them. Rescoring adds `ctc_weight` times the
    score of CTC to that of the decoders; the sum is divided by the weights, which makes it a log probability again.
    compression_ratio: as Whisper, bytes of the text by their number after zlib. no_speech_prob: always 0.0, for the
    model does not estimate it; pieces without a word are no segments. temperature: 0.0, the most probable is taken.
    """
    best, text = segment.nbest[0], segment_text(segment).encode()
    weights = 1 + options.ctc_weight if options.mode == "attention_rescoring" else 1.0
    return {
        "id": number,
        "seek": round(start * 100),
        "start": segment.words[0].start_ms / 1000,
        "end": segment.words[-1].end_ms / 1000,
        "text": segment_text(segment),
        "tokens": list(best.tokens),
        "temperature": 0.0,
        "avg_logprob": best.score / weights / (len(best.tokens) + 1),
        "compression_ratio": len(text) / len(zlib.compress(text)),
        "no_speech_prob": 0.0,
    }
