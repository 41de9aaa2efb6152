"""How to search: what recordings and streams have in common."""

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
"""In place of the file of a language model: the one in the model's directory, if there is one; none at all."""


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
    """How words are written (docs/guides/written-form.md), of streams in final results; None: with the marks and the case that
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
            in_range("lm_weight", self.lm_weight, 0, math.inf)
        if self.length_bonus is not None:
            in_range("length_bonus", self.length_bonus, -math.inf, math.inf)
        if self.oov_penalty is not None:
            in_range("oov_penalty", self.oov_penalty, 0, math.inf)
        if self.lm_weight or self.length_bonus or self.oov_penalty:
            require_prefix_beam("language model", self.mode)
        at_least("beam_size", self.beam_size, 1)
        if self.ctc_weight is not None:
            in_range("ctc_weight", self.ctc_weight, 0, math.inf)
        if self.attention_beam is not None:
            at_least("attention_beam", self.attention_beam, 0)
        if not isinstance(self.reencode, bool | None):
            raise DecodingError(f"reencode: expected True, False or None, found {self.reencode!r}")
        if self.reencode and self.mode != "attention_rescoring":
            raise DecodingError(f"reencode: {self.mode} has no second pass, only attention_rescoring does")
        if self.reverse_weight is not None:
            in_range("reverse_weight", self.reverse_weight, 0, 1)


@dataclass(frozen=True, kw_only=True)
class OfflineSearchOptions(SearchOptions):
    """What only recordings can have, whose end is known: the options of attention mode."""

    max_length: int | None = None
    """Attention: most decoder steps, tokens and eos together; None: the number of encoder frames."""
    length_penalty: float = 0.0
    """Attention: scores are divided by (tokens + 1) to this power before they are ranked; 0: as they are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_length is not None:
            at_least("max_length", self.max_length, 1)
        in_range("length_penalty", self.length_penalty, -math.inf, math.inf)


def require_prefix_beam(what: str, mode: Mode) -> None:
    """Raises DecodingError for a mode in which there is nothing to which `what` could add."""
    if mode not in STREAMING_MODES:
        raise DecodingError(f"mode: {mode} knows no {what}, only {' and '.join(STREAMING_MODES)} do")


def at_least(name: str, value: int, least: int) -> None:
    """Raises DecodingError unless the value is a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise DecodingError(f"{name}: expected a whole number of at least {least}, found {value!r}")


def in_range(name: str, value: float, least: float, most: float) -> None:
    """Raises DecodingError unless the value is a finite number from `least` to `most`."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise DecodingError(f"{name}: expected a finite number, found {value!r}")
    if not least <= value <= most:
        bounds = f"at least {least}" if most == math.inf else f"from {least} to {most}"
        raise DecodingError(f"{name}: expected a number {bounds}, found {value!r}")
