"""How to recognise: one frozen value that goes from the command line down to the searches."""

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from unichoir.decoding.context import Hotword
from unichoir.decoding.vad_options import VadOptions
from unichoir.errors import DecodingError
from unichoir.text.written import WrittenForm

Mode = Literal["ctc_greedy_search", "ctc_prefix_beam_search", "attention", "attention_rescoring"]
MODES: tuple[Mode, ...] = get_args(Mode)

VadMode = Literal["auto", "silero", "ctc", "none"]
VAD_MODES: tuple[VadMode, ...] = get_args(VadMode)

StreamingMode = Literal["ctc_prefix_beam_search", "attention_rescoring"]
STREAMING_MODES: tuple[StreamingMode, ...] = get_args(StreamingMode)

DEFAULT_LM, NO_LM = "default", "none"
"""In place of the file of a language model: the one in the model's directory, if there is one; none at all."""

MIN_SEGMENT_SECONDS = 1.0
MAX_CHUNK_SIZE = 25
"""Encoder frames, one second: the longest chunks that models are trained with."""
MAX_LEFT_FRAMES = 1500
"""Encoder frames, one minute: what a stream remembers of each block, and so the memory it takes, has a limit."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What recordings and streams have in common. Raises DecodingError for values that make no sense."""

    mode: Mode = "attention_rescoring"
    beam_size: int = 10
    """Hypotheses kept by prefix beam, attention beam and rescoring; of recordings also the n-best list."""
    ctc_weight: float | None = None
    """Rescoring: weight of the CTC score beside the decoders'; None: the model's own."""
    attention_beam: int | None = None
    """Rescoring: width of a search by the left-to-right decoder alone, whose hypotheses compete with those of CTC; 0:
    none; None: the model's own."""
    reencode: bool | None = None
    """Rescoring of what is heard in chunks: at its end the encoder hears the whole utterance once more, without chunks,
    and it is searched anew, so that its final result is that of a recording; None: if the model wants it."""
    reverse_weight: float | None = None
    """Rescoring: share of the right-to-left decoder, 0 to 1; None: the model's own."""
    hotwords: tuple[Hotword, ...] = ()
    """Phrases to expect, in the modes with a prefix beam."""
    lm_weight: float | None = None
    """Weight of the language model beside the CTC score; None: its own. Without one it must be None."""
    length_bonus: float | None = None
    """What each unit that the language model counts adds to a hypothesis; None: its own."""
    oov_penalty: float | None = None
    """What each word that the language model does not know takes away; None: its own."""
    language: str | None = None
    """The only one to recognise, of those the model has tokens for; None: whichever is heard."""
    written: WrittenForm | None = None
    """How words are written (docs/written-form.md), of streams in final results; None: with the marks and the case that
    come with the model, if some do."""
    verbatim: bool = False
    """The bare words, without marks and case that come with the model: only what `written` says."""

    def __post_init__(self) -> None:
        if self.written is not None and not isinstance(self.written, WrittenForm):
            raise DecodingError(f"written: expected WrittenForm, found {self.written!r}")
        if not isinstance(self.hotwords, tuple) or not all(isinstance(each, Hotword) for each in self.hotwords):
            raise DecodingError(f"hotwords: expected a tuple of Hotword, found {self.hotwords!r:.100}")
        if self.hotwords:
            require_prefix_beam("hotwords", self.mode)
        if self.lm_weight is not None:
            _in_range("lm_weight", self.lm_weight, 0, math.inf)
        if self.length_bonus is not None:
            _in_range("length_bonus", self.length_bonus, -math.inf, math.inf)
        if self.oov_penalty is not None:
            _in_range("oov_penalty", self.oov_penalty, 0, math.inf)
        if self.lm_weight or self.length_bonus or self.oov_penalty:
            require_prefix_beam("language model", self.mode)
        _at_least("beam_size", self.beam_size, 1)
        if self.ctc_weight is not None:
            _in_range("ctc_weight", self.ctc_weight, 0, math.inf)
        if self.attention_beam is not None:
            _at_least("attention_beam", self.attention_beam, 0)
        if not isinstance(self.reencode, bool | None):
            raise DecodingError(f"reencode: expected True, False or None, found {self.reencode!r}")
        if self.reencode and self.mode != "attention_rescoring":
            raise DecodingError(f"reencode: {self.mode} has no second pass, only attention_rescoring does")
        if self.reverse_weight is not None:
            _in_range("reverse_weight", self.reverse_weight, 0, 1)


