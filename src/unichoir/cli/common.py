"""What the commands share: their options' types, progress bars, checks of option values."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from unichoir.decoding.device import DEVICES, Device
from unichoir.decoding.options import MODES, DecodingOptions, EndpointRules, Mode, StreamingOptions
from unichoir.errors import DecodingError

ModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME|DIR", help="Included model, model folder or checkpoint.", show_default=False),
]
# Text, because a Path would spoil URLs.
ManifestsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="MANIFEST",
        help="Path or URL: JSON lines, a Kaldi folder, shards (ours or WeNet's), lhotse cuts or Shar.",
        show_default=False,
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="CPU threads; else the engine's choice.", metavar="N", show_default=False),
]
DEVICE_HELP = "Where the model computes: the CPU, or an NVIDIA GPU (not for int8)."
DeviceOption = Annotated[Device, typer.Option("--device", metavar="|".join(DEVICES), help=DEVICE_HELP)]
TopKOption = Annotated[
    int | None,
    typer.Option(
        "--top-k",
        min=1,
        metavar="N",
        help="Experts of a frame, if fewer than the model was trained with: faster, less exact.",
        show_default=False,
    ),
]
BeamSizeOption = Annotated[
    int, typer.Option(min=1, metavar="N", help="Hypotheses kept by the searches; length of the n-best.")
]
LeftChunksOption = Annotated[
    int, typer.Option(min=-1, metavar="N", help="With a chunk size: chunks before its own that a frame sees; -1: all.")
]
CtcWeightOption = Annotated[
    float, typer.Option(min=0, metavar="X", help="Weight of the CTC score in attention_rescoring.")
]
ReverseWeightOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        show_default=False,
        help="Share of the right-to-left decoder in rescoring; else the model's.",
    ),
]


def decoding_options(
    *,
    mode: Mode,
    chunk_size: int,
    num_left_chunks: int,
    beam_size: int,
    ctc_weight: float,
    reverse_weight: float | None,
) -> DecodingOptions:
    """The options of a command line; what contradicts itself is an error of usage."""
    try:
        return DecodingOptions(
            mode=mode,
            chunk_size=chunk_size or None,
            num_left_chunks=num_left_chunks,
            beam_size=beam_size,
            ctc_weight=ctc_weight,
            reverse_weight=reverse_weight,
        )
    except DecodingError as error:
        raise typer.BadParameter(str(error)) from None


def streaming_options(
    *,
    silence_after_speech: float,
    silence_before_speech: float,
    max_utterance: float,
    **fields: Any,
) -> StreamingOptions:
    """The options of a stream; 0 s switches a rule off. What makes no sense is an error of usage."""
    try:
        rules = EndpointRules(
            silence_after_speech=silence_after_speech or None,
            silence_before_speech=silence_before_speech or None,
            max_utterance=max_utterance or None,
        )
        return StreamingOptions(endpoint=rules, **fields)
    except DecodingError as error:
        raise typer.BadParameter(str(error)) from None


def parse_modes(text: str) -> list[Mode]:
    """`all`, or modes separated by commas."""
    if text == "all":
        return list(MODES)
    modes = [mode for mode in MODES if mode in text.split(",")]
    unknown = set(text.split(",")) - set(modes)
    if unknown:
        raise typer.BadParameter(f"'{min(unknown)}' is not one of all, {', '.join(MODES)}", param_hint="--decoding")
    return modes


def parse_chunk_sizes(text: str) -> list[int | None]:
    """Numbers of encoder frames separated by commas; `full` or 0 is the whole utterance."""
    sizes: list[int | None] = []
    for word in text.split(","):
        if word != "full" and not (word.isascii() and word.isdecimal()):
            raise typer.BadParameter(f"'{word}' is neither 'full' nor a number of frames", param_hint="--chunk-size")
        size = None if word == "full" else int(word) or None
        if size not in sizes:
            sizes.append(size)
    return sizes


def write_line(text: str) -> None:
    """To standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """A line for the person at the keyboard, on standard error."""
    print(text, file=sys.stderr, flush=True)


def print_error(error: Exception) -> None:
    """One line, whatever the message holds."""
    note(f"error: {' '.join(str(error).split())}")


def make_progress(unit: str) -> Progress:
    """A progress bar on standard error; nothing where that is not a terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),  # it may be the name of a file
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        # What goes to a file or a pipe must not be caught and shown above the bar.
        redirect_stdout=sys.stdout.isatty(),
    )


@contextmanager
def progress_bar(description: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Yields a function of (done, total)."""
    with make_progress(unit) as progress:
        task = progress.add_task(description, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
