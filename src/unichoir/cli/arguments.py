"""Options that several commands share, in groups: see `grouping.grouped`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from unichoir.decoding.device import DEVICES, Device
from unichoir.decoding.options import (
    MAX_CHUNK_SIZE,
    STREAMING_MODES,
    DecodingOptions,
    EndpointRules,
    Mode,
    StreamingMode,
    StreamingOptions,
)
from unichoir.errors import DecodingError

if TYPE_CHECKING:
    from unichoir.api import Model
    from unichoir.decoding.recognizer import Recognizer

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


@dataclass(frozen=True, kw_only=True)
class ModelArguments:
    """Which model, and how it computes; but for the device, whose option is not called the same everywhere."""

    model: Annotated[
        str | None,
        typer.Option(metavar="NAME|DIR", help="Included model, model folder or checkpoint.", show_default=False),
    ] = None
    threads: ThreadsOption = None
    top_k: TopKOption = None

    def load(self, device: Device) -> "Model":
        """The model."""
        from unichoir.api import load_model

        return load_model(self.model, self.threads, self.top_k, device)

    def load_recognizer(self, device: Device) -> "Recognizer":
        """The same for those who need the parts."""
        from unichoir.api import load_recognizer

        return load_recognizer(self.model, self.threads, self.top_k, device)


@dataclass(frozen=True, kw_only=True)
class SearchArguments:
    """How words are searched."""

    PANEL: ClassVar[str] = "Search"

    beam_size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Hypotheses kept by the searches; length of the n-best.")
    ] = 10
    ctc_weight: Annotated[
        float, typer.Option(min=0, metavar="X", help="Weight of the CTC score in attention_rescoring.")
    ] = 0.5
    reverse_weight: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            show_default=False,
            help="Share of the right-to-left decoder in rescoring; else the model's.",
        ),
    ] = None

    def fields(self) -> dict[str, Any]:
        """As fields of DecodingOptions and StreamingOptions."""
        return {
            "beam_size": self.beam_size,
            "ctc_weight": self.ctc_weight,
            "reverse_weight": self.reverse_weight,
        }

    def decoding_options(self, *, mode: Mode, chunk_size: int = 0, num_left_chunks: int = -1) -> DecodingOptions:
        """The options of a recording; what contradicts itself is an error of usage."""
        try:
            return DecodingOptions(
                mode=mode, chunk_size=chunk_size or None, num_left_chunks=num_left_chunks, **self.fields()
            )
        except DecodingError as error:
            raise typer.BadParameter(str(error)) from None


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

    def streaming_options(self, search: SearchArguments) -> StreamingOptions:
        """The options of a stream; what makes no sense is an error of usage."""
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
                **search.fields(),
            )
        except DecodingError as error:
            raise typer.BadParameter(str(error)) from None
