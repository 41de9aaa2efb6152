"""`unichoir export-wenet`."""

from pathlib import Path
from typing import Annotated

import typer

from unichoir.cli._shared.common import note


def export_wenet(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="Folder of a checkpoint.", show_default=False)
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="WeNet folder to write.", show_default=False)],
) -> None:
    """Turn a checkpoint into WeNet's files: train.yaml, final.pt, units.txt, global_cmvn. Weights stay the same.

    Settings that WeNet doesn't have, such as rotary positions, are refused by their key.

    Example:

        unichoir export-wenet exp/average wenet/exp/average
    """
    from unichoir.api import training_extras

    with training_extras("unichoir export-wenet"):
        from unichoir.export.wenet import export_wenet as run
    for line in run(checkpoint, output):
        note(f"note: {line}")
    note(f"{output}: written")
