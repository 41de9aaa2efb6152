"""From a configuration and manifests to the objects of a trainer."""

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import torch

from unichoir.audio.augment import AugmentConfig
from unichoir.audio.fbank import FbankConfig
from unichoir.bundle.pulled import find_checkpoint
from unichoir.bundle.sums import check_sums
from unichoir.configuration import from_mapping
from unichoir.data.cmvn import GlobalCmvn, sum_features
from unichoir.data.dataset import ExampleReader, FrameRate, measure_durations, unknown_language
from unichoir.data.features import FeatureReader
from unichoir.data.manifest import Utterance, read_manifest
from unichoir.data.shards import is_shard_list, read_shard_list
from unichoir.errors import ConfigError, TrainingError
from unichoir.network.asr_model import AsrModel
from unichoir.network.checkpoint import load_checkpoint, load_weights, read_weights
from unichoir.network.config import ModelConfig
from unichoir.network.encoder import Encoder
from unichoir.text.tokenizer import Tokenizer, load_tokenizer
from unichoir.training.config import ExperimentConfig
from unichoir.training.corpus import Corpus, ListedCorpus, ShardedCorpus
from unichoir.training.distillation import Teacher, find_teacher
from unichoir.training.feeding import BatchDataset
from unichoir.training.world import World

UNKNOWN_UTTERANCES = 20_000
"""Number of utterances, from the start of a manifest, whose texts are checked."""
UNKNOWN_WARNED, UNKNOWN_REFUSED = 0.01, 0.5
"""Fractions of unknown tokens in the texts of a manifest that cause a warning and an error."""
CMVN_UTTERANCES = 20_000
"""Largest number of utterances, evenly spaced, used for the feature statistics."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The inputs of a run before its first update."""

    config: ExperimentConfig
    """The configuration, including the size of the vocabulary."""
    tokenizer: Tokenizer
    corpus: Corpus
    """The training data."""
    train: BatchDataset
    dev_corpus: Corpus
    dev: BatchDataset
    skipped: dict[str, str]
    """Utterances whose audio cannot be opened, by key, and the reasons."""
    warnings: tuple[str, ...]
    """Warnings about the manifests, one line each."""
    train_manifests: tuple[str, ...]
    """The manifests as the caller named them."""
    dev_manifests: tuple[str, ...]


def prepare(
    config: ExperimentConfig,
    train_manifests: Sequence[str | os.PathLike[str]],
    dev_manifests: Sequence[str | os.PathLike[str]],
) -> Setup:
    """Read the tokenizer and the manifests. Raises ConfigError, ManifestError, TokenizerError or TrainingError."""
    tokenizer = load_tokenizer(config.tokenizer)
    config = dataclasses.replace(config, model=fit_vocabulary(config.model, tokenizer))
    features = FeatureReader(fbank=config.fbank, cache_dir=Path(config.feature_cache) if config.feature_cache else None)
    corpus, train, broken, warnings = read_corpus(train_manifests, config, tokenizer)
    dev, broken_in_dev, warnings_of_dev = read_manifests(dev_manifests, "dev", tokenizer)
    check_languages([*train, *dev], tokenizer)

    encoder = config.model.encoder

    def dataset(utterances: Sequence[Utterance], augment: AugmentConfig | None) -> BatchDataset:
        reader = ExampleReader(
            utterances,
            tokenizer=tokenizer,
            features=features,
            data=config.data,
            augment=augment,
            seed=config.trainer.seed,
            languages=tokenizer.languages,
            frame_rate=FrameRate(subsampling_rate=encoder.subsampling_rate, right_context=encoder.right_context),
        )
        return BatchDataset(reader)

    return Setup(
        config=config,
        tokenizer=tokenizer,
        corpus=corpus,
        train=dataset(train, config.augment),
        dev_corpus=ListedCorpus(dev),
        dev=dataset((), None),
        skipped=broken | broken_in_dev,
        warnings=(*warnings, *warnings_of_dev),
        train_manifests=tuple(os.fspath(manifest) for manifest in train_manifests),
        dev_manifests=tuple(os.fspath(manifest) for manifest in dev_manifests),
    )


