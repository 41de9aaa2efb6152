"""The command `unichoir`: one module for each command or group, collected here."""

import os
import sys
from typing import Annotated

import typer

from unichoir import __version__
from unichoir.bundle.replacing import writing
from unichoir.cli import (
    align,
    benchmark,
    card,
    cmvn,
    evaluate,
    export,
    export_wenet,
    import_wenet,
    import_whisper,
    lm,
    models,
    plan,
    prepare,
    pull,
    serve,
    shard,
    stream,
    tokenizer,
    train,
    transcribe,
    upcycle,
)
from unichoir.cli._shared.common import ClosedStream, print_error
from unichoir.errors import UnichoirError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("transcribe")(transcribe.transcribe)
app.command("align")(align.align)
app.command("stream")(stream.stream)
app.command("evaluate")(evaluate.evaluate)
app.command("train")(train.train)
app.command("prepare")(prepare.prepare)
app.command("shard")(shard.shard)
app.command("upcycle")(upcycle.upcycle)
app.command("plan")(plan.plan)
app.command("pull")(pull.pull)
app.command("export")(export.export)
app.command("import-whisper")(import_whisper.import_whisper)
app.command("import-wenet")(import_wenet.import_wenet)
app.command("export-wenet")(export_wenet.export_wenet)
app.command("serve")(serve.serve)
app.command("benchmark")(benchmark.benchmark)
app.command("models")(models.models)
app.command("card")(card.card)
app.command("cmvn")(cmvn.cmvn)
app.add_typer(tokenizer.app, name="tokenizer")
app.add_typer(lm.app, name="lm")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"unichoir {__version__}")
        raise typer.Exit


@app.callback(epilog="Try: unichoir transcribe recording.flac")
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
        with writing(None):
            app(prog_name="unichoir")
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
