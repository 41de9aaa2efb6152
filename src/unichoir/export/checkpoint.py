"""Checkpoint directories of either kind, ours or WeNet's, and folders that appear whole or not at all."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unichoir.audio.fbank import FbankConfig
from unichoir.configuration import from_mapping
from unichoir.errors import CheckpointError, ConfigError
from unichoir.model.asr_model import AsrModel
from unichoir.model.checkpoint import load_checkpoint
from unichoir.model.wenet import CONFIG_FILE, load_wenet
from unichoir.model.wenet_config import Section
from unichoir.text.tokenizer import Tokenizer
from unichoir.text.units import UNITS_FILE


def load_any_checkpoint(directory: Path) -> tuple[AsrModel, FbankConfig]:
    """The model, in evaluation mode, and its filterbank from a checkpoint, ours or WeNet's (`train.yaml`).

    Raises CheckpointError or ConfigError when it cannot be read.
    """
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such checkpoint directory")
    path = directory / CONFIG_FILE
    if path.is_file() and not (directory / "config.yaml").is_file():
        wenet = load_wenet(directory)
        return wenet.model, wenet_fbank(wenet.conf, path)
    model, sections = load_checkpoint(directory)
    return model, from_mapping(FbankConfig, sections.get("fbank", {}), f"{directory / 'config.yaml'}: fbank")


def wenet_fbank(conf: Mapping[str, Any], path: Path) -> FbankConfig:
    """The filterbank of a train.yaml; dither belongs to training. Raises ConfigError for other features."""
    dataset = Section(conf, str(path)).section("dataset_conf")
    dataset.require("feats_type", "fbank")
    resample, section = dataset.section("resample_conf"), dataset.section("fbank_conf")
    section.take("dither", 0.0)
    section.require("window_type", "povey")
    fields: dict[str, Any] = {
        "sample_rate": resample.take("resample_rate", 16000),
        "num_mel_bins": section.take("num_mel_bins", 23),  # what WeNet takes where the key is missing
        "frame_length_ms": section.take("frame_length", 25.0),
        "frame_shift_ms": section.take("frame_shift", 10.0),
    }
    section.close()
    try:
        return FbankConfig(**fields)
    except ConfigError as error:
        raise ConfigError(f"{path}: fbank_conf: {error}") from None


def check_parts_fit(model: AsrModel, tokenizer: Tokenizer, fbank: FbankConfig, source: Path) -> None:
    """Raises CheckpointError where vocabulary or features of a checkpoint are not those of its model."""
    if tokenizer.vocab_size != model.config.vocab_size:
        sizes = f"{tokenizer.vocab_size} tokens, the model has {model.config.vocab_size}"
        raise CheckpointError(f"{source / UNITS_FILE}: {sizes}")
    if fbank.num_mel_bins != model.config.encoder.input_dim:
        sizes = f"{fbank.num_mel_bins}, the model needs {model.config.encoder.input_dim}"
        raise CheckpointError(f"{source}: fbank: num_mel_bins is {sizes}")


@contextmanager
def new_directory(output: Path) -> Iterator[Path]:
    """A folder to be filled that takes the place of `output` at the end, or vanishes when something fails.

    Raises CheckpointError for an `output` that exists and is not an empty folder.
    """
    output = Path(os.path.abspath(output))
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CheckpointError(f"{output}: exists and is not an empty folder")
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if output.exists():
            output.rmdir()
        os.replace(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