def check_languages(utterances: Sequence[Utterance], tokenizer: Tokenizer) -> None:
    """Raise ConfigError for an utterance in an unknown language, if the vocabulary has tokens for languages."""
    for utterance in utterances:
        if tokenizer.languages and utterance.lang not in tokenizer.languages:
            raise ConfigError(f"utterance '{utterance.key}': {unknown_language(utterance.lang, tokenizer.languages)}")


def check_units(name: str, utterances: Sequence[Utterance], tokenizer: Tokenizer, *, is_dev: bool = False) -> list[str]:
    """Return a warning if the vocabulary lacks tokens of the texts in manifest `name`, which train as `<unk>`.

    Raises ConfigError if it lacks most tokens of a training manifest, because the tokenizer is for another language.
    """
    total = unknown = 0
    example = ""
    for utterance in utterances[:UNKNOWN_UTTERANCES]:
        ids = tokenizer.encode(utterance.txt)
        found = ids.count(tokenizer.unk_id)
        example = example or (f"'{utterance.key}': {utterance.txt:.60}" if found else "")
        total, unknown = total + len(ids), unknown + found
    share = unknown / total if total else 0.0
    what = f"{name}: the vocabulary lacks {share:.1%} of the tokens in the texts, first in {example}"
    if share > UNKNOWN_REFUSED and not is_dev:
        raise ConfigError(f"{what}: is the tokenizer for another language?")
    return [f"warning: {what}"] if share > UNKNOWN_WARNED else []


def read_corpus(
    manifests: Sequence[str | os.PathLike[str]], config: ExperimentConfig, tokenizer: Tokenizer
) -> tuple[Corpus, Sequence[Utterance], dict[str, str], list[str]]:
    """Return the training corpus, the utterances that may be joined, those that can't be opened, and warnings.

    The corpus is one list of shards, or manifests that are read into memory. Utterances that can't be opened have
    reasons; the warnings come from `check_units`. Raises ConfigError for manifests mixed with shards, and for options
    that shards don't support.
    """
    names = [os.fspath(manifest) for manifest in manifests]
    listed = [name for name in names if not is_shard_list(name)]
    if len(listed) == len(names):
        utterances, broken, warnings = read_manifests(manifests, "training", tokenizer)
        return ListedCorpus(utterances), utterances, broken, warnings
    if listed:
        raise ConfigError(f"{listed[0]}: cannot be mixed with lists of shards; convert it with `unichoir shard`")
    if config.augment.concat.probability:
        raise ConfigError("augment.concat: shards are not supported")
    shards = [shard for name in names for shard in read_shard_list(name)]
    corpus = ShardedCorpus(shards, shards_in_window=config.data.shards_in_window, seed=config.trainer.seed)
    return corpus, (), {}, []


def new_model(setup: Setup, output: Path, say: Callable[[str], None], world: World) -> AsrModel:
    """Return the model before its first update, with random or loaded weights and the feature statistics.

    Statistics that have to be computed are stored in `output/cmvn.json`; `say` announces this, because it takes a
    while.
    """
    config = setup.config
    torch.manual_seed(config.trainer.seed)
    model = AsrModel(config.model)
    start = config.init or config.init_encoder
    if start is not None:
        directory = find_checkpoint(start)
        check_sums(directory)
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
        stats = feature_statistics(setup, say, world)
        if world.is_first:
            stats.save(output / "cmvn.json")
    else:
        return model
    model.encoder.cmvn_mean.copy_(torch.from_numpy(stats.mean))
    model.encoder.cmvn_istd.copy_(torch.from_numpy(stats.istd))
    return model


