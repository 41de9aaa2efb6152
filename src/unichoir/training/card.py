"""The model card of a training run."""

import shlex
from pathlib import Path

import yaml

from unichoir.bundle.card import DATA, TRAINING, Card
from unichoir.configuration import to_mapping
from unichoir.network.facts import model_facts
from unichoir.training.checkpointing import Progress
from unichoir.training.setup import Setup
from unichoir.training.validation import Validation


def training_card(setup: Setup, progress: Progress, measured: Validation | None, output: Path) -> Card:
    """Return the card of the averaged model in `output`. measured: its results on dev, None if interrupted."""
    card = Card.new(output.resolve().name)
    card.state_model(model_facts(setup.config.model))
    count, hours = setup.corpus.num_utterances, setup.corpus.seconds / 3600
    card.sections[DATA] = f"{count} utterances, {hours:.2f} hours: {', '.join(setup.train_manifests)}"
    options = (("--train", setup.train_manifests), ("--dev", setup.dev_manifests))
    manifests = [word for option, names in options for name in names for word in (option, name)]
    command = shlex.join(["unichoir", "train", "config.yaml", *manifests, "--output", str(output)])
    summary = (
        f"{progress.step} updates, {progress.position.epochs_done:.1f} epochs, {progress.audio_seconds / 3600:.2f} "
        f"hours of speech; average of the {min(setup.config.trainer.average_best, len(progress.best))} "
        "best checkpoints on dev."
    )
    if measured is not None:
        rates = f"{measured.wer:.2%} word errors, {measured.ter:.2%} token errors"
        summary += f" On dev: {rates} (CTC greedy search, full context)."
    settings = yaml.safe_dump(to_mapping(setup.config), sort_keys=False)
    card.sections[TRAINING] = f"{summary}\n\n```sh\n{command}\n```\n\n`config.yaml`:\n\n```yaml\n{settings}```"
    return card
