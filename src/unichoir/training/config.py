"""What a training run is: one YAML file, checked key by key."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from unichoir.audio.augment import AugmentConfig
from unichoir.audio.fbank import FbankConfig
from unichoir.configuration import from_mapping, to_mapping
from unichoir.data.dataset import DataConfig
from unichoir.errors import ConfigError
from unichoir.network.checkpoint import read_yaml
from unichoir.network.config import NAMED_CONFIGS, ModelConfig
from unichoir.training.distillation import TeacherConfig
from unichoir.training.optim import OptimConfig
from unichoir.training.parallel import ParallelConfig


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How long to train, how often to look, and on what."""

    max_epochs: int | None = None
    """Passes over the training data."""
    max_steps: int | None = None
    """Updates. With both, whichever comes first; at least one is needed: the learning rate is planned over it."""
    max_minutes: float | None = None
    """Stop cleanly after so much time, resumed runs counted together; the learning rate does not know of it."""
    accumulate: int = 1
    """Batches per update, of all processes together; at least one for each of them."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast; weights and optimizer state stay fp32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute. auto: on a GPU where PyTorch finds one."""
    seed: int = 0
    """Of everything that is random: weights, order, augmentation, dropout."""
    num_workers: int = 0
    """Processes that read audio; 0 reads in this one. The weights do not depend on it."""
    num_threads: int = 0
    """Threads of one torch operation on CPU; 0 leaves torch's choice."""
    log_every: int = 20
    """Updates between two lines of the log."""
    validate_every: int = 0
    """Updates between two validations; 0 validates after every epoch."""
    checkpoint_every_seconds: float = 300.0
    """Time between two checkpoints to go on from."""
    checkpoint_every_steps: int = 0
    """Also after so many updates; 0: by time alone. A run stopped by a signal writes one before it leaves."""
    select_by: Literal["wer", "ter", "loss"] = "ter"
    """What makes a checkpoint the best on dev: word or token error rate of greedy CTC decoding, or the loss."""
    keep_best: int = 5
    """How many of the best checkpoints are kept."""
    average_best: int = 5
    """How many of the kept checkpoints the final average is made of."""
    wandb_project: str | None = None
    """Weights & Biases project that gets the same figures as TensorBoard."""

    def __post_init__(self) -> None:
        if self.max_epochs is None and self.max_steps is None:
            raise ConfigError("one of max_epochs and max_steps is needed")
        for name in ("max_epochs", "max_steps", "max_minutes", "accumulate", "log_every", "keep_best", "average_best"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be above 0, found {value}")
        for name in ("seed", "num_workers", "num_threads", "validate_every", "checkpoint_every_steps"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, found {getattr(self, name)}")
        if self.checkpoint_every_seconds <= 0:
            raise ConfigError(f"checkpoint_every_seconds must be above 0, found {self.checkpoint_every_seconds}")
        if self.average_best > self.keep_best:
            raise ConfigError(f"average_best ({self.average_best}) is more than keep_best ({self.keep_best})")


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """A whole training run but for its data. Paths are as given: relative ones to the current directory."""

    tokenizer: str
    """Folder with `units.txt` and, for BPE, `bpe.model`."""
    model: ModelConfig
    """On disk also `{name: NAMED, ...}`: a named configuration with some of its keys changed."""
    cmvn: str | None = None
    """Statistics of the features (JSON); without it they are computed from the training data first."""
    init: str | None = None
    """Checkpoint directory to start from, of the same shapes and vocabulary."""
    init_encoder: str | None = None
    """Checkpoint directory whose encoder and feature statistics to start from: vocabulary and decoders may differ."""
    teacher: TeacherConfig | None = None
    """An encoder that sees whole utterances, to whose frames ours keeps: how a pretrained one learns chunks."""
    feature_cache: str | None = None
    """Folder for computed features: faster from the second epoch on; 32 kB per second of speech and speed."""
    fbank: FbankConfig = field(default_factory=FbankConfig)
    """How samples become features."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Random changes to audio and features."""
    data: DataConfig = field(default_factory=DataConfig)
    """Which utterances are used, and how they are batched."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimizer and its learning rate."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """How several processes share the work."""
    trainer: TrainerConfig
    """How long to train, how often to validate, and on what."""

    def __post_init__(self) -> None:
        sides = ("left_decoder", "right_decoder") if self.model.decoder.num_reverse_blocks else ("left_decoder",)
        if self.model.ctc_weight == 1 and any(self.optim.rates.get(side) != 0 for side in sides):
            raise ConfigError(f"model.ctc_weight 1 trains no decoder: set optim.rates of {' and '.join(sides)} to 0")
        if self.init is not None and self.init_encoder is not None:
            raise ConfigError("init and init_encoder: only one can be where training starts")


# May differ between a run and its continuation: they steer when to look, how fast and for how long, not what is learnt.
FREE_KEYS = frozenset(
    {
        "feature_cache",
        *(f"parallel.{name}" for name in to_mapping(ParallelConfig())),
        "trainer.max_epochs",
        "trainer.max_steps",
        "trainer.max_minutes",
        "trainer.num_workers",
        "trainer.log_every",
        "trainer.checkpoint_every_seconds",
        "trainer.checkpoint_every_steps",
        "trainer.average_best",
        "trainer.wandb_project",
    }
)


def load_experiment(path: str | os.PathLike[str]) -> ExperimentConfig:
    """Read an experiment's YAML file. Raises ConfigError naming the file and the key that is wrong."""
    return experiment_from_mapping(read_yaml(Path(path)), str(path))


def experiment_from_mapping(mapping: object, where: str) -> ExperimentConfig:
    """Build the configuration from a mapping whose `model` may start from a named one. Raises ConfigError."""
    if isinstance(mapping, Mapping) and isinstance(mapping.get("model"), (str, Mapping)):
        mapping = {**mapping, "model": _expand_model(mapping["model"], f"{where}: model")}
    return from_mapping(ExperimentConfig, mapping, where)


def first_difference(old: ExperimentConfig, new: ExperimentConfig) -> str | None:
    """The first key by which two configurations would learn differently, with both values; None if there is none."""
    before, after = _flatten(to_mapping(old)), _flatten(to_mapping(new))
    for key in sorted((before.keys() | after.keys()) - FREE_KEYS):
        if before.get(key) != after.get(key):
            return f"{key} (was {before.get(key)!r}, now {after.get(key)!r})"
    return None


def _expand_model(model: str | Mapping[str, Any], where: str) -> Mapping[str, Any]:
    changes = {"name": model} if isinstance(model, str) else dict(model)
    if "name" not in changes:
        return changes
    name = changes.pop("name")
    if name not in NAMED_CONFIGS:
        raise ConfigError(f"{where}: unknown name {name!r} (known: {', '.join(sorted(NAMED_CONFIGS))})")
    return _merge(to_mapping(NAMED_CONFIGS[name]), changes)


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