def load_teacher(config: ExperimentConfig, student: Encoder, device: torch.device) -> Teacher | None:
    """Return the teacher named in the configuration, if any, for comparison with `student`.

    Raises CheckpointError for an unreadable checkpoint, and ConfigError for one that doesn't fit.
    """
    if config.teacher is None:
        return None
    directory = find_checkpoint(config.teacher.checkpoint)
    model, sections = load_checkpoint(directory)
    if from_mapping(FbankConfig, sections.get("fbank", {}), f"{directory / 'config.yaml'}: fbank") != config.fbank:
        raise ConfigError(f"teacher: {directory} uses other features: its `fbank` differs from this run's")
    return find_teacher(config.teacher, model.encoder.to(device), student)


def feature_statistics(setup: Setup, say: Callable[[str], None], world: World) -> GlobalCmvn:
    """Return the feature statistics of the training speech. Each process reads a part of it.

    Raises TrainingError if no frame can be read.
    """
    wanted = min(setup.corpus.num_utterances, CMVN_UTTERANCES)
    every = max(setup.corpus.num_utterances // max(wanted, 1), 1)
    say(f"computing the statistics of the features of {wanted} utterances")
    windows = setup.corpus.windows(epoch=0, first=0)
    listed = (utterance for window in windows for utterance in window.utterances[::every])
    own = list(islice(islice(listed, wanted), world.rank, None, world.size))
    sums, _ = sum_features(own, setup.train.reader.features)
    rows = world.gather([*sums.mean_stat, *sums.var_stat, sums.frame_num]).sum(axis=0)
    bins = len(sums.mean_stat)
    if not rows[-1]:
        raise TrainingError("no training utterance can be read")
    return GlobalCmvn(mean_stat=rows[:bins], var_stat=rows[bins:-1], frame_num=int(rows[-1]))


def fit_vocabulary(model: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """Return the model's configuration with the tokenizer's size.

    Raises ConfigError if the two contradict each other.
    """
    if model.vocab_size not in (0, tokenizer.vocab_size):
        raise ConfigError(f"model.vocab_size is {model.vocab_size}, the tokenizer has {tokenizer.vocab_size} tokens")
    for name in ("blank_id", "sos_id", "eos_id"):
        if getattr(model, name) != getattr(tokenizer, name):
            raise ConfigError(
                f"model.{name} is {getattr(model, name)}, but the tokenizer has {getattr(tokenizer, name)}"
            )
    return model.with_vocab_size(tokenizer.vocab_size)


def read_manifests(
    manifests: Sequence[str | os.PathLike[str]], purpose: Literal["training", "dev"], tokenizer: Tokenizer
) -> tuple[list[Utterance], dict[str, str], list[str]]:
    """Return the utterances of several manifests with durations, those that can't be opened, and warnings.

    Utterances that can't be opened have reasons; the warnings come from `check_units`. Raises TrainingError if there is
    no utterance or a key occurs twice, and ConfigError like `check_units`.
    """
    sets = [(str(manifest), read_manifest(manifest)) for manifest in manifests]
    listed = [utterance for _, utterances in sets for utterance in utterances]
    repeated = [key for key, count in Counter(utterance.key for utterance in listed).items() if count > 1]
    if repeated:
        raise TrainingError(f"key '{repeated[0]}' occurs twice in the {purpose} manifests")
    utterances, broken = measure_durations(listed)
    if not utterances:
        why = f": {broken[0].key}: {broken[0].reason}" if broken else ""
        raise TrainingError(f"no {purpose} utterance in {', '.join(map(str, manifests)) or 'no manifest'}{why}")
    is_dev = purpose == "dev"
    warnings = [warning for name, each in sets for warning in check_units(name, each, tokenizer, is_dev=is_dev)]
    return utterances, {skipped.key: skipped.reason for skipped in broken}, warnings


def pick_device(name: str) -> torch.device:
    """Return the device; auto is a CUDA device if there is one. Raises ConfigError if cuda is requested and absent."""
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
