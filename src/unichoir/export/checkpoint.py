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
from unichoir.formats.wenet.notes import is_from_kaldi
from unichoir.formats.wenet.section import Section
from unichoir.network.asr_model import AsrModel
from unichoir.network.checkpoint import load_checkpoint
from unichoir.text.tokenizer import BPE_FILE, Tokenizer
from unichoir.text.units import UNITS_FILE

KALDI_FBANKS = {80: FbankConfig(), 40: FbankConfig(kind="mfcc", num_mel_bins=40, high_freq=-400.0)}
"""What Kaldi's features are taken for, by their number of values: its fbank, or the MFCC of its `mfcc_hires.conf`."""


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

    Raises ConfigError for other features and for keys that may change features. Of features by Kaldi (`raw_wav: false`
    of 2021), train.yaml holds no settings: those of `KALDI_FBANKS` are assumed.
    """
    top = Section(conf, str(path))
    collate, dataset = top.section("collate_conf"), top.section("dataset_conf")
    for key in ("norm_mean", "norm_var"):  # of 2020, when the normalisation was no part of the model
        collate.require(key, False)
    if is_from_kaldi(conf):
        for size, fbank in KALDI_FBANKS.items():
            if conf.get("input_dim") == size:
                return fbank
        found = f"only input_dim {' and '.join(map(str, KALDI_FBANKS))} can be read, found {conf.get('input_dim')!r}"
        raise ConfigError(f"{path}: raw_wav: Kaldi computed the features, and train.yaml does not say how; {found}")
    settings: dict[str, Any] = {}
    if collate.left:  # until September 2021
        section = collate.section("feature_extraction_conf")
        section.require("feature_type", "fbank")
        section.require("using_pitch", False)
        rate, bins = section.take("resample", 16000), section.take("mel_bins", 80)
    else:
        feats_type = dataset.require("feats_type", "fbank", "mfcc")
        resample, section = dataset.section("resample_conf"), dataset.section(f"{feats_type}_conf")
        section.take("dither", 0.0)
        rate, bins = resample.take("resample_rate", 16000), section.take("num_mel_bins", 23)  # WeNet's defaults
        resample.close()
        if feats_type == "fbank":
            section.require("window_type", "povey")
        else:
            settings = {"kind": "mfcc", "low_freq": section.take("low_freq", 20.0)}
            settings["high_freq"] = section.take("high_freq", 0.0)
            ceps = section.take("num_ceps", 40)
            if ceps != bins:
                only = f"only as many as num_mel_bins, {bins}"
                raise ConfigError(f"{section.where}: num_ceps: {ceps} cannot be represented ({only})")
    settings["frame_length_ms"] = section.take("frame_length", 25.0)
    settings["frame_shift_ms"] = section.take("frame_shift", 10.0)
    section.close()
    try:
        return FbankConfig(sample_rate=rate, num_mel_bins=bins, **settings)
    except ConfigError as error:
        raise ConfigError(f"{section.where}: {error}") from None


def wenet_tokenizer_files(source: Path, conf: Mapping[str, Any], path: Path) -> dict[str, Path]:
    """Return the files of the tokenizer by our names for them.

    Paths in train.yaml belong to the machine that trained the model; the files are expected in `source`. Settings that
    only matter for encoding text are accepted. Raises ConfigError for an unsupported tokenizer, CheckpointError without
    a vocabulary.
    """
    # Before December 2023 the tokenizer was set on the command line, except for one key in `dataset_conf`.
    bpe = BPE_FILE if "tokenizer" in conf else _unnamed_bpe(source)
    kind = conf.get("tokenizer", "bpe" if (source / bpe).is_file() else "char")
    if kind not in ("char", "bpe"):
        raise ConfigError(f"{path}: tokenizer: {kind!r} cannot be represented (only 'char', 'bpe')")
    section = Section(conf, str(path)).section("tokenizer_conf")
    if kind == "char":
        section.require("connect_symbol", "")  # it would change the recognised text
    section.require("is_multilingual", False)
    for key in ("special_tokens", "num_languages", "split_with_space", "non_lang_syms_path", "connect_symbol"):
        section.left.pop(key, None)  # read elsewhere, or without effect on recognised text
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
