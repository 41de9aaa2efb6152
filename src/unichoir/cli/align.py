"""`unichoir align`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from unichoir.cli.arguments import DeviceOption, LanguageOption, ModelArguments
from unichoir.cli.common import note, progress_bar
from unichoir.cli.formats import SubtitleArguments
from unichoir.cli.grouping import grouped
from unichoir.decoding.formats import FORMATS, Format, write_transcript
from unichoir.errors import DecodingError


@grouped
def align(
    audio: Annotated[str, typer.Argument(metavar="AUDIO", help="The recording, of any length.", show_default=False)],
    model: ModelArguments,
    subtitles: SubtitleArguments,
    text_file: Annotated[
        Path | None,
        typer.Argument(metavar="[TEXT]", help="File with what is said in it, UTF-8.", show_default=False),
    ] = None,
    text: Annotated[
        str | None, typer.Option(metavar="STRING", help="What is said, in place of a file.", show_default=False)
    ] = None,
    output_format: Annotated[
        Format, typer.Option("--format", metavar="|".join(FORMATS), help="What is written.")
    ] = "json",
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write here, not to standard output.", dir_okay=False, show_default=False),
    ] = None,
    language: LanguageOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Find when each word of a known text is said (forced alignment).

    Lines of the text become segments in JSON, TSV and TextGrids, and end subtitles. A text that does
    not seem to be what is said is aligned all the same, with a warning on standard error.

    Examples:

        unichoir align recording.flac text.txt --format textgrid --output recording.TextGrid

        unichoir align recording.flac --text "SIX FOUR EIGHT THREE" --format ctm
    """
    from unichoir.decoding.forced import LOW_CONFIDENCE, words_by_line
    from unichoir.decoding.options import DecodingOptions

    shown = subtitles.options((output_format,))
    if (text is None) == (text_file is None):
        raise typer.BadParameter("a file or --text, one of them", param_hint="TEXT")
    if model.lm is not None:
        raise typer.BadParameter("has no part in an alignment: the words are known", param_hint="--lm")
    if text is None:
        text = _read(text_file or Path())
    loaded = model.load(device)
    with progress_bar("aligning", "s") as bar:
        transcript = loaded.align(
            audio,
            text,
            options=DecodingOptions(language=language),
            progress=lambda done, total: bar(round(done), round(total)),
        )
    lines = words_by_line(transcript.words, text)
    written = write_transcript(transcript, output_format, audio, shown, segments=lines)
    if output is None:
        sys.stdout.write(written)
    else:
        output.write_text(written, encoding="utf-8", errors="backslashreplace", newline="\n")
    if transcript.confidence < LOW_CONFIDENCE:
        note(f"warning: {audio}: confidence {transcript.confidence:.2f}: the text may not be what is said")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DecodingError(f"{path}: not UTF-8") from None
