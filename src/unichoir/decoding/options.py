"""How to recognise: one frozen value that goes from the command line down to the searches."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from unichoir.errors import DecodingError

Mode = Literal["ctc_greedy_search", "ctc_prefix_beam_search", "attention", "attention_rescoring"]
MODES: tuple[Mode, ...] = get_args(Mode)

MIN_SEGMENT_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class DecodingOptions:
    """Options of recognition. Raises DecodingError for values that make no sense."""

    mode: Mode = "attention_rescoring"
    beam_size: int = 10
    """Hypotheses kept by prefix beam, attention beam and rescoring, and the length of the n-best list."""
    chunk_size: int | None = None
    """Encoder frames (40 ms each) that the encoder sees at once, as in streaming; None or 0: the whole segment."""
    num_left_chunks: int = -1
    """With a chunk size: how many chunks before its own each frame attends to; -1: all."""
    ctc_weight: float = 0.5
    """Rescoring: weight of the CTC score beside the decoders'."""
    reverse_weight: float | None = None
    """Rescoring: share of the right-to-left decoder, 0 to 1; None: the model's own."""
    max_length: int | None = None
    """Attention: most decoder steps, tokens and eos together; None: the number of encoder frames."""
    length_penalty: float = 0.0
    """Attention: scores are divided by (tokens + 1) to this power before they are ranked; 0: as they are."""
    max_segment_seconds: float | None = 20.0
    """Longer audio is cut at its quietest places into segments of at most this length; None: never."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise DecodingError(f"mode: {self.mode!r} is not one of {', '.join(MODES)}")
        _at_least("beam_size", self.beam_size, 1)
        _at_least("num_left_chunks", self.num_left_chunks, -1)
        if self.chunk_size is not None:
            _at_least("chunk_size", self.chunk_size, 0)
        if self.num_left_chunks >= 0 and not self.chunk_size:
            raise DecodingError("num_left_chunks: without a chunk_size there are no chunks to limit")
        if self.max_length is not None:
            _at_least("max_length", self.max_length, 1)
        _in_range("ctc_weight", self.ctc_weight, 0, math.inf)
        _in_range("length_penalty", self.length_penalty, -math.inf, math.inf)
        if self.reverse_weight is not None:
            _in_range("reverse_weight", self.reverse_weight, 0, 1)
        if self.max_segment_seconds is not None:
            _in_range("max_segment_seconds", self.max_segment_seconds, MIN_SEGMENT_SECONDS, math.inf)


def _at_least(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise DecodingError(f"{name}: expected a whole number of at least {least}, found {value!r}")


def _in_range(name: str, value: float, least: float, most: float) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise DecodingError(f"{name}: expected a finite number, found {value!r}")
    if not least <= value <= most:
        bounds = f"at least {least}" if most == math.inf else f"from {least} to {most}"
        raise DecodingError(f"{name}: expected a number {bounds}, found {value!r}")
