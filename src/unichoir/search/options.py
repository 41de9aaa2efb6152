"""Options of the searches."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from unichoir.errors import DecodingError
from unichoir.search.hotwords import Hotword
from unichoir.text.written import WrittenForm

Mode = Literal["ctc_greedy_search", "ctc_prefix_beam_search", "attention", "attention_rescoring"]
MODES: tuple[Mode, ...] = get_args(Mode)

StreamingMode = Literal["ctc_prefix_beam_search", "attention_rescoring"]
STREAMING_MODES: tuple[StreamingMode, ...] = get_args(StreamingMode)

DEFAULT_LM, NO_LM = "default", "none"
"""Instead of a language model's file: the one in the model directory, if there is one; no language model."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Options of recordings and streams. Raises DecodingError for invalid values."""

    mode: Mode = "attention_rescoring"
    beam_size: int = 10
    """Number of hypotheses in the prefix beam, the attention beam and rescoring; for recordings also in the n-best
    list."""
    ctc_weight: float | None = None
    """Rescoring: weight of the CTC score beside the decoders'; None: the model's default."""
    attention_beam: int | None = None
    """Rescoring: width of a search with only the left-to-right decoder, whose hypotheses compete with those of CTC; 0:
    no search of this kind; None: the model's default."""
    reencode: bool | None = None
    """Rescoring with chunks: at the end of an utterance, encode it again as a whole and search it again. The final
    result is then the same as for a recording. None: the model's default."""
    reverse_weight: float | None = None
    """Rescoring: weight of the right-to-left decoder, 0 to 1; None: the model's default."""
    hotwords: tuple[Hotword, ...] = ()
    """Phrases to expect, for the modes with a prefix beam."""
    lm_weight: float | None = None
    """Weight of the language model beside the CTC score; None: its own. Must be None without a language model."""
    length_bonus: float | None = None
    """Added for each unit (word or token) of the language model; None: its own value."""
    oov_penalty: float | None = None
    """Subtracted for each word that the language model does not know; None: its own value."""
    language: str | None = None
    """Recognise only this language; the model must have a token for it. None: any language."""
    written: WrittenForm | None = None
    """The written form (docs/guides/written-form.md); streams use it in final results. None: the model's own
    punctuation and case, if it has them."""
    verbatim: bool = False
    """Do not apply the model's own punctuation and case; only `written` applies."""

    def __post_init__(self) -> None:
        if self.written is not None and not isinstance(self.written, WrittenForm):
            raise DecodingError(f"written: expected WrittenForm, found {self.written!r}")
        if not isinstance(self.hotwords, tuple) or not all(isinstance(each, Hotword) for each in self.hotwords):
            raise DecodingError(f"hotwords: expected a tuple of Hotword, found {self.hotwords!r:.100}")
        if self.hotwords:
            require_prefix_beam("hotwords", self.mode)
        if self.lm_weight is not None:
            in_range("lm_weight", self.lm_weight, 0, math.inf)
        if self.length_bonus is not None:
            in_range("length_bonus", self.length_bonus, -math.inf, math.inf)
        if self.oov_penalty is not None:
            in_range("oov_penalty", self.oov_penalty, 0, math.inf)
        if self.lm_weight or self.length_bonus or self.oov_penalty:
            require_prefix_beam("a language model", self.mode)
        at_least("beam_size", self.beam_size, 1)
        if self.ctc_weight is not None:
            in_range("ctc_weight", self.ctc_weight, 0, math.inf)
        if self.attention_beam is not None:
            at_least("attention_beam", self.attention_beam, 0)
        if not isinstance(self.reencode, bool | None):
            raise DecodingError(f"reencode: expected True, False or None, found {self.reencode!r}")
        if self.reencode and self.mode != "attention_rescoring":
            raise DecodingError(f"reencode: {self.mode} has no second pass; use attention_rescoring")
        if self.reverse_weight is not None:
            in_range("reverse_weight", self.reverse_weight, 0, 1)


@dataclass(frozen=True, kw_only=True)
class OfflineSearchOptions(SearchOptions):
    """Options of recordings alone: the attention mode needs the end of the audio."""

    max_length: int | None = None
    """Attention: the most decoder steps, including eos; None: the number of encoder frames."""
    length_penalty: float = 0.0
    """Attention: scores are divided by (tokens + 1) to this power before ranking; 0: unchanged."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_length is not None:
            at_least("max_length", self.max_length, 1)
        in_range("length_penalty", self.length_penalty, -math.inf, math.inf)


def require_prefix_beam(what: str, mode: Mode) -> None:
    """Raise DecodingError for a mode without a prefix beam, which `what` needs."""
    if mode not in STREAMING_MODES:
        raise DecodingError(f"mode: {mode} does not support {what}; use {' or '.join(STREAMING_MODES)}")


def at_least(name: str, value: int, least: int) -> None:
    """Raise DecodingError unless the value is a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise DecodingError(f"{name}: expected a whole number of at least {least}, found {value!r}")


def in_range(name: str, value: float, least: float, most: float) -> None:
    """Raise DecodingError unless the value is a finite number from `least` to `most`."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise DecodingError(f"{name}: expected a finite number, found {value!r}")
    if not least <= value <= most:
        bounds = f"at least {least}" if most == math.inf else f"from {least} to {most}"
        raise DecodingError(f"{name}: expected a number {bounds}, found {value!r}")
