"""Checkpoint directories of either kind: ours or WeNet's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unichoir.audio.fbank import FbankConfig
from unichoir.configuration import from_mapping
from unichoir.errors import CheckpointError
from unichoir.model.asr_model import AsrModel
from unichoir.model.checkpoint import load_checkpoint
from unichoir.model.wenet import load_wenet


def load_any_checkpoint(directory: Path) -> tuple[AsrModel, FbankConfig]:
    """The model, in evaluation mode, and its filterbank from a checkpoint, ours or WeNet's (`train.yaml`).

    Raises CheckpointError or ConfigError when it cannot be read.
    """
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such checkpoint directory")
    if (directory / "train.yaml").is_file() and not (directory / "config.yaml").is_file():
        wenet = load_wenet(directory)
        return wenet.model, _wenet_fbank(wenet.fbank_conf)
    model, sections = load_checkpoint(directory)
    return model, from_mapping(FbankConfig, sections.get("fbank", {}), f"{directory / 'config.yaml'}: fbank")


def _wenet_fbank(conf: Mapping[str, Any]) -> FbankConfig:
    """WeNet's `fbank_conf` (frame sizes in ms; dither belongs to training)."""
    return FbankConfig(
        num_mel_bins=int(conf.get("num_mel_bins", 80)),
        frame_length_ms=float(conf.get("frame_length", 25)),
        frame_shift_ms=float(conf.get("frame_shift", 10)),
    )
