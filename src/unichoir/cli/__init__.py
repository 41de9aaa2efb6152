"""The command `unichoir`: one module for each command or group, collected here."""

import os
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Annotated

import typer

from unichoir import __version__
from unichoir.bundle.replacing import writing
from unichoir.cli._shared.common import ClosedStream, print_error
from unichoir.errors import UnichoirError

COMMANDS = (
    *("transcribe", "align", "stream", "evaluate", "train", "prepare", "shard", "upcycle", "plan", "pull", "export"),
    *("import-whisper", "import-wenet", "export-wenet", "serve", "benchmark", "models", "card", "cmvn"),
    *("tokenizer", "lm"),
)
"""In the order of `unichoir --help`. Each has a module, with a function of the same name or, for a group, an `app`."""


def make_app(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """Return the command line with these commands. Importing and preparing all of them takes longer than most runs."""
    app = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(epilog="Try: unichoir transcribe recording.flac")(root)
    for name in names:
        module = import_module(f"unichoir.cli.{name.replace('-', '_')}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            app.command(name)(getattr(module, name.replace("-", "_")))
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"unichoir {__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Speech in, text out: recognise speech, train recognisers and measure them.

    Exit codes: 0 success, 1 something failed and was reported, 2 the command line is wrong.
    """


def main() -> None:
    """Run the command line. Errors of unichoir become one line and exit code 1."""
    _replace_closed_streams()
    for output in (sys.stdout, sys.stderr):
        # A character that the terminal cannot show must not end the command.
        if hasattr(output, "reconfigure"):
            output.reconfigure(errors="backslashreplace")
    try:
        # A word that is no command needs all of them, to list them or to say what it resembles.
        chosen = [name for name in sys.argv[1:2] if name in COMMANDS]
        with writing(None):
            make_app(chosen or COMMANDS)(prog_name="unichoir")
    except UnichoirError as error:
        print_error(error)
        sys.exit(1)
    except BrokenPipeError:
        # The reader, such as `head`, has closed the pipe.
        _abandon_output()
        sys.exit(1)
    except OSError as error:
        print_error(UnichoirError(f"{error.filename}: {error.strerror}") if error.filename else error)
        _abandon_output()
        sys.exit(1)


def _replace_closed_streams() -> None:
    """Keep files that are opened later from taking a standard stream's number, and report results that are lost."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
            stream = open(number, "w") if name == "stderr" else ClosedStream(f"standard {name[3:]}put")  # noqa: SIM115
            setattr(sys, name, stream)


def _abandon_output() -> None:
    """Drop what could not be written. Otherwise Python complains once more when it closes the stream."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
