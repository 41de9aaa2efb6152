"""Options of recognition: one frozen value, passed from the command line down to the searches."""

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from unichoir.engine.limits import MAX_LEFT_FRAMES
from unichoir.errors import DecodingError
from unichoir.recognition.vad_options import VadOptions
from unichoir.search.options import (
    MODES,
    STREAMING_MODES,
    Mode,
    OfflineSearchOptions,
    SearchOptions,
    StreamingMode,
    at_least,
    in_range,
)

VadMode = Literal["auto", "silero", "ctc", "none"]
VAD_MODES: tuple[VadMode, ...] = get_args(VadMode)

MIN_SEGMENT_SECONDS = 1.0
MAX_CHUNK_SIZE = 25
"""In encoder frames (one second): the longest chunks in training."""


@dataclass(frozen=True, kw_only=True)
class DecodingOptions(OfflineSearchOptions):
    """Options for recordings. Raises DecodingError for invalid values."""

    mode: Mode = "attention_rescoring"
    chunk_size: int | None = None
    """Encoder frames (40 ms each) per chunk, as in streaming; None or 0: the whole segment is one chunk."""
    num_left_chunks: int = -1
    """With a chunk size: the number of chunks before its own to which each frame attends; -1: all."""
    max_segment_seconds: float | None = 20.0
    """Longer audio is cut at pauses into segments of at most this length; None: audio is never cut."""
    vad: VadMode = "auto"
    """The voice activity detector; audio without speech is skipped. `silero`: needs the extra `vad`. `ctc`: the model's
    own blanks; the encoder runs twice. `none`: all audio is recognised, and cuts are at the quietest places. `auto`:
    for audio longer than a segment, Silero if it is installed, otherwise CTC; for shorter audio, none."""
    vad_options: VadOptions = field(default_factory=VadOptions)
    """What counts as speech."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise DecodingError(f"mode: {self.mode!r} is not one of {', '.join(MODES)}")
        super().__post_init__()
        at_least("num_left_chunks", self.num_left_chunks, -1)
        if self.chunk_size is not None:
            at_least("chunk_size", self.chunk_size, 0)
        if self.num_left_chunks >= 0 and not self.chunk_size:
            raise DecodingError("num_left_chunks: needs a chunk_size")
        if self.reencode and not self.chunk_size:
            raise DecodingError("reencode: needs a chunk_size; without one the whole utterance is encoded at once")
        if self.max_segment_seconds is not None:
            in_range("max_segment_seconds", self.max_segment_seconds, MIN_SEGMENT_SECONDS, math.inf)
        if self.vad not in VAD_MODES:
            raise DecodingError(f"vad: {self.vad!r} is not one of {', '.join(VAD_MODES)}")
        if not isinstance(self.vad_options, VadOptions):
            raise DecodingError(f"vad_options: expected VadOptions, found {self.vad_options!r}")


@dataclass(frozen=True, kw_only=True)
class EndpointRules:
    """When an utterance in a stream ends: WeNet's three rules. Durations are in seconds; None disables a rule.

    Raises DecodingError for invalid values.
    """

    silence_before_speech: float | None = 5.0
    """End after this much silence if nothing has been recognised."""
    silence_after_speech: float | None = 1.0
    """End after this much silence if something has been recognised."""
    max_utterance: float | None = 20.0
    """End at this length: the utterance is cut at its longest pause, and the rest begins the next one."""
    blank_threshold: float = 0.8
    """A frame is silent if the probability of blank is higher than this."""

    def __post_init__(self) -> None:
        for name in ("silence_before_speech", "silence_after_speech"):
            if getattr(self, name) is not None:
                in_range(name, getattr(self, name), 0.04, math.inf)
        if self.max_utterance is not None:
            in_range("max_utterance", self.max_utterance, MIN_SEGMENT_SECONDS, math.inf)
        in_range("blank_threshold", self.blank_threshold, 0, 1)


@dataclass(frozen=True, kw_only=True)
class StreamingOptions(SearchOptions):
    """Options for one stream. Raises DecodingError for invalid values."""

    chunk_size: int = 16
    """Encoder frames (40 ms each) per chunk: smaller chunks give earlier results, larger chunks better ones."""
    num_left_chunks: int = 4
    """The number of chunks before its own to which each frame attends. It cannot be all, because a stream has no
    end."""
    mode: StreamingMode = "attention_rescoring"
    """The search for final results; partial results come from CTC prefix beam search."""
    num_best: int = 1
    """Length of the n-best list; at most `beam_size`."""
    partial_words: bool = False
    """Give partial results words with times too, which takes some time for every chunk."""
    endpoint: EndpointRules | None = field(default_factory=EndpointRules)
    """The endpoint rules; None: the whole stream is one utterance, and memory grows with its length."""

    def __post_init__(self) -> None:
        if self.mode not in STREAMING_MODES:
            raise DecodingError(f"mode: a stream cannot use {self.mode!r}, only {', '.join(STREAMING_MODES)}")
        super().__post_init__()
        at_least("chunk_size", self.chunk_size, 1)
        if self.chunk_size > MAX_CHUNK_SIZE:
            raise DecodingError(f"chunk_size: expected 1 to {MAX_CHUNK_SIZE} encoder frames, found {self.chunk_size}")
        if self.num_left_chunks == -1:
            raise DecodingError(
                "num_left_chunks: a stream cannot attend to all of its past (-1), because it has no end"
            )
        at_least("num_left_chunks", self.num_left_chunks, 0)
        if self.num_left_frames > MAX_LEFT_FRAMES:
            limit = MAX_LEFT_FRAMES // self.chunk_size
            raise DecodingError(f"num_left_chunks: expected at most {limit} of {self.chunk_size} frames each")
        at_least("num_best", self.num_best, 1)
        if self.num_best > self.beam_size:
            raise DecodingError(f"num_best: expected at most beam_size ({self.beam_size}), found {self.num_best}")
        if not isinstance(self.partial_words, bool):
            raise DecodingError(f"partial_words: expected True or False, found {self.partial_words!r}")
        if self.endpoint is not None and not isinstance(self.endpoint, EndpointRules):
            raise DecodingError(f"endpoint: expected EndpointRules or None, found {self.endpoint!r}")

    @property
    def num_left_frames(self) -> int:
        """Encoder frames before its chunk to which each frame attends."""
        return self.chunk_size * self.num_left_chunks
