"""`unichoir import-wenet`."""

from pathlib import Path
from typing import Annotated

import typer

from unichoir.cli._shared.common import note


def import_wenet(
    wenet: Annotated[
        Path,
        typer.Argument(
            metavar="WENET", help="Folder with train.yaml, final.pt, units.txt and global_cmvn.", show_default=False
        ),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Checkpoint folder to write.", show_default=False)],
) -> None:
    """Turn a WeNet checkpoint (U2 or U2++, Conformer or Transformer) into a unichoir checkpoint. Weights stay the same.

    You can use OUT at once: `unichoir transcribe --model OUT`, `unichoir export OUT`, `unichoir upcycle OUT`, and as
    `init` of a training. Unsupported settings are refused by their key.

    Example:

        unichoir import-wenet aishell2_conformer exp/aishell2
    """
    from unichoir.api import training_extras

    with training_extras("unichoir import-wenet"):
        from unichoir.export.wenet import import_wenet as run
    for line in run(wenet, output):
        note(f"note: {line}")
    note(f"{output}: written")
