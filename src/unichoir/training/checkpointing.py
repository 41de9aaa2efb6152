"""The progress of a run, its best checkpoints, and their average."""

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from unichoir.bundle.sums import check_sums
from unichoir.errors import CheckpointError
from unichoir.training.feeding import Position

WEIGHTS = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class BestCheckpoint:
    """A kept checkpoint and its results on dev; lower is better."""

    step: int
    score: float
    loss: float

    @property
    def name(self) -> str:
        return f"step-{self.step:08d}"


@dataclass(kw_only=True)
class Progress:
    """The progress of a run between two updates. No update is stored partially."""

    step: int = 0
    """Number of updates made."""
    batches_per_update: int = 1
    """Batches per update over all processes. A run keeps this number if it continues with other processes."""
    position: Position = field(default_factory=Position)
    validated_step: int = 0
    seconds: float = 0.0
    audio_seconds: float = 0.0
    skipped: dict[str, str] = field(default_factory=dict)
    """Utterances that could not be used, by key, and the reasons."""
    best: list[BestCheckpoint] = field(default_factory=list)
    """The kept checkpoints, the best first."""

    def to_state(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Progress":
        best = [BestCheckpoint(**entry) for entry in state["best"]]
        return cls(**{**state, "position": Position(**state["position"]), "best": best})


def rank(best: Sequence[BestCheckpoint], new: BestCheckpoint, keep: int) -> list[BestCheckpoint]:
    """Return the `keep` best checkpoints, the best first. Ties are decided by lower loss, then by age."""
    return sorted([*best, new], key=lambda entry: (entry.score, entry.loss, entry.step))[:keep]


def average_weights(directories: Sequence[Path]) -> dict[str, Tensor]:
    """Return the mean of the weights of several checkpoint directories, summed in float64.

    Integer tensors (counters) are taken from the first. Raises CheckpointError for missing, differing or damaged files.
    """
    for directory in directories:
        check_sums(directory)
    paths = [directory / WEIGHTS for directory in directories]
    try:
        files: list[Any] = [safe_open(path, framework="pt") for path in paths]
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{paths[0].parent.parent}: checkpoints to average cannot be read: {error}") from None
    names = set(files[0].keys())
    for path, file in zip(paths, files, strict=True):
        if set(file.keys()) != names:
            raise CheckpointError(
                f"{path}: its weights differ from those of {paths[0]}: {min(names ^ set(file.keys()))}"
            )
    averaged: dict[str, Tensor] = {}
    for name in sorted(names):
        first = files[0].get_tensor(name)
        if first.is_floating_point():
            total = first.double()
            for file in files[1:]:
                total += file.get_tensor(name)
            averaged[name] = (total / len(files)).to(first.dtype)
        else:
            averaged[name] = first
    return averaged


def remove_strays(folder: Path, best: Sequence[BestCheckpoint]) -> None:
    """Delete this trainer's checkpoints that are not among the best, including those of an interrupted run."""
    kept = {entry.name for entry in best}
    for path in [*folder.glob("step-????????"), *folder.glob(".step-????????.tmp")]:
        if path.name not in kept:
            shutil.rmtree(path)
