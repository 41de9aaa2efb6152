"""Options that several commands share, in groups: see `grouping.grouped`."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from unichoir.cli._shared.common import refuse
from unichoir.engine.device import DEVICES, Device
from unichoir.errors import DecodingError
from unichoir.recognition.options import DecodingOptions
from unichoir.search.hotwords import DEFAULT_BOOST, MAX_BOOST, read_hotwords
from unichoir.search.options import DEFAULT_LM, NO_LM, Mode
from unichoir.text.itn import ITN_LANGUAGES, ItnLanguage
from unichoir.text.written import WrittenForm

if TYPE_CHECKING:
    from unichoir.api import Channel, Model
    from unichoir.recognition.recognizer import Recognizer

DEVICE_HELP = "Where the model computes: the CPU, or an NVIDIA GPU (not for int8)."
DeviceOption = Annotated[Device, typer.Option("--device", metavar="|".join(DEVICES), help=DEVICE_HELP)]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="CPU threads; else the engine's choice.", metavar="N", show_default=False)
]
TopKOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Experts of a frame, if fewer than the model was trained with: faster, less exact.",
        show_default=False,
    ),
]
LeftChunksOption = Annotated[
    int, typer.Option(min=-1, metavar="N", help="With a chunk size: chunks before its own that a frame sees; -1: all.")
]

MODEL_HELP = "Included model, model folder or checkpoint, or a Hugging Face repository (ORG/NAME[@REVISION])."
MODEL_NAME = "NAME|DIR|ORG/NAME"
LanguageOption = Annotated[
    str | None,
    typer.Option(
        metavar="CODE",
        help="The only language to recognise, of those the model has tokens for; else whichever is heard.",
        show_default=False,
    ),
]
ChannelOption = Annotated[
    str | None,
    typer.Option(
        metavar="N|mix|each",
        help="Number of a channel; the mean of all; or each by itself, as of a telephone call.",
        show_default="mix",
    ),
]
StrictOption = Annotated[bool, typer.Option("--strict", help="A recording of which something is missing is an error.")]
LanguageModelOption = Annotated[
    str,
    typer.Option(
        "--lm",
        rich_help_panel="Search",
        metavar="FILE|default|none",
        help="n-gram language model: packed, ARPA (also .gz) or KenLM's binary; for the modes with a prefix beam. "
        "default: the model's own, if it has one.",
    ),
]


def parse_channel(text: str | None) -> "Channel":
    """A number from 1, mix or each; None is mix."""
    if text == "each":
        return "each"
    if text is None or text == "mix":
        return "mix"
    if text.isascii() and text.isdecimal() and int(text) > 0:
        return int(text)
    raise typer.BadParameter(f"'{text}' is neither mix nor each nor a number from 1", param_hint="--channel")


@dataclass(frozen=True, kw_only=True)
class ModelArguments:
    """Which model, and how it computes; but for the device, whose option is not called the same everywhere."""

    model: Annotated[
        str | None,
        typer.Option(metavar=MODEL_NAME, help=MODEL_HELP, show_default=False),
    ] = None
    lm: LanguageModelOption = DEFAULT_LM
    threads: ThreadsOption = None
    top_k: TopKOption = None

    def load(self, device: Device) -> "Model":
        """The model."""
        from unichoir.api import load_model

        return load_model(self.model, self.threads, self.top_k, device, self.lm)

    def load_recognizer(self, device: Device) -> "Recognizer":
        """The same for those who need the parts."""
        from unichoir.api import load_recognizer

        return load_recognizer(self.model, self.threads, self.top_k, device, self.lm)


@dataclass(frozen=True, kw_only=True)
class SearchArguments:
    """How words are searched."""

    PANEL: ClassVar[str] = "Search"

    beam_size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Hypotheses kept by the searches; length of the n-best.")
    ] = 10
    ctc_weight: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="X",
            show_default=False,
            help="Weight of the CTC score in attention_rescoring; else the model's.",
        ),
    ] = None
    attention_beam: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            show_default=False,
            help="Width of the decoder's own search in attention_rescoring, 0 for none; else the model's.",
        ),
    ] = None
    reencode: Annotated[
        bool | None,
        typer.Option(
            "--reencode/--no-reencode",
            show_default=False,
            help="Final results of what is heard in chunks: the encoder hears each utterance once more, whole; else as "
            "the model wants.",
        ),
    ] = None
    reverse_weight: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            show_default=False,
            help="Share of the right-to-left decoder in rescoring; else the model's.",
        ),
    ] = None

    hotwords: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Phrases to expect, one per line, with a boost after it where it has its own: NAME :2.5.",
            show_default=False,
        ),
    ] = None
    hotwords_boost: Annotated[
        float | None,
        typer.Option(
            metavar="X", help=f"Boost of phrases without their own; else {DEFAULT_BOOST}.", show_default=False
        ),
    ] = None

    def fields(self) -> dict[str, Any]:
        """As fields of DecodingOptions and StreamingOptions. Raises DecodingError for a file that cannot be read."""
        boost = self.hotwords_boost
        if boost is not None and self.hotwords is None:
            raise typer.BadParameter("of which phrases? (--hotwords)", param_hint="--hotwords-boost")
        if boost is not None and not 0 < boost <= MAX_BOOST:
            raise typer.BadParameter(f"expected above 0 and at most {MAX_BOOST:g}", param_hint="--hotwords-boost")
        return {
            "beam_size": self.beam_size,
            "ctc_weight": self.ctc_weight,
            "attention_beam": self.attention_beam,
            "reencode": self.reencode,
            "reverse_weight": self.reverse_weight,
            "hotwords": () if self.hotwords is None else read_hotwords(self.hotwords, boost or DEFAULT_BOOST),
        }

    def decoding_options(
        self, *, mode: Mode, chunk_size: int = 0, num_left_chunks: int = -1, **more: Any
    ) -> DecodingOptions:
        """The options of a recording; what contradicts itself is an error of usage. more: fields of other groups."""
        fields = self.fields()
        try:
            return DecodingOptions(
                mode=mode, chunk_size=chunk_size or None, num_left_chunks=num_left_chunks, **fields, **more
            )
        except DecodingError as error:
            raise typer.BadParameter(str(error)) from None


@dataclass(frozen=True, kw_only=True)
class FusionArguments:
    """How much the language model counts."""

    PANEL: ClassVar[str] = "Search"

    lm_weight: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="X", help="Weight of the language model; else as tuned, or 0.4.", show_default=False
        ),
    ] = None
    oov_penalty: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="X",
            help="With one: taken away for every word it does not know; else as tuned, or 0.",
            show_default=False,
        ),
    ] = None
    length_bonus: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="With one: added for every word (token); else as tuned, or 1.", show_default=False
        ),
    ] = None

    def fields(self, lm: str) -> dict[str, Any]:
        """As fields of DecodingOptions and StreamingOptions; an error of usage for weights of no model."""
        weights = dataclasses.asdict(self)
        if lm == NO_LM:
            options = {f"--{name.replace('_', '-')}": value for name, value in weights.items()}
            refuse(options, f"of which language model? (--lm {NO_LM})")
        return weights


@dataclass(frozen=True, kw_only=True)
class WrittenArguments:
    """How words are written."""

    PANEL: ClassVar[str] = "Written form"

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
            help="Marks and case from this model (extra punctuation); else from the one in the model's own directory.",
            show_default=False,
        ),
    ] = None
    verbatim: Annotated[
        bool, typer.Option("--verbatim", help="The bare words, as the model has them: no marks, no case.")
    ] = False

    def fields(self) -> dict[str, Any]:
        """As fields of DecodingOptions and StreamingOptions; an error of usage for marks and none at once."""
        if self.verbatim and self.punctuation is not None:
            raise typer.BadParameter("has no marks: leave out --punctuation", param_hint="--verbatim")
        return {"written": self._form(), "verbatim": self.verbatim}

    def _form(self) -> WrittenForm | None:
        """What they ask for; None: nothing."""
        if self.itn is None and self.punctuation is None:
            return None
        # Workers of a cluster may work in another folder.
        return WrittenForm(self.itn, None if self.punctuation is None else str(self.punctuation.absolute()))
