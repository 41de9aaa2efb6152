"""`unichoir transcribe`."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unichoir.cli._shared.arguments import (
    ChannelOption,
    DeviceOption,
    HotwordArguments,
    ModelArguments,
    StrictOption,
    WrittenArguments,
    parse_channel,
    refuse_unused,
)
from unichoir.cli._shared.common import (
    STANDARD_INPUT,
    AnyProgress,
    make_progress,
    print_error,
    refuse,
    warn,
    write_whole,
)
from unichoir.cli._shared.fleet import FleetArguments
from unichoir.cli._shared.formats import FormatOption, SubtitleArguments, parse_formats
from unichoir.cli._shared.grouping import grouped
from unichoir.cli._shared.options import Chosen
from unichoir.errors import UnichoirError
from unichoir.recognition.options import DecodingOptions
from unichoir.transcript.formats import LINE_FORMATS, SUFFIXES, Format, write_transcript
from unichoir.transcript.results import Transcript
from unichoir.transcript.subtitles import SubtitleOptions

if TYPE_CHECKING:
    from rich.progress import TaskID


@grouped
def transcribe(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE",
            help="WAV, FLAC, Ogg, MP3, ... The extra av adds MP4, WebM and most others. - is standard input. "
            "With --ray: manifests.",
        ),
    ],
    model: ModelArguments,
    decoding: Chosen[DecodingOptions],
    hotwords: HotwordArguments,
    written: WrittenArguments,
    subtitles: SubtitleArguments,
    fleet: FleetArguments,
    channel: ChannelOption = None,
    strict: StrictOption = False,
    output_format: FormatOption = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder for NAME.txt, NAME.srt, ..., in place of standard output.", show_default=False
        ),
    ] = None,
    device: DeviceOption = "cpu",
) -> None:
    """Transcribe recordings.

    Text of several files starts with the file name. JSON is one object per line, with words, times in ms, confidence
    and the n-best list. Several formats, and subtitles, TSV or TextGrids of several files, need --output-dir. Files
    that cannot be read are reported, the others are transcribed, and the exit code is 1. Of damaged files, the readable
    part is transcribed, with a warning on standard error.

    Examples:

        unichoir transcribe recording.flac

        unichoir transcribe *.wav --format json --output-dir transcripts

        unichoir transcribe film.flac --format srt --max-line-length 37 > film.srt

        sox recording.raw -t wav - | unichoir transcribe - --chunk-size 16

        unichoir transcribe call.wav --channel each

        unichoir transcribe --ray local train.jsonl dev.jsonl --output transcripts
    """
    if files.count(STANDARD_INPUT) > 1:
        raise typer.BadParameter("standard input (-) can be read once only", param_hint="FILE")
    options = decoding.make(hotwords=hotwords.read(), written=written.form())
    refuse_unused(options, model.lm)
    if fleet.ray is not None:
        refuse({"--output-dir": output_dir, "--channel": channel, "--strict": strict}, "cannot be used with --ray")
        formats = parse_formats(output_format or "json")
        fleet.transcribe(files, model, device, options, formats, subtitles.options(formats))
        return
    fleet.check_unused()
    formats = parse_formats(output_format or "text")
    _check_output(formats, len(files), output_dir is not None)
    shown = subtitles.options(formats)
    chosen = parse_channel(channel)
    loaded = model.load(device)
    outputs = plan_outputs(files, output_dir, formats) if output_dir else None
    write = partial(_write, files, formats, shown, outputs)
    recognise = partial(loaded.transcribe, options=options, channel=chosen, strict=strict)
    if not _transcribe_all(recognise, files, write):
        raise typer.Exit(1)


def _check_output(formats: Sequence[Format], num_files: int, has_directory: bool) -> None:
    """Refuse output that standard output cannot separate."""
    if has_directory:
        return
    if len(formats) > 1:
        raise typer.BadParameter("several formats need --output-dir", param_hint="--format")
    if num_files > 1 and formats[0] not in ("text", *LINE_FORMATS):
        raise typer.BadParameter(f"{formats[0]} of several files needs --output-dir", param_hint="--format")


def _transcribe_all(
    recognise: Callable[..., Transcript], files: Sequence[str], write: Callable[[Transcript, int], None]
) -> bool:
    """Transcribe one file after another. Return False if some of them failed.

    write: takes each transcript and the number of its file.
    """
    num_failed = 0
    with make_progress("s") as bar:
        overall = bar.add_task("transcribing", total=len(files), unit="files", visible=len(files) > 1)
        for place, name in enumerate(files):
            task = bar.add_task(name, total=None)
            source = sys.stdin.buffer if name == STANDARD_INPUT else name
            try:
                write(recognise(source, progress=partial(_advance, bar, task, overall, place)), place)
            except UnichoirError as error:
                print_error(error)
                num_failed += 1
            bar.remove_task(task)
            bar.update(overall, completed=place + 1)
    return num_failed == 0


def _advance(bar: AnyProgress, task: "TaskID", overall: "TaskID", files_done: int, done: float, total: float) -> None:
    """Show the progress of one file, in seconds, and advance the bar of all files by the same share."""
    bar.update(task, completed=done, total=total)
    bar.update(overall, completed=files_done + done / total)


def _write(
    files: Sequence[str],
    formats: Sequence[Format],
    subtitles: SubtitleOptions,
    outputs: Sequence[Mapping[Format, Path]] | None,
    transcript: Transcript,
    place: int,
) -> None:
    warn(transcript.warnings)
    name, failures = files[place], []
    for output_format in formats:
        content = write_transcript(transcript, output_format, name, subtitles)
        if outputs is not None:
            try:
                write_whole(outputs[place][output_format], content)
            except UnichoirError as error:
                failures.append(str(error))
        else:
            named = output_format == "text" and len(files) > 1
            lines = content.splitlines(keepends=True)
            sys.stdout.write("".join(f"{name}: {line}" for line in lines) if named else content)
            sys.stdout.flush()
    if failures:
        raise UnichoirError("; ".join(failures))


def plan_outputs(files: Sequence[str], directory: Path, formats: Sequence[Format]) -> list[dict[Format, Path]]:
    """Return separate paths for each file and make the directory. Later files of the same name get -2, -3, ..."""
    directory.mkdir(parents=True, exist_ok=True)

    def names(stem: str) -> set[str]:
        # Some file systems ignore case.
        return {f"{stem}{SUFFIXES[output_format]}".casefold() for output_format in formats}

    stems = ["stdin" if name == STANDARD_INPUT else Path(name).stem for name in files]
    taken: set[str] = set()
    reserved = set().union(*map(names, stems))
    outputs = []
    for stem in stems:
        name, number = stem, 1
        while names(name) & taken or (number > 1 and names(name) & reserved):
            number += 1
            name = f"{stem}-{number}"
        taken |= names(name)
        outputs.append({output_format: directory / f"{name}{SUFFIXES[output_format]}" for output_format in formats})
    return outputs
