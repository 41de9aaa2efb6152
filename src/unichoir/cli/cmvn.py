"""`unichoir cmvn`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from unichoir.cli._shared.common import ManifestsArgument, note, progress_bar


def cmvn(
    manifests: ManifestsArgument,
    output: Annotated[Path, typer.Argument(metavar="OUT", help="JSON file to write.", show_default=False)],
    config: Annotated[
        Path | None,
        typer.Option(metavar="CONFIG", help="Experiment with the `fbank` section to use.", show_default=False),
    ] = None,
) -> None:
    """Compute the mean and variance of the features of manifests, in WeNet's global_cmvn format.

    Example:

        unichoir cmvn train.jsonl exp/cmvn.json
    """
    from unichoir.audio.fbank import FbankConfig
    from unichoir.data.cmvn import compute_cmvn
    from unichoir.data.features import FeatureReader
    from unichoir.data.manifest import read_manifest

    fbank = _fbank_of(config) if config else FbankConfig()
    utterances = [utterance for manifest in manifests for utterance in read_manifest(manifest)]
    with progress_bar("reading", "utterances") as progress:
        statistics, skipped = compute_cmvn(utterances, FeatureReader(fbank=fbank), progress)
    for skip in skipped:
        note(f"{skip.key} left out: {skip.reason}")
    output.parent.mkdir(parents=True, exist_ok=True)
    statistics.save(output)
    note(f"{output}: {statistics.frame_num} frames of {len(utterances) - len(skipped)} utterances")


def _fbank_of(config: Path) -> Any:
    from unichoir.api import training_extras

    with training_extras("reading an experiment's configuration"):
        from unichoir.training.config import load_experiment
    return load_experiment(config).fbank
