"""Checkpoint directories: restored exactly, and refused by name if anything is wrong."""

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from unichoir.bundle.sums import SUMS_FILE
from unichoir.errors import CheckpointError, ConfigError
from unichoir.network.asr_model import AsrModel
from unichoir.network.checkpoint import load_checkpoint, save_checkpoint
from unichoir.network.config import NAMED_CONFIGS

CONFIG = dataclasses.replace(NAMED_CONFIGS["moe-tiny"], vocab_size=20)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "model", AsrModel(CONFIG), {"fbank": {"num_mel_bins": 80}})
    return tmp_path / "model"


def test_weights_and_sections_come_back(saved: Path) -> None:
    torch.manual_seed(0)
    expected = AsrModel(CONFIG).state_dict()
    model, sections = load_checkpoint(saved)
    assert model.config == CONFIG
    assert not model.training
    assert sections == {"fbank": {"num_mel_bins": 80}}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert sorted(path.name for path in saved.iterdir()) == ["SHA256SUMS", "config.yaml", "model.safetensors"]


def test_what_does_not_fit_is_named(saved: Path) -> None:
    path = saved / "model.safetensors"
    (saved / SUMS_FILE).unlink()  # what files may hold is another matter than whether they are as they were written
    weights = load_file(path)
    save_file({name: tensor for name, tensor in weights.items() if name != "ctc.ctc_lo.bias"}, path)
    with pytest.raises(CheckpointError, match=r"'ctc\.ctc_lo\.bias' is missing"):
        load_checkpoint(saved)
    save_file({**weights, "surplus": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="'surplus' is not part of the model"):
        load_checkpoint(saved)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(saved)
    path.unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        load_checkpoint(saved)


def test_newer_formats_and_unknown_keys_are_refused(saved: Path) -> None:
    path = saved / "config.yaml"
    (saved / SUMS_FILE).unlink()
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**content, "format_version": 2}))
    with pytest.raises(CheckpointError, match="format version 2"):
        load_checkpoint(saved)
    path.write_text(yaml.safe_dump({**content, "model": {**content["model"], "depth": 3}}))
    with pytest.raises(ConfigError, match="unknown key 'depth'"):
        load_checkpoint(saved)
    path.write_text("[1, 2")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_checkpoint(saved)
