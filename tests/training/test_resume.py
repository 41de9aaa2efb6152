"""A run that is stopped or killed and resumed ends with exactly the weights of an uninterrupted run."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from unichoir.configuration import to_mapping
from unichoir.errors import ConfigError
from unichoir.stopping import StopRequest
from unichoir.training.config import ExperimentConfig
from unichoir.training.trainer import TrainingResult, train

Experiment = Callable[..., ExperimentConfig]

PROGRAM = """
import json, sys
from unichoir.training.config import experiment_from_mapping
from unichoir.training.trainer import train
config, train_manifest, dev_manifest, output = sys.argv[1:]
result = train(experiment_from_mapping(json.loads(config), "config"), [train_manifest], [dev_manifest], output)
print("finished" if result.finished else "stopped")
"""


class StopAfter(StopRequest):
    """Requests a stop after so many checks, between updates and within validations."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def __bool__(self) -> bool:
        self.looks -= 1
        if self.looks < 0:
            self.reason = "test"
        return self.reason is not None


def run(config: ExperimentConfig, corpus: Path, output: Path, stop: StopRequest | None = None) -> TrainingResult:
    return train(config, [corpus / "train.jsonl"], [corpus / "dev.jsonl"], output, stop=stop)


def newest_state(output: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return progress and tensors of a run's last state, read by torch's own converter."""
    folder = max((output / "state").glob("step-*"), key=lambda path: path.stat().st_mtime_ns)
    dcp_to_torch_save(folder, output / "converted.pt")
    return json.loads((folder / "run.json").read_text())["progress"], torch.load(output / "converted.pt")


def assert_same(first: Path, second: Path) -> None:
    """Assert that weights, optimizer state and averaged weights are equal bit for bit."""
    (progress, state), (other_progress, other) = map(newest_state, (first, second))
    assert progress["step"] == other_progress["step"]
    assert progress["position"] == other_progress["position"]
    assert progress["best"] == other_progress["best"]
    for name, tensor in state["model"].items():
        assert torch.equal(tensor, other["model"][name]), name
    for parameter, entry in state["optimizer"].items():
        for name, tensor in entry.items():
            assert torch.equal(tensor, other["optimizer"][parameter][name]), (parameter, name)
    weights = [(folder / "average" / "model.safetensors").read_bytes() for folder in (first, second)]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_stopped_and_resumed_equals_uninterrupted(experiment: Experiment, corpus: Path, tmp_path: Path) -> None:
    config = experiment()
    whole = run(config, corpus, tmp_path / "whole")
    assert whole.finished
    looks, sessions, finished = 3, 0, False
    while not finished:
        result = run(config, corpus, tmp_path / "parts", StopAfter(looks))
        finished, sessions, looks = result.finished, sessions + 1, looks + 1
    assert sessions > 3
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_a_finished_run_is_extended(experiment: Experiment, corpus: Path, tmp_path: Path) -> None:
    """To what a longer one would have been, where the learning rate does not know of the end."""
    short, long = (
        experiment(trainer={"max_epochs": epochs}, optim={"schedule": "constant", "warmup_steps": 1})
        for epochs in (1, 3)
    )
    assert run(short, corpus, tmp_path / "extended").finished
    assert run(long, corpus, tmp_path / "extended").finished
    run(long, corpus, tmp_path / "whole")
    assert_same(tmp_path / "whole", tmp_path / "extended")
    before = newest_state(tmp_path / "extended")[0]["step"]
    assert run(short, corpus, tmp_path / "extended").step == before  # beyond its end already


def test_stop_within_an_epoch_of_many_batches(experiment: Experiment, corpus: Path, tmp_path: Path) -> None:
    """And with parts of the model that do not learn, or more slowly."""
    config = experiment(
        trainer={"max_epochs": 2, "accumulate": 3, "validate_every": 2},
        data={"max_batch_size": 2},
        optim={"rates": {"encoder.subsampling": 0.0, "left_decoder": 0.1}},
    )
    run(config, corpus, tmp_path / "whole")
    assert not run(config, corpus, tmp_path / "parts", StopAfter(2)).finished
    assert run(config, corpus, tmp_path / "parts").finished
    assert_same(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
def test_sigterm_and_sigkill(experiment: Experiment, corpus: Path, tmp_path: Path) -> None:
    config = experiment(trainer={"max_epochs": 10, "validate_every": 9, "checkpoint_every_steps": 3})
    paths = [corpus / "train.jsonl", corpus / "dev.jsonl", tmp_path / "parts"]
    arguments = [json.dumps(to_mapping(config)), *map(str, paths)]

    def start_until(text: str, number: signal.Signals) -> tuple[int, str]:
        """Start the program, send it the signal when a line of its log contains `text`."""
        command = [sys.executable, "-c", PROGRAM, *arguments]
        with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert process.stdout is not None
            seen = []
            for line in process.stderr:
                seen.append(line)
                if text in line:
                    process.send_signal(number)
                    break
            else:
                pytest.fail("".join(seen))
            process.stderr.read()
            return process.wait(), process.stdout.read()

    code, said = start_until("update 4:", signal.SIGTERM)
    assert (code, said) == (0, "stopped\n")
    assert newest_state(tmp_path / "parts")[0]["step"] >= 4
    code, _ = start_until("update 11:", signal.SIGKILL)
    assert code == -signal.SIGKILL
    run(config, corpus, tmp_path / "parts")
    run(config, corpus, tmp_path / "whole")
    assert_same(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
def test_weights_do_not_depend_on_workers(experiment: Experiment, corpus: Path, tmp_path: Path) -> None:
    run(experiment(trainer={"max_epochs": 2}), corpus, tmp_path / "none")
    run(experiment(trainer={"max_epochs": 2, "num_workers": 2}), corpus, tmp_path / "two")
    assert_same(tmp_path / "none", tmp_path / "two")


def test_another_configuration_is_refused(experiment: Experiment, corpus: Path, tmp_path: Path) -> None:
    run(experiment(), corpus, tmp_path, StopAfter(1))
    with pytest.raises(ConfigError, match=r"optim\.learning_rate \(was 0\.01, now 0\.02\)"):
        run(experiment(optim={"learning_rate": 0.02}), corpus, tmp_path)
    with pytest.raises(ConfigError, match="other training utterances"):
        train(experiment(), [corpus / "dev.jsonl"], [corpus / "dev.jsonl"], tmp_path)
    assert run(experiment(trainer={"log_every": 7}), corpus, tmp_path).finished
