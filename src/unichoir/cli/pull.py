"""`unichoir pull`."""

from pathlib import Path
from typing import Annotated

import typer

from unichoir.cli._shared.common import note, write_line


def pull(
    source: Annotated[
        str,
        typer.Argument(
            metavar="NAME|DIR|ARCHIVE|URL|ORG/NAME",
            help="Published model (`unichoir models` lists them), WeNet folder or .tar.gz, or Hugging Face repository.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write the model here instead of the cache.", show_default=False),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Fetch and convert again what is there. Its SHA-256 must be the same.")
    ] = False,
) -> None:
    """Fetch a U2++ model that WeNet has published, or any WeNet checkpoint, and convert it for use by its name.

    The model becomes an int8 model, for every command with --model, and a float checkpoint beside it, for `upcycle`,
    `export` and training. Converting needs PyTorch (extra export), once; using the model doesn't.

    Commands with --model and `load_model` pull a published model at its first use.

    Models are kept in ~/.cache/unichoir, or where XDG_CACHE_HOME or UNICHOIR_CACHE say. A download that is stopped goes
    on with the next pull.

    Examples:

        unichoir pull wenet/librispeech && unichoir transcribe --model wenet/librispeech recording.wav

        unichoir pull my_exp.tar.gz --output my-model && unichoir serve --model my-model

        unichoir pull organisation/wenet-model && unichoir upcycle organisation/wenet-model exp/experts
    """
    from unichoir.api import export_extras

    with export_extras("unichoir pull"):
        from unichoir.export.pull import pull as run
    pulled = run(source, output, force=force)
    if not pulled.is_new:
        note(f"{pulled.name}: in the cache already ({pulled.directory}); --force fetches it again")
    note("use it as:")
    write_line(f"--model {pulled.name}")
