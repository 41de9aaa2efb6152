"""`unichoir import-wenet` and `unichoir export-wenet`."""

from pathlib import Path
from typing import Annotated

import typer

from unichoir.cli.common import note


def import_wenet(
    wenet: Annotated[
        Path,
        typer.Argument(
            metavar="WENET", help="Folder with train.yaml, final.pt, units.txt and global_cmvn.", show_default=False
        ),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Checkpoint folder to write.", show_default=False)],
) -> None:
    """Turn a WeNet checkpoint (U2++ Conformer, dense or MoE) into one of ours: no weight changes.

    OUT can be used at once: `unichoir transcribe --model OUT`, `unichoir export OUT`, `unichoir upcycle OUT`, and as
    `init` of a training. What cannot be represented is refused with its key.

    Example:

        unichoir import-wenet aishell2_conformer exp/aishell2
    """
    from unichoir.api import training_extras

    with training_extras("unichoir import-wenet"):
        from unichoir.export.wenet import import_wenet as run
    for line in run(wenet, output):
        note(f"note: {line}")
    note(f"{output}: written")


def export_wenet(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="Folder of a checkpoint.", show_default=False)
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="WeNet folder to write.", show_default=False)],
) -> None:
    """Turn a checkpoint into WeNet's files: train.yaml, final.pt, units.txt, global_cmvn. No weight changes.

    What WeNet cannot express, such as rotary positions, is refused with its key.

    Example:

        unichoir export-wenet exp/average wenet/exp/average
    """
    from unichoir.api import training_extras

    with training_extras("unichoir export-wenet"):
        from unichoir.export.wenet import export_wenet as run
    for line in run(checkpoint, output):
        note(f"note: {line}")
    note(f"{output}: written")
