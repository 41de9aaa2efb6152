"""How far a run has come, its best checkpoints, and their average."""

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
    """A kept checkpoint and what it scored on dev; smaller is better."""

    step: int
    score: float
    loss: float

    @property
    def name(self) -> str:
        return f"step-{self.step:08d}"


@dataclass(kw_only=True)
class Progress:
    """Where a run stands between two updates. The gradient is always applied, so no part of one is carried over."""

    step: int = 0
    """Updates made."""
    batches_per_update: int = 1
    """Of all processes together; a run keeps it when it goes on with another number of processes."""
    position: Position = field(default_factory=Position)
    validated_step: int = 0
    seconds: float = 0.0
    audio_seconds: float = 0.0
    skipped: dict[str, str] = field(default_factory=dict)
    """Utterances that could not be used, by key, and why."""
    best: list[BestCheckpoint] = field(default_factory=list)
    """The kept checkpoints, the best first."""

    def to_state(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Progress":
        best = [BestCheckpoint(**entry) for entry in state["best"]]
        return cls(**{**state, "position": Position(**state["position"]), "best": best})


def rank(best: Sequence[BestCheckpoint], new: BestCheckpoint, keep: int) -> list[BestCheckpoint]:
    """The `keep` best of the old and the new one, the best first; at equal scores the smaller loss, then the older."""
    return sorted([*best, new], key=lambda entry: (entry.score, entry.loss, entry.step))[:keep]


def average_weights(directories: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of the weights of several checkpoint directories, tensor by tensor, summed in float64.

    Integer tensors (counters) are taken from the first. Raises CheckpointError for a missing or differing file,
    and for one that is not as it was written.
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
            raise CheckpointError(f"{path}: has other weights than {paths[0]}: {min(names ^ set(file.keys()))}")
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
    """Delete checkpoints of this trainer that are not among the best: overtaken, or left by a cut-off run."""
    kept = {entry.name for entry in best}
    for path in [*folder.glob("step-????????"), *folder.glob(".step-????????.tmp")]:
        if path.name not in kept:
            shutil.rmtree(path)
