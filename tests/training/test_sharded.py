"""Training on shards: equal from a disk, from a web server and in several processes; broken parts lose nothing
else."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.data.web_server import serving
from tests.training.processes import run_processes

from unichoir.configuration import to_mapping
from unichoir.data.manifest import read_manifest
from unichoir.data.shard_writer import write_shards
from unichoir.errors import ConfigError
from unichoir.training.config import ExperimentConfig, experiment_from_mapping
from unichoir.training.trainer import TrainingResult, train

Experiment = Callable[..., ExperimentConfig]


@pytest.fixture
def config(experiment: Experiment) -> ExperimentConfig:
    return experiment(
        data={"max_frames_in_batch": 200, "shards_in_window": 2},
        trainer={"max_epochs": 2, "accumulate": 2, "average_best": 1},
        augment={"dither": 0.0, "noise": {"probability": 0.0}},
        optim={"eps": 1e-4, "learning_rate": 0.003},
    )


@pytest.fixture
def shards(corpus: Path, tmp_path: Path) -> Path:
    """The corpus of 16 utterances in six shards of up to three, in a folder that the web server serves."""
    folder = tmp_path / "web"
    write_shards(read_manifest(corpus / "train.jsonl"), folder, per_shard=3)
    return folder


def average(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "average" / "model.safetensors")


def train_in_world(content: dict[str, Any], shards: Path, corpus: Path, output: Path) -> None:
    train(experiment_from_mapping(content, "config"), [shards], [corpus / "dev.jsonl"], output)


@pytest.mark.slow
def test_disk_web_and_several_processes_learn_the_same(
    config: ExperimentConfig,
    shards: Path,
    corpus: Path,
    tmp_path: Path,
) -> None:
    sizes = {path.name: path.stat().st_size for path in shards.glob("*.tar")}
    train(config, [shards / "shards.jsonl"], [corpus / "dev.jsonl"], tmp_path / "disk")
    with serving(shards) as web:
        train(config, [f"{web.url}/shards.jsonl"], [corpus / "dev.jsonl"], tmp_path / "remote")
    run_processes(2, tmp_path, train_in_world, to_mapping(config), shards, corpus, tmp_path / "two")
    expected = average(tmp_path / "disk")
    for name, tensor in average(tmp_path / "remote").items():
        assert torch.equal(tensor, expected[name])
    for name, tensor in average(tmp_path / "two").items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-5)
    # Of the tars only what was asked for came: the audio of utterances, one by one.
    read = [(path, span, sent) for path, span, sent in web.requests if path.endswith(".tar")]
    assert len({(path, span) for path, span, _ in read}) == 16
    assert all(span and sent < sizes[path.lstrip("/")] for path, span, sent in read)


def test_broken_shards_and_samples_are_named_counted_and_lose_nothing_else(
    config: ExperimentConfig, shards: Path, corpus: Path, tmp_path: Path
) -> None:
    (shards / "000001.jsonl").write_text("{not JSON\n")
    tar = shards / "000003.tar"
    utterance = read_manifest(tar)[0]
    offset, size = utterance.byte_range or (0, 0)
    content = bytearray(tar.read_bytes())
    content[offset : offset + size] = b"x" * size
    tar.write_bytes(content)
    result: TrainingResult = train(config, [shards], [corpus / "dev.jsonl"], tmp_path / "run")
    assert result.finished
    assert set(result.skipped) == {str(shards / "000001.tar"), utterance.key}
    log = (tmp_path / "run" / "train.log").read_text()
    assert log.count(f"skipped {shards / '000001.tar'}: {shards / '000001.jsonl'}:1: ") == 1
    assert log.count(f"skipped {utterance.key}: ") == 1


def test_what_does_not_go_with_shards_is_refused(
    config: ExperimentConfig, shards: Path, corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"train\.jsonl: cannot be mixed with lists of shards"):
        train(config, [shards, corpus / "train.jsonl"], [corpus / "dev.jsonl"], tmp_path / "run")
    joined = replace(config, augment=replace(config.augment, concat=replace(config.augment.concat, probability=0.5)))
    with pytest.raises(ConfigError, match=r"augment\.concat: shards are not supported"):
        train(joined, [shards], [corpus / "dev.jsonl"], tmp_path / "run")
