"""From a configuration and manifests to the objects a trainer works with."""

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
from unichoir.bundle.hub import find_directory
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
"""Of a larger manifest the texts of so many utterances are looked at, the first."""
UNKNOWN_WARNED, UNKNOWN_REFUSED = 0.01, 0.5
"""Of the tokens of a manifest's texts those that the vocabulary does not know."""
CMVN_UTTERANCES = 20_000
"""Of a larger corpus the statistics of the features are those of so many utterances, taken evenly."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a run consists of before its first update."""

    config: ExperimentConfig
    """With the vocabulary's size filled in."""
    tokenizer: Tokenizer
    corpus: Corpus
    """To learn from."""
    train: BatchDataset
    dev_corpus: Corpus
    dev: BatchDataset
    skipped: dict[str, str]
    """Utterances whose audio cannot even be opened, by key, and why."""
    warnings: tuple[str, ...]
    """What is odd about the manifests, a line each."""
    train_manifests: tuple[str, ...]
    """As they were named."""
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
    """Raises ConfigError for an utterance whose language has no token, where there are tokens of languages."""
    for utterance in utterances:
        if tokenizer.languages and utterance.lang not in tokenizer.languages:
            raise ConfigError(f"utterance '{utterance.key}': {unknown_language(utterance.lang, tokenizer.languages)}")


def check_units(name: str, utterances: Sequence[Utterance], tokenizer: Tokenizer, *, is_dev: bool = False) -> list[str]:
    """A warning for a manifest, called `name`, whose texts the vocabulary cannot write in full: they train on `<unk>`.

    Raises ConfigError where it cannot write most of a training manifest: that is the tokenizer of another language.
    """
    total = unknown = 0
    example = ""
    for utterance in utterances[:UNKNOWN_UTTERANCES]:
        ids = tokenizer.encode(utterance.txt)
        found = ids.count(tokenizer.unk_id)
        example = example or (f"'{utterance.key}': {utterance.txt:.60}" if found else "")
        total, unknown = total + len(ids), unknown + found
    share = unknown / total if total else 0.0
    what = f"{name}: the vocabulary does not know {share:.1%} of the tokens of its texts, first in {example}"
    if share > UNKNOWN_REFUSED and not is_dev:
        raise ConfigError(f"{what}: is the tokenizer that of another language?")
    return [f"warning: {what}"] if share > UNKNOWN_WARNED else []


def read_corpus(
    manifests: Sequence[str | os.PathLike[str]], config: ExperimentConfig, tokenizer: Tokenizer
) -> tuple[Corpus, Sequence[Utterance], dict[str, str], list[str]]:
    """What to learn from; the utterances that may be joined to others; those that cannot be opened, with the reason;
    the warnings of `check_units`.

    One list of shards, or manifests that are read into memory. Raises ConfigError for both together, and for what does
    not go with shards.
    """
    names = [os.fspath(manifest) for manifest in manifests]
    listed = [name for name in names if not is_shard_list(name)]
    if len(listed) == len(names):
        utterances, broken, warnings = read_manifests(manifests, "training", tokenizer)
        return ListedCorpus(utterances), utterances, broken, warnings
    if listed:
        raise ConfigError(
            f"{listed[0]}: cannot be mixed with lists of shards; `unichoir shard` makes shards of it, too"
        )
    if config.augment.concat.probability:
        raise ConfigError("augment.concat: utterances of shards cannot be joined")
    shards = [shard for name in names for shard in read_shard_list(name)]
    corpus = ShardedCorpus(shards, shards_in_window=config.data.shards_in_window, seed=config.trainer.seed)
    return corpus, (), {}, []


def new_model(setup: Setup, output: Path, say: Callable[[str], None], world: World) -> AsrModel:
    """The model before its first update: drawn from the seed or loaded, all or its encoder; features' statistics set.

    Statistics computed here are kept in `output/cmvn.json`; `say` tells of it, for it takes a while.
    """
    config = setup.config
    torch.manual_seed(config.trainer.seed)
    model = AsrModel(config.model)
    start = config.init or config.init_encoder
    if start is not None:
        directory = find_directory(start)
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
    """The encoder of the checkpoint that `teacher` names, if it names one, beside the one that learns.

    Raises CheckpointError for a checkpoint that cannot be read, and ConfigError for one that does not fit.
    """
    if config.teacher is None:
        return None
    directory = find_directory(config.teacher.checkpoint)
    model, sections = load_checkpoint(directory)
    if from_mapping(FbankConfig, sections.get("fbank", {}), f"{directory / 'config.yaml'}: fbank") != config.fbank:
        raise ConfigError(f"teacher: {directory} takes other features (its `fbank` differs from that of this run)")
    return find_teacher(config.teacher, model.encoder.to(device), student)


def feature_statistics(setup: Setup, say: Callable[[str], None], world: World) -> GlobalCmvn:
    """Of the training speech; each process reads a part of it. Raises TrainingError when no frame can be read."""
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
    """The model's configuration with the tokenizer's size. Raises ConfigError where the two contradict each other."""
    if model.vocab_size not in (0, tokenizer.vocab_size):
        raise ConfigError(f"model.vocab_size is {model.vocab_size}, the tokenizer has {tokenizer.vocab_size} tokens")
    for name in ("blank_id", "sos_id", "eos_id"):
        if getattr(model, name) != getattr(tokenizer, name):
            raise ConfigError(f"model.{name} is {getattr(model, name)}, in the tokenizer {getattr(tokenizer, name)}")
    return model.with_vocab_size(tokenizer.vocab_size)


def read_manifests(
    manifests: Sequence[str | os.PathLike[str]], purpose: Literal["training", "dev"], tokenizer: Tokenizer
) -> tuple[list[Utterance], dict[str, str], list[str]]:
    """The utterances of several manifests with their durations; those that cannot be opened, with the reason; the
    warnings of `check_units`.

    Raises TrainingError when there is none, or a key occurs twice, and ConfigError as `check_units` does.
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
