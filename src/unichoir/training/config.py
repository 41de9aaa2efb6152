"""The configuration of a training run: one YAML file, checked key by key."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from unichoir.audio.augment import AugmentConfig
from unichoir.audio.fbank import FbankConfig
from unichoir.configuration import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, check_ranges, from_mapping, to_mapping
from unichoir.data.dataset import DataConfig
from unichoir.errors import ConfigError
from unichoir.network.checkpoint import read_yaml
from unichoir.network.config import NAMED_CONFIGS, ModelConfig
from unichoir.training.distillation import TeacherConfig
from unichoir.training.optim import OptimConfig
from unichoir.training.parallel import ParallelConfig


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Training duration, validation, checkpoints, and the device."""

    max_epochs: int | None = None
    """Number of passes over the training data. Set this or `max_steps`; the learning rate schedule spans it."""
    max_steps: int | None = None
    """Number of updates. If `max_epochs` is set too, the limit reached first ends training."""
    max_minutes: float | None = None
    """Time limit in minutes, counting the time before a restart. Training stops with a complete result. The learning
    rate schedule ignores this limit."""
    accumulate: int = 1
    """Batches per update over all processes; at least one per process."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the computation. bf16 uses autocast; weights and optimizer state stay in fp32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to compute on. auto uses a GPU if PyTorch finds one."""
    seed: int = 0
    """Seed of all random choices: initial weights, order of the data, augmentation, dropout."""
    num_workers: int = 0
    """Number of processes that read audio. 0 reads in the training process. The value doesn't affect the trained
    weights."""
    num_threads: int = 0
    """Number of CPU threads per torch operation. 0 keeps torch's default."""
    log_every: int = 20
    """Number of updates between two log lines."""
    validate_every: int = 0
    """Number of updates between two validations. 0 validates after every epoch."""
    checkpoint_every_seconds: float = 300.0
    """Seconds between two checkpoints for continuing the run."""
    checkpoint_every_steps: int = 0
    """Number of updates between two checkpoints for continuing the run, in addition to the time. 0 uses the time only.
    A run that a signal stops always writes a checkpoint."""
    select_by: Literal["wer", "ter", "loss"] = "ter"
    """Result on dev that selects the best checkpoints: word error rate, token error rate (both of greedy CTC decoding)
    or loss."""
    keep_best: int = 5
    """Number of best checkpoints to keep."""
    average_best: int = 5
    """Number of best checkpoints in the final average, at most `keep_best`."""
    wandb_project: str | None = None
    """Weights & Biases project that receives the same figures as TensorBoard. null disables it."""

    def __post_init__(self) -> None:
        if self.max_epochs is None and self.max_steps is None:
            raise ConfigError("one of max_epochs and max_steps is needed")
        counts = ("max_epochs", "max_steps", "accumulate", "log_every", "keep_best", "average_best")
        check_ranges(
            self, max_minutes=POSITIVE, checkpoint_every_seconds=POSITIVE, **dict.fromkeys(counts, AT_LEAST_ONE)
        )
        amounts = ("seed", "num_workers", "num_threads", "validate_every", "checkpoint_every_steps")
        check_ranges(self, **dict.fromkeys(amounts, NOT_NEGATIVE))
        if self.average_best > self.keep_best:
            raise ConfigError(f"average_best ({self.average_best}) is more than keep_best ({self.keep_best})")


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """The configuration of a training run, except for its data. Relative paths start at the current directory."""

    tokenizer: str
    """Folder with `units.txt` and, for BPE, `bpe.model`."""
    model: ModelConfig
    """The model. In the file you can also write `{name: NAMED, ...}`, a named configuration with some keys changed."""
    cmvn: str | None = None
    """JSON file with the mean and variance of the features. Without it, they are computed from the training data
    first."""
    init: str | None = None
    """Checkpoint directory with the initial weights. It must have the same shapes and vocabulary."""
    init_encoder: str | None = None
    """Checkpoint directory with the initial encoder and feature statistics. Vocabulary and decoders may differ."""
    teacher: TeacherConfig | None = None
    """A frozen encoder with full context whose output the encoder learns to reproduce. It helps a pretrained encoder to
    learn chunks."""
    feature_cache: str | None = None
    """Folder for computed features, which makes later epochs faster. It takes 32 kB per second of speech for each
    speed."""
    fbank: FbankConfig = field(default_factory=FbankConfig)
    """Computation of features from samples."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Random changes to audio and features."""
    data: DataConfig = field(default_factory=DataConfig)
    """Filters for utterances, and batch sizes."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimizer and its learning rate."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """Distribution of the work over several processes."""
    trainer: TrainerConfig
    """Training duration, validation, checkpoints, and the device."""

    def __post_init__(self) -> None:
        sides = ("left_decoder", "right_decoder") if self.model.decoder.num_reverse_blocks else ("left_decoder",)
        if self.model.ctc_weight == 1 and any(self.optim.rates.get(side) != 0 for side in sides):
            raise ConfigError(f"model.ctc_weight 1 trains no decoder: set optim.rates of {' and '.join(sides)} to 0")
        if self.init is not None and self.init_encoder is not None:
            raise ConfigError("init and init_encoder: set only one of them")


# These keys may change when a run continues. They affect schedule, speed and duration, but not what is learned.
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
    """Read an experiment's YAML file. Raises ConfigError, naming the file and the invalid key."""
    return experiment_from_mapping(read_yaml(Path(path)), str(path))


def experiment_from_mapping(mapping: object, where: str) -> ExperimentConfig:
    """Build the configuration from a mapping whose `model` may name a configuration. Raises ConfigError."""
    if isinstance(mapping, Mapping) and isinstance(mapping.get("model"), (str, Mapping)):
        mapping = {**mapping, "model": _expand_model(mapping["model"], f"{where}: model")}
    return from_mapping(ExperimentConfig, mapping, where)


def first_difference(old: ExperimentConfig, new: ExperimentConfig) -> str | None:
    """Return the first key that makes two configurations train differently, with both values; None if there is none."""
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
