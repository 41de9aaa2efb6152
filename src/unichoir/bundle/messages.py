"""What pulling a model says on standard error: lines, and the progress of a download."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SHARES = 4
"""Without a terminal, a line is written after each of this many equal shares of a download."""


def say(text: str) -> None:
    """Write a line to standard error."""
    print(text, file=sys.stderr, flush=True)


def megabytes(size: int) -> str:
    """Return a size in bytes for people, in units of 1000."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.{0 if size >= 10 * unit else 1}f} {name}"
    return f"{size} bytes"


@contextmanager
def showing(name: str, begin: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show the progress of a download: a bar on a terminal, otherwise a line from time to time.

    begin, total: bytes that are there already, and all of them if known. Yields a function of the bytes done.
    """
    if not (sys.stderr and sys.stderr.isatty()):
        yield _lines(name, begin, total)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty()
    ) as progress:
        task = progress.add_task(name, total=total, completed=begin)
        yield lambda done: progress.update(task, completed=done)


def _lines(name: str, begin: int, total: int | None) -> Callable[[int], None]:
    said = SHARES * begin // total if total else 0

    def update(done: int) -> None:
        nonlocal said
        share = SHARES * done // total if total else 0
        if total and share > said:
            said = share
            say(f"{name}: {100 * share // SHARES} % of {megabytes(total)}")

    return update
