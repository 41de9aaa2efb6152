"""`unichoir transcribe`."""

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.progress import Progress, TaskID

from unichoir.cli.arguments import DeviceOption, LeftChunksOption, ModelArguments, SearchArguments
from unichoir.cli.common import make_progress, print_error, write_line
from unichoir.cli.fleet import FleetArguments, refuse
from unichoir.cli.grouping import grouped
from unichoir.decoding.hypothesis import Transcript
from unichoir.decoding.options import MODES, Mode
from unichoir.errors import UnichoirError

STANDARD_INPUT = "-"
Format = Literal["text", "json"]


@grouped
def transcribe(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE",
            help="WAV, FLAC, Ogg Vorbis, Ogg Opus or MP3; - for standard input. With --ray: manifests.",
        ),
    ],
    model: ModelArguments,
    search: SearchArguments,
    fleet: FleetArguments,
    decoding: Annotated[
        Mode, typer.Option(metavar="MODE", help=f"How words are searched: {', '.join(MODES)}.")
    ] = "attention_rescoring",
    chunk_size: Annotated[
        int, typer.Option(min=0, metavar="N", help="Encoder frames (40 ms each) seen at once, as in streaming; 0: all.")
    ] = 0,
    num_left_chunks: LeftChunksOption = -1,
    output_format: Annotated[
        Format | None, typer.Option("--format", help="What is written for each file.", show_default="text")
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write NAME.txt or NAME.json here, not to standard output.", show_default=False
        ),
    ] = None,
    device: DeviceOption = "cpu",
) -> None:
    """Write down what is said in recordings.

    Text comes without a file name for one file and after it for several; JSON is one object per line with words, times
    in ms, confidence and the n-best list. A file that cannot be read is reported, the others are done, and the exit
    code is 1.

    Examples:

        unichoir transcribe recording.flac

        unichoir transcribe *.wav --format json --output-dir transcripts

        sox recording.raw -t wav - | unichoir transcribe - --chunk-size 16

        unichoir transcribe --ray local train.jsonl dev.jsonl --output transcripts
    """
    if files.count(STANDARD_INPUT) > 1:
        raise typer.BadParameter("standard input (-) can be read once only", param_hint="FILE")
    options = search.decoding_options(mode=decoding, chunk_size=chunk_size, num_left_chunks=num_left_chunks)
    if fleet.ray is not None:
        refuse({"--output-dir": output_dir, "--format text": output_format == "text"}, "has no place with --ray")
        fleet.transcribe(files, model, device, options)
        return
    fleet.check_unused()
    output_format = output_format or "text"
    loaded = model.load(device)
    outputs = plan_outputs(files, output_dir, output_format) if output_dir else [None] * len(files)
    if not _transcribe_all(partial(loaded.transcribe, options=options), files, outputs, output_format):
        raise typer.Exit(1)


def _transcribe_all(
    recognise: Callable[..., Transcript], files: Sequence[str], outputs: Sequence[Path | None], output_format: Format
) -> bool:
    """Transcribe one file after another; False when some of them could not be."""
    num_failed = 0
    with make_progress("files") as bar:
        task = bar.add_task("transcribing", total=len(files))
        for place, (name, output) in enumerate(zip(files, outputs, strict=True)):
            bar.update(task, description=name, completed=place)
            source = sys.stdin.buffer if name == STANDARD_INPUT else name
            try:
                transcript = recognise(source, progress=partial(_advance, bar, task, place))
            except UnichoirError as error:
                print_error(error)
                num_failed += 1
                continue
            _write(transcript, name, output_format, output, named=len(files) > 1)
    return num_failed == 0


def _advance(bar: Progress, task: TaskID, files_done: int, done: float, total: float) -> None:
    bar.update(task, completed=files_done + done / total)


def _write(transcript: Transcript, name: str, output_format: Format, output: Path | None, named: bool) -> None:
    if output_format == "json":
        text = json.dumps({"file": name, **transcript.to_dict()}, ensure_ascii=False)
    else:
        text = f"{name}: {transcript.text}" if named and output is None else transcript.text
    if output is None:
        write_line(text)
    else:
        output.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def plan_outputs(files: Sequence[str], directory: Path, output_format: Format) -> list[Path]:
    """A path of its own for each file, the directory made; where names are the same, later ones get -2, -3, ..."""
    directory.mkdir(parents=True, exist_ok=True)
    suffix = {"text": ".txt", "json": ".json"}[output_format]
    # Compared without case: some file systems do not know it.
    stems = ["stdin" if name == STANDARD_INPUT else Path(name).stem for name in files]
    taken: set[str] = set()
    reserved = {stem.casefold() for stem in stems}
    outputs = []
    for stem in stems:
        name, number = stem, 1
        while name.casefold() in taken or (number > 1 and name.casefold() in reserved):
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        outputs.append(directory / f"{name}{suffix}")
    return outputs
