"""Checkpoint directories of both kinds, ours and WeNet's, and output folders that are written atomically."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unichoir.audio.fbank import FbankConfig
from unichoir.bundle.replacing import replacing_directory
from unichoir.configuration import from_mapping
from unichoir.errors import CheckpointError, ConfigError
from unichoir.formats.wenet.checkpoint import CONFIG_FILE, load_wenet
from unichoir.formats.wenet.section import Section
from unichoir.network.asr_model import AsrModel
from unichoir.network.checkpoint import load_checkpoint
from unichoir.text.tokenizer import BPE_FILE, Tokenizer
from unichoir.text.units import UNITS_FILE

# Keys of `dataset_conf` that select, order, group or vary training data, or belong to other features or, the last one,
# to the tokenizer.
_NOT_OF_FBANK = (
    "batch_conf", "cycle", "filter_conf", "language_conf", "list_shuffle", "list_shuffle_conf",
    "log_mel_spectrogram_conf", "mfcc_conf", "shuffle", "shuffle_conf", "sort", "sort_conf", "spec_aug",
    "spec_aug_conf", "spec_sub", "spec_sub_conf", "spec_trim", "spec_trim_conf", "speed_perturb",
    "split_with_space",
)  # fmt: skip


def load_any_checkpoint(directory: Path) -> tuple[AsrModel, FbankConfig]:
    """Load a model, in evaluation mode, and its filterbank from a checkpoint, ours or WeNet's (`train.yaml`).

    Raises CheckpointError or ConfigError if it can't be read.
    """
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such checkpoint directory")
    path = directory / CONFIG_FILE
    if path.is_file() and not (directory / "config.yaml").is_file():
        wenet = load_wenet(directory)
        wenet_tokenizer_files(directory, wenet.conf, path)  # to reject what it doesn't support
        return wenet.model, wenet_fbank(wenet.conf, path)
    model, sections = load_checkpoint(directory)
    return model, from_mapping(FbankConfig, sections.get("fbank", {}), f"{directory / 'config.yaml'}: fbank")


def wenet_fbank(conf: Mapping[str, Any], path: Path) -> FbankConfig:
    """Return the filterbank of a train.yaml, without dither, which belongs to training.

    Raises ConfigError for other features and for keys that may change features.
    """
    dataset = Section(conf, str(path)).section("dataset_conf")
    dataset.require("feats_type", "fbank")
    resample, section = dataset.section("resample_conf"), dataset.section("fbank_conf")
    section.take("dither", 0.0)
    section.require("window_type", "povey")
    fields: dict[str, Any] = {
        "sample_rate": resample.take("resample_rate", 16000),
        "num_mel_bins": section.take("num_mel_bins", 23),  # WeNet's default
        "frame_length_ms": section.take("frame_length", 25.0),
        "frame_shift_ms": section.take("frame_shift", 10.0),
    }
    for key in _NOT_OF_FBANK:
        dataset.left.pop(key, None)
    for each in (section, resample, dataset):
        each.close()
    try:
        return FbankConfig(**fields)
    except ConfigError as error:
        raise ConfigError(f"{path}: fbank_conf: {error}") from None


def wenet_tokenizer_files(source: Path, conf: Mapping[str, Any], path: Path) -> dict[str, Path]:
    """Return the files of the tokenizer by our names for them.

    Paths in train.yaml belong to the machine that trained the model; the files are expected in `source`. Raises
    ConfigError for an unsupported tokenizer, CheckpointError without a vocabulary.
    """
    # Before 2023 the tokenizer was set on the command line, except for one key in `dataset_conf`.
    bpe = BPE_FILE if "tokenizer" in conf else _unnamed_bpe(source)
    kind = conf.get("tokenizer", "bpe" if (source / bpe).is_file() else "char")
    if kind not in ("char", "bpe"):
        raise ConfigError(f"{path}: tokenizer: {kind!r} cannot be represented (only 'char', 'bpe')")
    top = Section(conf, str(path))
    section, dataset = top.section("tokenizer_conf"), top.section("dataset_conf")
    if kind == "char":
        for each in (section, dataset):
            each.require("split_with_space", False)
        section.require("connect_symbol", "")
    section.require("non_lang_syms_path", None)
    section.require("is_multilingual", False)
    for key in ("special_tokens", "num_languages", "split_with_space", "connect_symbol"):
        section.left.pop(key, None)  # read elsewhere, or without effect for this kind
    found = {}
    wanted = {UNITS_FILE: ("symbol_table_path", "words.txt"), BPE_FILE: ("bpe_path", bpe)}
    for name, (key, other) in wanted.items():
        listed = section.left.pop(key, None)
        names = [name, *([Path(str(listed)).name] if listed else []), other]
        file = next((source / each for each in names if (source / each).is_file()), None)
        if file is not None and (name == UNITS_FILE or kind == "bpe"):
            found[name] = file
    section.close()
    if UNITS_FILE not in found:
        raise CheckpointError(f"{source / UNITS_FILE}: no such file")
    return found


def _unnamed_bpe(source: Path) -> str:
    """Return the name of the only SentencePiece model there is, as `train_960_unigram5000.model`, or the usual name."""
    models = [path.name for path in source.glob("*.model")]
    return models[0] if len(models) == 1 else BPE_FILE


def check_parts_fit(model: AsrModel, tokenizer: Tokenizer, fbank: FbankConfig, source: Path) -> None:
    """Raise CheckpointError if vocabulary or features of a checkpoint don't fit its model."""
    if tokenizer.vocab_size != model.config.vocab_size:
        sizes = f"{tokenizer.vocab_size} tokens, the model has {model.config.vocab_size}"
        raise CheckpointError(f"{source / UNITS_FILE}: {sizes}")
    if fbank.num_mel_bins != model.config.encoder.input_dim:
        sizes = f"{fbank.num_mel_bins}, the model needs {model.config.encoder.input_dim}"
        raise CheckpointError(f"{source}: fbank: num_mel_bins is {sizes}")


@contextmanager
def new_directory(output: Path) -> Iterator[Path]:
    """Yield a folder that replaces `output` at the end, or is deleted on failure.

    Raises CheckpointError for an `output` that exists and isn't an empty folder.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CheckpointError(f"{output}: exists and is not an empty folder")
    with replacing_directory(output) as folder:
        yield folder
