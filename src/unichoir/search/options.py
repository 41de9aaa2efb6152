"""Options of the searches: what recordings and streams have in common."""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from unichoir.declaration import Option, check_options
from unichoir.errors import DecodingError
from unichoir.search.hotwords import Hotword
from unichoir.text.written import WrittenForm

Mode = Literal["ctc_greedy_search", "ctc_prefix_beam_search", "attention", "attention_rescoring"]
MODES: tuple[Mode, ...] = get_args(Mode)

StreamingMode = Literal["ctc_prefix_beam_search", "attention_rescoring"]
STREAMING_MODES: tuple[StreamingMode, ...] = get_args(StreamingMode)

DEFAULT_LM, NO_LM = "default", "none"
"""In place of a language model's file: the model directory's own, if it has one; no language model."""

SEARCH, LANGUAGE_MODEL, WRITTEN = "Search", "Language model", "Written form"
"""Headings in `--help`."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What recordings and streams have in common. Raises DecodingError for invalid values."""

    mode: Annotated[Mode, Option(f"How words are searched: {', '.join(MODES)}.", flag="--decoding", metavar="MODE")] = (
        "attention_rescoring"
    )
    beam_size: Annotated[
        int, Option("Hypotheses that the searches keep; also the length of the n-best list.", low=1, panel=SEARCH)
    ] = 10
    ctc_weight: Annotated[
        float | None,
        Option("Weight of the CTC score in attention_rescoring.", none="the model's own", low=0, panel=SEARCH),
    ] = None
    attention_beam: Annotated[
        int | None,
        Option(
            "Beam of the left-to-right decoder's own search in attention_rescoring. Its hypotheses compete with those "
            "of CTC. 0: no such search.",
            none="the model's own",
            low=0,
            panel=SEARCH,
        ),
    ] = None
    reencode: Annotated[
        bool | None,
        Option(
            "After each utterance heard in chunks, encode it once more as a whole. The final result is then as good "
            "as that of a recording. For attention_rescoring.",
            none="the model's own",
            flag="--reencode/--no-reencode",
            panel=SEARCH,
        ),
    ] = None
    reverse_weight: Annotated[
        float | None,
        Option("Share of the right-to-left decoder in rescoring.", none="the model's own", low=0, high=1, panel=SEARCH),
    ] = None
    hotwords: Annotated[
        tuple[Hotword, ...],
        Option(
            "Phrases to expect, in the modes with a prefix beam. A phrase may end in its own boost, as in `NAME :2.5`.",
            flag=None,
            http="keywords",
            wenet="hotwords",
        ),
    ] = ()
    lm_weight: Annotated[
        float | None,
        Option("Weight of the language model.", none="as tuned, or 0.4", low=0, panel=LANGUAGE_MODEL),
    ] = None
    oov_penalty: Annotated[
        float | None,
        Option(
            "Penalty for each word that the language model doesn't know.",
            none="as tuned, or 0",
            low=0,
            panel=LANGUAGE_MODEL,
        ),
    ] = None
    length_bonus: Annotated[
        float | None,
        Option(
            "Bonus for each word (or token) that the language model counts.",
            none="as tuned, or 1",
            panel=LANGUAGE_MODEL,
        ),
    ] = None
    language: Annotated[
        str | None,
        Option(
            "The only language to recognise, for models with language tokens.",
            none="any language",
            metavar="CODE",
            http="language",
        ),
    ] = None
    written: Annotated[
        WrittenForm | None,
        Option(
            "How to write what was said: numbers, punctuation and case. Streams apply it to final results.",
            none="with the model's own punctuation and case, if it has any",
            flag=None,
        ),
    ] = None
    verbatim: Annotated[
        bool, Option("Leave the words as the model has them: no punctuation, no case.", panel=WRITTEN, http="verbatim")
    ] = False

    def __post_init__(self) -> None:
        check_options(self)
        if self.hotwords:
            require_prefix_beam("hotwords", self.mode)
        if self.lm_weight or self.length_bonus or self.oov_penalty:
            require_prefix_beam("a language model", self.mode)
        if self.reencode and self.mode != "attention_rescoring":
            raise DecodingError(f"reencode: {self.mode} has no second pass, only attention_rescoring does")


@dataclass(frozen=True, kw_only=True)
class OfflineSearchOptions(SearchOptions):
    """Adds the options of attention mode, which needs the end of the recording."""

    max_length: Annotated[
        int | None,
        Option(
            "Attention mode: most decoder steps, including the one for the end.",
            none="the number of encoder frames",
            low=1,
            unit="tokens",
            flag=None,
        ),
    ] = None
    length_penalty: Annotated[
        float, Option("Attention mode: scores are divided by (tokens + 1) to this power. 0: unchanged.", flag=None)
    ] = 0.0


def require_prefix_beam(what: str, mode: Mode) -> None:
    """Raise DecodingError for a mode without a prefix beam, to whose scores `what` could add."""
    if mode not in STREAMING_MODES:
        raise DecodingError(f"mode: {mode} doesn't use {what}, only {' and '.join(STREAMING_MODES)} do")
