"""Options that several commands share, in groups for `grouping.grouped`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from unichoir.cli._shared.common import refuse
from unichoir.cli._shared.options import flag
from unichoir.declaration import Declared, declared
from unichoir.engine.device import DEVICES, Device
from unichoir.recognition.options import DecodingOptions
from unichoir.recognition.vad_options import VadOptions
from unichoir.search.hotwords import DEFAULT_BOOST, MAX_BOOST, Hotword, read_hotwords
from unichoir.search.options import DEFAULT_LM, LANGUAGE_MODEL, NO_LM, SEARCH, WRITTEN, SearchOptions
from unichoir.text.itn import ITN_LANGUAGES, ItnLanguage
from unichoir.text.written import WrittenForm

if TYPE_CHECKING:
    from unichoir.api import Channel, Model
    from unichoir.recognition.recognizer import Recognizer

DEVICE_HELP = "CPU, or NVIDIA GPU (not for int8 models)."
DeviceOption = Annotated[Device, typer.Option("--device", metavar="|".join(DEVICES), help=DEVICE_HELP)]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="CPU threads.", metavar="N", show_default="the engine's choice")
]
TopKOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Experts per frame. Fewer than in training are faster and less accurate.",
        show_default="as in training",
    ),
]

MODEL_HELP = (
    "Included or published model (`unichoir models`), model directory or checkpoint, or Hugging Face repository "
    "(ORG/NAME[@REVISION])."
)
MODEL_NAME = "NAME|DIR|ORG/NAME"
ChannelOption = Annotated[
    str | None,
    typer.Option(
        metavar="N|mix|each",
        help="A channel's number, the mean of all channels, or each channel by itself (telephone calls).",
        show_default="mix",
    ),
]
StrictOption = Annotated[bool, typer.Option("--strict", help="Reject recordings that are damaged or incomplete.")]
LanguageModelOption = Annotated[
    str,
    typer.Option(
        "--lm",
        rich_help_panel=LANGUAGE_MODEL,
        metavar="FILE|default|none",
        help="n-gram language model: packed, ARPA (also .gz) or KenLM binary. For the modes with a prefix beam. "
        "default: the model's own, if it has one.",
    ),
]


def parse_channel(text: str | None) -> "Channel":
    """Return a channel: a number from 1, mix or each. None is mix."""
    if text == "each":
        return "each"
    if text is None or text == "mix":
        return "mix"
    if text.isascii() and text.isdecimal() and int(text) > 0:
        return int(text)
    raise typer.BadParameter(f"'{text}' is neither mix nor each nor a number from 1", param_hint="--channel")


@dataclass(frozen=True, kw_only=True)
class ModelArguments:
    """Which model, and how it computes. The device is separate: its option has two names."""

    model: Annotated[
        str | None,
        typer.Option(metavar=MODEL_NAME, help=MODEL_HELP, show_default=False),
    ] = None
    lm: LanguageModelOption = DEFAULT_LM
    threads: ThreadsOption = None
    top_k: TopKOption = None

    def load(self, device: Device) -> "Model":
        """Load the model."""
        from unichoir.api import load_model

        return load_model(self.model, self.threads, self.top_k, device, self.lm)

    def load_recognizer(self, device: Device) -> "Recognizer":
        """Load the recogniser alone."""
        from unichoir.api import load_recognizer

        return load_recognizer(self.model, self.threads, self.top_k, device, self.lm)


@dataclass(frozen=True, kw_only=True)
class HotwordArguments:
    """Phrases to expect."""

    PANEL: ClassVar[str] = SEARCH

    hotwords: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Phrases to expect, one per line. A line may end in the phrase's own boost: NAME :2.5.",
            show_default=False,
        ),
    ] = None
    hotwords_boost: Annotated[
        float | None,
        typer.Option(metavar="X", help="Boost of phrases without their own.", show_default=str(DEFAULT_BOOST)),
    ] = None

    def read(self) -> tuple[Hotword, ...]:
        """Return the phrases. Raises DecodingError for a file that cannot be read."""
        boost = self.hotwords_boost
        if boost is not None and self.hotwords is None:
            raise typer.BadParameter("needs --hotwords", param_hint="--hotwords-boost")
        if boost is not None and not 0 < boost <= MAX_BOOST:
            raise typer.BadParameter(f"expected above 0 and at most {MAX_BOOST:g}", param_hint="--hotwords-boost")
        return () if self.hotwords is None else read_hotwords(self.hotwords, boost or DEFAULT_BOOST)


@dataclass(frozen=True, kw_only=True)
class WrittenArguments:
    """How words are written."""

    PANEL: ClassVar[str] = WRITTEN

    itn: Annotated[
        ItnLanguage | None,
        typer.Option(
            metavar="|".join(ITN_LANGUAGES),
            help="Write numbers, dates and amounts in figures: TWENTY ONE as 21 (extra itn).",
            show_default=False,
        ),
    ] = None
    punctuation: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Model of punctuation and case (extra punctuation).",
            show_default="the one in the model's own directory",
        ),
    ] = None

    def form(self) -> WrittenForm | None:
        """Return the written form; None if the options ask for nothing."""
        if self.itn is None and self.punctuation is None:
            return None
        # Workers of a cluster may work in another folder.
        return WrittenForm(self.itn, None if self.punctuation is None else str(self.punctuation.absolute()))


def refuse_unused(options: SearchOptions, lm: str) -> None:
    """Raise an error of usage for options that have no effect beside others. lm: the value of --lm."""
    if lm == NO_LM:
        weights = {flag(each): getattr(options, each.name) for each in declared(SearchOptions) if _is_weight(each)}
        refuse(weights, f"has no effect with --lm {NO_LM}")
    if options.verbatim and options.written and options.written.punctuation is not None:
        raise typer.BadParameter("cannot be used with --punctuation", param_hint="--verbatim")
    if isinstance(options, DecodingOptions) and options.vad == "none" and options.vad_options != VadOptions():
        raise typer.BadParameter("none has no settings", param_hint="--vad")


def _is_weight(option: Declared) -> bool:
    return option.option.panel == LANGUAGE_MODEL
