"""Progress bars, messages, and checks of option values."""

import errno
import io
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeAlias, TypeVar, cast

import typer

from unichoir.bundle.replacing import replacing
from unichoir.errors import UnichoirError
from unichoir.search.options import MODES, Mode

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

T = TypeVar("T")
AnyProgress: TypeAlias = "Progress | HiddenProgress"

STANDARD_INPUT = "-"
# Text, because a Path breaks URLs.
ManifestsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="MANIFEST",
        help="Path or URL: JSON lines, Kaldi folder, shards (unichoir's or WeNet's), lhotse cuts or Shar.",
        show_default=False,
    ),
]


def parse_modes(text: str) -> list[Mode]:
    """Return the modes for `all`, or for names separated by commas."""
    if text == "all":
        return list(MODES)
    modes = [mode for mode in MODES if mode in text.split(",")]
    unknown = set(text.split(",")) - set(modes)
    if unknown:
        raise typer.BadParameter(f"'{min(unknown)}' is not one of all, {', '.join(MODES)}", param_hint="--decoding")
    return modes


def parse_chunk_sizes(text: str) -> list[int | None]:
    """Return chunk sizes from a list separated by commas. `full` or 0 is the whole utterance."""
    sizes: list[int | None] = []
    for word in text.split(","):
        if word != "full" and not (word.isascii() and word.isdecimal()):
            raise typer.BadParameter(f"'{word}' is neither 'full' nor a number of frames", param_hint="--chunk-size")
        size = None if word == "full" else int(word) or None
        if size not in sizes:
            sizes.append(size)
    return sizes


def refuse(options: Mapping[str, object], why: str) -> None:
    """Raise an error of usage for the first of these options that was given."""
    for name, value in options.items():
        if value is not None and value is not False:
            raise typer.BadParameter(why, param_hint=name)


def write_line(text: str) -> None:
    """Write a line to standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def size_of(directory: Path) -> str:
    """Return the size of all files in a folder, for people."""
    return f"{sum(path.stat().st_size for path in directory.rglob('*') if path.is_file()) / 1e6:.1f} MB"


def note(text: str) -> None:
    """Write a line to standard error."""
    print(text, file=sys.stderr, flush=True)


def print_error(error: Exception) -> None:
    """Write an error to standard error, on one line."""
    note(f"error: {' '.join(str(error).split())}")


def warn(lines: Iterable[str]) -> None:
    """Write warnings to standard error, one per line."""
    for line in lines:
        note(f"warning: {' '.join(line.split())}")


def write_whole(path: Path, text: str) -> None:
    """Write a file, which gets its name when it is complete, or write to a pipe or a device.

    Raises UnichoirError naming the file.
    """
    content = text.encode("utf-8", errors="backslashreplace")
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(content)
        else:
            with replacing(path) as file:
                file.write(content)
    except OSError as error:
        raise UnichoirError(f"{path}: {error.strerror or error}") from None


class ClosedStream(io.TextIOBase):
    """Stands for a standard stream that was closed before the program started. Reading and writing fail."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def buffer(self) -> "ClosedStream":
        """Return the stream of bytes."""
        return self

    def read(self, size: int | None = -1) -> NoReturn:
        """Raises OSError."""
        raise OSError(errno.EBADF, "is closed", self.name)

    def write(self, text: str) -> NoReturn:
        """Raises OSError."""
        raise OSError(errno.EBADF, "is closed", self.name)


class HiddenProgress:
    """What commands use of rich's `Progress`, when nobody sees it. rich takes long to import."""

    def __enter__(self) -> "HiddenProgress":
        return self

    def __exit__(self, *raised: object) -> None: ...

    def add_task(self, description: str, **fields: object) -> "TaskID":
        """Return a number that stands for all tasks."""
        return cast("TaskID", 0)

    def update(self, task: "TaskID", **fields: object) -> None:
        """Show nothing."""

    def remove_task(self, task: "TaskID") -> None:
        """Show nothing."""

    def track(self, sequence: Iterable[T], *, description: str) -> Iterable[T]:
        """Return the sequence."""
        return sequence


def make_progress(unit: str) -> AnyProgress:
    """Return a progress bar on standard error, invisible without a terminal. unit: for tasks without a field `unit`."""
    return make_bar(unit) if sys.stderr.isatty() else HiddenProgress()


def make_bar(unit: str) -> "Progress":
    """Return the visible progress bar of `make_progress`."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class UnitColumn(ProgressColumn):
        """The unit of the count: a task's field `unit`, or the default."""

        def render(self, task: Task) -> Text:
            """Return the text, as rich requires."""
            return Text(task.fields.get("unit", unit))

    return Progress(
        TextColumn("{task.description}", markup=False),  # can be a file name
        BarColumn(),
        MofNCompleteColumn(),
        UnitColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        # Rich must not catch output for files and pipes, and show it above the bar.
        redirect_stdout=sys.stdout.isatty(),
    )


@contextmanager
def progress_bar(description: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar. Yields a function of (done, total)."""
    with make_progress(unit) as progress:
        task = progress.add_task(description, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