@dataclass(frozen=True, kw_only=True)
class DecodingOptions(SearchOptions):
    """Options of recognition. Raises DecodingError for values that make no sense."""

    mode: Mode = "attention_rescoring"
    chunk_size: int | None = None
    """Encoder frames (40 ms each) that the encoder sees at once, as in streaming; None or 0: the whole segment."""
    num_left_chunks: int = -1
    """With a chunk size: how many chunks before its own each frame attends to; -1: all."""
    max_length: int | None = None
    """Attention: most decoder steps, tokens and eos together; None: the number of encoder frames."""
    length_penalty: float = 0.0
    """Attention: scores are divided by (tokens + 1) to this power before they are ranked; 0: as they are."""
    max_segment_seconds: float | None = 20.0
    """Longer audio is cut at pauses into segments of at most this length; None: never."""
    vad: VadMode = "auto"
    """What tells where nobody speaks, so that nothing is recognised there: `silero` (the extra `vad`), `ctc` (the
    model's own blanks, for which the encoder runs twice) or `none`: cuts are at the quietest places and all is
    recognised. `auto`: Silero where it is installed, else CTC, for audio that is longer than a segment."""
    vad_options: VadOptions = field(default_factory=VadOptions)
    """What counts as speech."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise DecodingError(f"mode: {self.mode!r} is not one of {', '.join(MODES)}")
        super().__post_init__()
        _at_least("num_left_chunks", self.num_left_chunks, -1)
        if self.chunk_size is not None:
            _at_least("chunk_size", self.chunk_size, 0)
        if self.num_left_chunks >= 0 and not self.chunk_size:
            raise DecodingError("num_left_chunks: without a chunk_size there are no chunks to limit")
        if self.reencode and not self.chunk_size:
            raise DecodingError("reencode: without a chunk_size the encoder hears the whole utterance at once")
        if self.max_length is not None:
            _at_least("max_length", self.max_length, 1)
        _in_range("length_penalty", self.length_penalty, -math.inf, math.inf)
        if self.max_segment_seconds is not None:
            _in_range("max_segment_seconds", self.max_segment_seconds, MIN_SEGMENT_SECONDS, math.inf)
        if self.vad not in VAD_MODES:
            raise DecodingError(f"vad: {self.vad!r} is not one of {', '.join(VAD_MODES)}")
        if not isinstance(self.vad_options, VadOptions):
            raise DecodingError(f"vad_options: expected VadOptions, found {self.vad_options!r}")


@dataclass(frozen=True, kw_only=True)
class EndpointRules:
    """When an utterance in a stream is over: WeNet's three rules. Durations in seconds; None: the rule is off.

    Raises DecodingError for values that make no sense.
    """

    silence_before_speech: float | None = 5.0
    """So much silence while nothing has been recognised."""
    silence_after_speech: float | None = 1.0
    """So much silence after something has been recognised."""
    max_utterance: float | None = 20.0
    """So long an utterance. It ends at its longest pause, and what comes after the pause begins the next one."""
    blank_threshold: float = 0.8
    """A frame is silence when blank is more probable than this."""

    def __post_init__(self) -> None:
        for name in ("silence_before_speech", "silence_after_speech"):
            if getattr(self, name) is not None:
                _in_range(name, getattr(self, name), 0.04, math.inf)
        if self.max_utterance is not None:
            _in_range("max_utterance", self.max_utterance, MIN_SEGMENT_SECONDS, math.inf)
        _in_range("blank_threshold", self.blank_threshold, 0, 1)


@dataclass(frozen=True, kw_only=True)
class StreamingOptions(SearchOptions):
    """Options of one stream. Raises DecodingError for values that make no sense."""

    chunk_size: int = 16
    """Encoder frames (40 ms each) that are encoded at once: smaller is sooner, larger is more exact."""
    num_left_chunks: int = 4
    """Chunks before its own that each frame attends to. A stream has no end, so that it cannot be all of them."""
    mode: StreamingMode = "attention_rescoring"
    """What gives the final result of an utterance; partial ones come from CTC prefix beam search."""
    num_best: int = 1
    """Length of the n-best list, at most `beam_size`."""
    partial_words: bool = False
    """Align the words of partial results, too, which costs some time with every chunk."""
    endpoint: EndpointRules | None = field(default_factory=EndpointRules)
    """None: the whole stream is one utterance, and memory grows with its length."""

    def __post_init__(self) -> None:
        if self.mode not in STREAMING_MODES:
            raise DecodingError(f"mode: a stream cannot use {self.mode!r}, only {', '.join(STREAMING_MODES)}")
        super().__post_init__()
        _at_least("chunk_size", self.chunk_size, 1)
        if self.chunk_size > MAX_CHUNK_SIZE:
            raise DecodingError(f"chunk_size: expected 1 to {MAX_CHUNK_SIZE} encoder frames, found {self.chunk_size}")
        if self.num_left_chunks == -1:
            raise DecodingError("num_left_chunks: a stream has no end and cannot attend to all of its past (-1)")
        _at_least("num_left_chunks", self.num_left_chunks, 0)
        if self.num_left_frames > MAX_LEFT_FRAMES:
            limit = MAX_LEFT_FRAMES // self.chunk_size
            raise DecodingError(f"num_left_chunks: expected at most {limit} of {self.chunk_size} frames each")
        _at_least("num_best", self.num_best, 1)
        if self.num_best > self.beam_size:
            raise DecodingError(f"num_best: a beam of {self.beam_size} has no {self.num_best} hypotheses")
        if not isinstance(self.partial_words, bool):
            raise DecodingError(f"partial_words: expected True or False, found {self.partial_words!r}")
        if self.endpoint is not None and not isinstance(self.endpoint, EndpointRules):
            raise DecodingError(f"endpoint: expected EndpointRules or None, found {self.endpoint!r}")

    @property
    def num_left_frames(self) -> int:
        """Encoder frames before its chunk that each frame attends to."""
        return self.chunk_size * self.num_left_chunks


def require_prefix_beam(what: str, mode: Mode) -> None:
    """Raises DecodingError for a mode in which there is nothing to which `what` could add."""
    if mode not in STREAMING_MODES:
        raise DecodingError(f"mode: {mode} knows no {what}, only {' and '.join(STREAMING_MODES)} do")


def _at_least(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise DecodingError(f"{name}: expected a whole number of at least {least}, found {value!r}")


def _in_range(name: str, value: float, least: float, most: float) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise DecodingError(f"{name}: expected a finite number, found {value!r}")
    if not least <= value <= most:
        bounds = f"at least {least}" if most == math.inf else f"from {least} to {most}"
        raise DecodingError(f"{name}: expected a number {bounds}, found {value!r}")
