"""`unichoir train --nproc`: real processes under torchrun; one is killed, and all are stopped."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from unichoir.cli.train import without_options
from unichoir.configuration import to_mapping
from unichoir.training.config import ExperimentConfig
from unichoir.training.trainer import train

COMMAND = [sys.executable, "-m", "unichoir", "train"]


def until(lines: Iterator[str], text: str, seen: list[str]) -> None:
    """Read lines into `seen` until one has `text`."""
    for line in lines:
        seen.append(line)
        if text in line:
            return
    pytest.fail(f"no '{text}' in:\n" + "".join(seen))


def worker(launcher: int, rank: int) -> psutil.Process:
    (found,) = (
        child
        for child in psutil.Process(launcher).children(recursive=True)
        if child.environ().get("RANK") == str(rank) and "unichoir" in child.cmdline()
    )
    return found


@pytest.mark.slow
def test_a_killed_process_is_replaced_and_a_signal_stops_all(
    experiment: Callable[..., ExperimentConfig], corpus: Path, tmp_path: Path
) -> None:
    config = experiment(
        trainer={"max_epochs": 8, "checkpoint_every_steps": 2, "validate_every": 12, "average_best": 1},
        optim={"eps": 1e-4, "learning_rate": 0.003},
    )
    (tmp_path / "config.yaml").write_text(json.dumps(to_mapping(config)))  # JSON is YAML
    data = ["--train", corpus / "train.jsonl", "--dev", corpus / "dev.jsonl", "--output", tmp_path / "run"]
    command = [*COMMAND, tmp_path / "config.yaml", *data]
    seen: list[str] = []
    with subprocess.Popen([*map(str, command), "--nproc", "2"], stderr=subprocess.PIPE, text=True) as launcher:
        assert launcher.stderr is not None
        until(launcher.stderr, "update 5:", seen)
        worker(launcher.pid, rank=1).kill()
        until(launcher.stderr, "continuing after update", seen)
        until(launcher.stderr, "2 processes, 2 batches per update", seen)
        until(launcher.stderr, "update 8:", seen)
        launcher.send_signal(signal.SIGTERM)
        until(launcher.stderr, "SIGTERM: stopped after update", seen)
        launcher.stderr.read()
        assert launcher.wait() == 128 + signal.SIGTERM
    assert not (tmp_path / "run" / "average").exists()
    for name in ("run", "whole"):
        train(config, [corpus / "train.jsonl"], [corpus / "dev.jsonl"], tmp_path / name)
    weights, expected = (load_file(tmp_path / run / "average" / "model.safetensors") for run in ("run", "whole"))
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-5)
    progress = json.loads(newest(tmp_path / "run").read_text())["progress"]
    assert progress["audio_seconds"] == pytest.approx(
        json.loads(newest(tmp_path / "whole").read_text())["progress"]["audio_seconds"]
    )


def newest(output: Path) -> Path:
    return max((output / "state").glob("step-*/run.json"), key=lambda path: path.stat().st_mtime_ns)


def test_what_cannot_work_is_said_once(
    experiment: Callable[..., ExperimentConfig],
    corpus: Path,
    tmp_path: Path,
    run_command: Callable[..., tuple[int, str, str]],
) -> None:
    (tmp_path / "config.yaml").write_text(json.dumps(to_mapping(experiment())))
    data = ["--train", corpus / "train.jsonl", "--dev", corpus / "dev.jsonl", "--output", tmp_path / "run"]
    code, _, errors = run_command("train", tmp_path / "config.yaml", *data, "--nproc", 3, "--set", "parallel.shard=2")
    assert code == 1
    assert errors == "error: parallel.shard 2 does not divide the number of processes (3)\n"


def test_the_processes_get_the_command_without_what_is_the_launchers() -> None:
    command = ["train", "c.yaml", "--nproc", "2", "--set", "a=--nproc", "--max-restarts=1", "--output", "x"]
    assert without_options(command, ("--nproc", "--max-restarts")) == [
        "train",
        "c.yaml",
        "--set",
        "a=--nproc",
        "--output",
        "x",
    ]
