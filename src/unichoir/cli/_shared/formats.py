"""Options of output: formats, and the look of subtitles."""

from dataclasses import dataclass, fields
from typing import Annotated, ClassVar

import typer

from unichoir.errors import DecodingError
from unichoir.transcript.formats import FORMATS, SUBTITLE_FORMATS, Format
from unichoir.transcript.subtitles import SubtitleOptions

FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORMAT[,...]",
        help=f"Output formats: {', '.join(FORMATS)}.",
        show_default="text",
    ),
]


def parse_formats(text: str) -> tuple[Format, ...]:
    """Return the formats in a list separated by commas, each once."""
    names = text.split(",")
    unknown = [name for name in names if name not in FORMATS]
    if unknown:
        raise typer.BadParameter(f"'{unknown[0]}' is not one of {', '.join(FORMATS)}", param_hint="--format")
    return tuple(name for name in FORMATS if name in names)


@dataclass(frozen=True, kw_only=True)
class SubtitleArguments:
    """The look of subtitles: `SubtitleOptions`, with its defaults for options that are left out."""

    PANEL: ClassVar[str] = "Subtitles"

    max_line_length: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Characters per line. Wide ones (Chinese, Japanese, Korean) count twice.",
            show_default=f"{SubtitleOptions.max_line_length}",
        ),
    ] = None
    max_lines: Annotated[
        int | None, typer.Option(metavar="N", help="Lines per subtitle.", show_default=f"{SubtitleOptions.max_lines}")
    ] = None
    min_cue: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            help="Shortest time that a subtitle is shown, if the next one leaves room.",
            show_default=f"{SubtitleOptions.min_seconds}",
        ),
    ] = None
    max_cue: Annotated[
        float | None,
        typer.Option(
            metavar="S", help="Longest time that a subtitle is shown.", show_default=f"{SubtitleOptions.max_seconds}"
        ),
    ] = None
    max_pause: Annotated[
        float | None,
        typer.Option(
            metavar="S", help="A longer pause ends a subtitle.", show_default=f"{SubtitleOptions.max_pause_seconds}"
        ),
    ] = None
    max_speed: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            help="Characters per second that people read. Subtitles stay long enough, if the next one leaves room.",
            show_default=f"{SubtitleOptions.max_speed}",
        ),
    ] = None

    def options(self, formats: tuple[Format, ...]) -> SubtitleOptions:
        """Return the options. Invalid values, and options without a format of subtitles, are errors of usage."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        given = {name: value for name, value in given.items() if value is not None}
        if given and not set(formats) & set(SUBTITLE_FORMATS):
            option = "--" + next(iter(given)).replace("_", "-")
            raise typer.BadParameter(f"needs --format {' or '.join(SUBTITLE_FORMATS)}", param_hint=option)
        try:
            return SubtitleOptions(**{_FIELDS.get(name, name): value for name, value in given.items()})
        except DecodingError as error:
            raise typer.BadParameter(str(error)) from None


_FIELDS = {"min_cue": "min_seconds", "max_cue": "max_seconds", "max_pause": "max_pause_seconds"}
