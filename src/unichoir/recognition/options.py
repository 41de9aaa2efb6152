"""Options of recognition: frozen values that go from the caller down to the searches."""

from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

from unichoir.declaration import Option, check_options
from unichoir.engine.limits import MAX_LEFT_FRAMES
from unichoir.errors import DecodingError
from unichoir.recognition.vad_options import PANEL as LONG
from unichoir.recognition.vad_options import VadOptions
from unichoir.search.options import STREAMING_MODES, OfflineSearchOptions, SearchOptions, StreamingMode

VadMode = Literal["auto", "silero", "ctc", "none"]
VAD_MODES: tuple[VadMode, ...] = get_args(VadMode)

MIN_SEGMENT_SECONDS = 1.0
MAX_CHUNK_SIZE = 25
"""Encoder frames, one second: the longest chunks that models are trained with."""

STREAMS = "Streams"
"""A heading in `--help`."""


@dataclass(frozen=True, kw_only=True)
class DecodingOptions(OfflineSearchOptions):
    """Options of recognition. Raises DecodingError for invalid values."""

    chunk_size: Annotated[
        int | None,
        Option(
            "Encoder frames that the encoder sees at once, as in streaming. A frame of the included model takes 40 ms.",
            none="the whole segment",
            zero_is_none=True,
            low=0,
            unit="encoder frames",
        ),
    ] = None
    num_left_chunks: Annotated[
        int, Option("With a chunk size: earlier chunks that each frame attends to. -1: all.", low=-1, unit="chunks")
    ] = -1
    vad: Annotated[
        VadMode,
        Option(
            "What finds speech, so that only speech is recognised: `silero` (extra vad), `ctc` (the model's blanks; "
            "the encoder runs twice) or `none` (cut at the quietest places, recognise everything). `auto`: Silero if "
            "it is installed, else CTC, for audio longer than a segment.",
            panel=LONG,
        ),
    ] = "auto"
    vad_options: Annotated[VadOptions, Option("What counts as speech.")] = field(default_factory=VadOptions)
    max_segment_seconds: Annotated[
        float | None,
        Option(
            "Longer audio is cut at pauses into segments of at most this length.",
            none="no limit",
            zero_is_none=True,
            low=MIN_SEGMENT_SECONDS,
            unit="s",
            flag="--max-segment",
            panel=LONG,
        ),
    ] = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_left_chunks >= 0 and not self.chunk_size:
            raise DecodingError("num_left_chunks: needs a chunk_size")
        if self.reencode and not self.chunk_size:
            raise DecodingError(
                "reencode: needs a chunk_size, because without chunks the encoder hears the whole utterance anyway"
            )


@dataclass(frozen=True, kw_only=True)
class EndpointRules:
    """When an utterance of a stream ends: WeNet's three rules. None turns a rule off.

    Raises DecodingError for invalid values.
    """

    silence_after_speech: Annotated[
        float | None,
        Option("Silence that ends an utterance.", none="off", zero_is_none=True, low=0.04, unit="s", panel=STREAMS),
    ] = 1.0
    silence_before_speech: Annotated[
        float | None,
        Option(
            "Silence that ends an utterance before anything has been recognised.",
            none="off",
            zero_is_none=True,
            low=0.04,
            unit="s",
            panel=STREAMS,
        ),
    ] = 5.0
    max_utterance: Annotated[
        float | None,
        Option(
            "Longest utterance. A longer one is cut at its longest pause.",
            none="off",
            zero_is_none=True,
            low=MIN_SEGMENT_SECONDS,
            unit="s",
            panel=STREAMS,
        ),
    ] = 20.0
    blank_threshold: Annotated[
        float, Option("A frame is silence if blank is more probable than this.", low=0, high=1, flag=None)
    ] = 0.8

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class StreamingOptions(SearchOptions):
    """Options of one stream. Raises DecodingError for invalid values."""

    mode: Annotated[
        StreamingMode,
        Option(
            f"What gives final results: {' or '.join(STREAMING_MODES)}. Partial results come from CTC prefix beam "
            "search.",
            flag="--decoding",
            metavar="MODE",
            panel=STREAMS,
        ),
    ] = "attention_rescoring"
    chunk_size: Annotated[
        int,
        Option(
            "Encoder frames that are encoded at once. A frame of the included model takes 40 ms. Small chunks give "
            "early results, large ones better results.",
            low=1,
            high=MAX_CHUNK_SIZE,
            unit="encoder frames",
            panel=STREAMS,
        ),
    ] = 16
    num_left_chunks: Annotated[
        int, Option("Earlier chunks that each frame attends to.", low=0, unit="chunks", panel=STREAMS)
    ] = 4
    num_best: Annotated[
        int, Option("Length of the n-best list; at most `beam_size`.", low=1, flag=None, wenet="nbest")
    ] = 1
    partial_words: Annotated[
        bool, Option("Partial results have words with times, too, which takes time with every chunk.", flag=None)
    ] = False
    endpoint: Annotated[
        EndpointRules | None,
        Option("When utterances end.", none="the stream is one utterance, and memory grows with its length"),
    ] = field(default_factory=EndpointRules)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_left_frames > MAX_LEFT_FRAMES:
            limit = MAX_LEFT_FRAMES // self.chunk_size
            raise DecodingError(f"num_left_chunks: expected at most {limit} of {self.chunk_size} frames each")
        if self.num_best > self.beam_size:
            raise DecodingError(f"num_best: a beam of {self.beam_size} has no {self.num_best} hypotheses")

    @property
    def num_left_frames(self) -> int:
        """Encoder frames before its chunk that each frame attends to."""
        return self.chunk_size * self.num_left_chunks
