"""Options of where audio is cut: long recordings at pauses, live audio into chunks and utterances."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import typer

from unichoir.cli._shared.arguments import SearchArguments
from unichoir.errors import DecodingError
from unichoir.recognition.options import (
    MAX_CHUNK_SIZE,
    MIN_SEGMENT_SECONDS,
    VAD_MODES,
    EndpointRules,
    StreamingOptions,
    VadMode,
)
from unichoir.recognition.vad_options import VadOptions
from unichoir.search.options import STREAMING_MODES, StreamingMode


@dataclass(frozen=True, kw_only=True)
class LongArguments:
    """Where long recordings are cut."""

    PANEL: ClassVar[str] = "Long recordings"

    vad: Annotated[
        VadMode,
        typer.Option(
            metavar="|".join(VAD_MODES),
            help="What tells where nobody speaks: Silero (extra vad), the model's CTC blanks, nothing; "
            "auto: one of the first two for audio longer than a segment.",
        ),
    ] = "auto"
    vad_threshold: Annotated[
        float, typer.Option(min=0, max=1, metavar="X", help="Probability at which speech begins.")
    ] = VadOptions.threshold
    min_silence: Annotated[
        float, typer.Option(min=0.1, max=60, metavar="S", help="Shorter pauses are part of the speech around them.")
    ] = VadOptions.min_silence_seconds
    max_segment: Annotated[
        float, typer.Option(min=0, metavar="S", help="Longest segment that is recognised as one; 0: no limit.")
    ] = 20.0

    def fields(self) -> dict[str, Any]:
        """As fields of DecodingOptions; an error of usage for what would have no effect."""
        if 0 < self.max_segment < MIN_SEGMENT_SECONDS:
            raise typer.BadParameter(f"0, or at least {MIN_SEGMENT_SECONDS:g}", param_hint="--max-segment")
        changed = VadOptions.threshold != self.vad_threshold or VadOptions.min_silence_seconds != self.min_silence
        if self.vad == "none" and changed:
            raise typer.BadParameter("none has no settings", param_hint="--vad")
        try:
            options = VadOptions(
                threshold=self.vad_threshold,
                hysteresis=min(VadOptions.hysteresis, self.vad_threshold),
                min_silence_seconds=self.min_silence,
                speech_pad_seconds=min(VadOptions.speech_pad_seconds, self.min_silence / 2),
            )
        except DecodingError as error:
            raise typer.BadParameter(str(error)) from None
        return {"vad": self.vad, "vad_options": options, "max_segment_seconds": self.max_segment or None}


@dataclass(frozen=True, kw_only=True)
class StreamArguments:
    """How live audio is cut into chunks and utterances."""

    PANEL: ClassVar[str] = "Streams"

    decoding: Annotated[
        StreamingMode,
        typer.Option(metavar="MODE", help=f"What gives final results: {', '.join(STREAMING_MODES)}."),
    ] = "attention_rescoring"
    chunk_size: Annotated[
        int,
        typer.Option(
            min=1,
            max=MAX_CHUNK_SIZE,
            metavar="N",
            help=f"Encoder frames (40 ms each) seen at once, 1 to {MAX_CHUNK_SIZE}: small is soon, large is exact.",
        ),
    ] = 16
    num_left_chunks: Annotated[
        int, typer.Option(min=0, metavar="N", help="Chunks before its own that a frame sees.")
    ] = 4
    silence_after_speech: Annotated[
        float, typer.Option(min=0, metavar="S", help="Seconds of silence that end an utterance; 0: off.")
    ] = 1.0
    silence_before_speech: Annotated[
        float, typer.Option(min=0, metavar="S", help="The same before anything has been said; 0: off.")
    ] = 5.0
    max_utterance: Annotated[
        float, typer.Option(min=0, metavar="S", help="Seconds after which one is cut at its longest pause; 0: off.")
    ] = 20.0

    def streaming_options(self, search: SearchArguments, **more: Any) -> StreamingOptions:
        """The options of a stream; what makes no sense is an error of usage. more: fields of other groups."""
        fields = search.fields()
        try:
            rules = EndpointRules(
                silence_after_speech=self.silence_after_speech or None,
                silence_before_speech=self.silence_before_speech or None,
                max_utterance=self.max_utterance or None,
            )
            return StreamingOptions(
                endpoint=rules,
                mode=self.decoding,
                chunk_size=self.chunk_size,
                num_left_chunks=self.num_left_chunks,
                **fields,
                **more,
            )
        except DecodingError as error:
            raise typer.BadParameter(str(error)) from None
