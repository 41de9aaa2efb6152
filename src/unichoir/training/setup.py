"""From a configuration and manifests to the objects a trainer works with."""

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from unichoir.audio.augment import AugmentConfig
from unichoir.data.cmvn import GlobalCmvn, compute_cmvn
from unichoir.data.dataset import ExampleReader, measure_durations
from unichoir.data.features import FeatureReader
from unichoir.data.manifest import Utterance, read_manifest
from unichoir.errors import ConfigError, TrainingError
from unichoir.model.asr_model import AsrModel
from unichoir.model.checkpoint import load_weights, read_weights
from unichoir.model.config import ModelConfig
from unichoir.text.tokenizer import Tokenizer, load_tokenizer
from unichoir.training.config import ExperimentConfig
from unichoir.training.feeding import BatchDataset


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a run consists of before its first update."""

    config: ExperimentConfig
    """With the vocabulary's size filled in."""
    device: torch.device
    tokenizer: Tokenizer
    train: BatchDataset
    dev: BatchDataset
    fingerprint: str
    """Of the training utterances: a resumed run must see the same."""
    skipped: dict[str, str]
    """Utterances whose audio cannot even be opened, by key, and why."""


def prepare(
    config: ExperimentConfig,
    train_manifests: Sequence[str | os.PathLike[str]],
    dev_manifests: Sequence[str | os.PathLike[str]],
) -> Setup:
    """Read the tokenizer and the manifests. Raises ConfigError, ManifestError, TokenizerError or TrainingError."""
    tokenizer = load_tokenizer(config.tokenizer)
    config = dataclasses.replace(config, model=fit_vocabulary(config.model, tokenizer))
    features = FeatureReader(fbank=config.fbank, cache_dir=Path(config.feature_cache) if config.feature_cache else None)
    train, broken = read_manifests(train_manifests, "training")
    dev, broken_in_dev = read_manifests(dev_manifests, "dev")

    def dataset(utterances: list[Utterance], augment: AugmentConfig | None) -> BatchDataset:
        reader = ExampleReader(
            utterances,
            tokenizer=tokenizer,
            features=features,
            data=config.data,
            augment=augment,
            seed=config.trainer.seed,
        )
        return BatchDataset(utterances, reader)

    return Setup(
        config=config,
        device=pick_device(config.trainer.device),
        tokenizer=tokenizer,
        train=dataset(train, config.augment),
        dev=dataset(dev, None),
        fingerprint=fingerprint(train),
        skipped=broken | broken_in_dev,
    )


def new_model(setup: Setup, output: Path, say: Callable[[str], None]) -> AsrModel:
    """The model before its first update: drawn from the seed or loaded, all or its encoder; features' statistics set.

    Statistics computed here are kept in `output/cmvn.json`; `say` tells of it, for it takes a while.
    """
    config = setup.config
    torch.manual_seed(config.trainer.seed)
    model = AsrModel(config.model)
    start = config.init or config.init_encoder
    if start is not None:
        directory = Path(start)
        path = directory / "model.safetensors"
        if config.init is not None:
            _check_same_tokens(setup.tokenizer, load_tokenizer(directory), directory)
            load_weights(model, read_weights(path), path)
        else:
            prefix = "encoder."
            weights = read_weights(path).items()
            encoder = {name.removeprefix(prefix): tensor for name, tensor in weights if name.startswith(prefix)}
            load_weights(model.encoder, encoder, path)
    if config.cmvn is not None:
        stats = GlobalCmvn.load(config.cmvn)
    elif start is None:
        say(f"computing the statistics of the features of {len(setup.train.utterances)} utterances")
        stats, _ = compute_cmvn(setup.train.utterances, setup.train.reader.features)
        stats.save(output / "cmvn.json")
    else:
        return model
    model.encoder.cmvn_mean.copy_(torch.from_numpy(stats.mean))
    model.encoder.cmvn_istd.copy_(torch.from_numpy(stats.istd))
    return model


def fit_vocabulary(model: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """The model's configuration with the tokenizer's size. Raises ConfigError where the two contradict each other."""
    if model.vocab_size not in (0, tokenizer.vocab_size):
        raise ConfigError(f"model.vocab_size is {model.vocab_size}, the tokenizer has {tokenizer.vocab_size} tokens")
    for name in ("blank_id", "sos_id", "eos_id"):
        if getattr(model, name) != getattr(tokenizer, name):
            raise ConfigError(f"model.{name} is {getattr(model, name)}, in the tokenizer {getattr(tokenizer, name)}")
    return model.with_vocab_size(tokenizer.vocab_size)


def read_manifests(manifests: Sequence[str | os.PathLike[str]], purpose: str) -> tuple[list[Utterance], dict[str, str]]:
    """The utterances of several manifests with their durations, and those that cannot be opened, with the reason.

    Raises TrainingError when there is none, or a key occurs twice.
    """
    listed = [utterance for manifest in manifests for utterance in read_manifest(Path(manifest))]
    repeated = [key for key, count in Counter(utterance.key for utterance in listed).items() if count > 1]
    if repeated:
        raise TrainingError(f"key '{repeated[0]}' occurs twice in the {purpose} manifests")
    utterances, broken = measure_durations(listed)
    if not utterances:
        why = f": {broken[0].key}: {broken[0].reason}" if broken else ""
        raise TrainingError(f"no {purpose} utterance in {', '.join(map(str, manifests)) or 'no manifest'}{why}")
    return utterances, {skipped.key: skipped.reason for skipped in broken}


def fingerprint(utterances: Sequence[Utterance]) -> str:
    """Of the keys, lengths and transcripts of utterances in their order: all that decides what a run reads."""
    digest = hashlib.sha256()
    for utterance in utterances:
        digest.update(repr((utterance.key, utterance.start, utterance.duration, utterance.txt)).encode())
    return digest.hexdigest()


def pick_device(name: str) -> torch.device:
    """auto: a CUDA device if there is one. Raises ConfigError when cuda is asked for and absent."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("trainer.device is cuda, but there is no CUDA device")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _check_same_tokens(ours: Tokenizer, theirs: Tokenizer, directory: Path) -> None:
    for index, (token, other) in enumerate(zip(ours.tokens, theirs.tokens, strict=False)):
        if token != other:
            raise ConfigError(f"init: token {index} is '{other}' in {directory}, but '{token}' in our tokenizer")
    if ours.vocab_size != theirs.vocab_size:
        raise ConfigError(f"init: {directory} has {theirs.vocab_size} tokens, our tokenizer has {ours.vocab_size}")
