"""`unichoir benchmark` from end to end on a tiny model."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

EXPERIMENT = """\
tokenizer: none
trainer: {max_steps: 1}
model:
  vocab_size: 50
  encoder: {dim: 32, num_blocks: 1, num_heads: 2, conv_kernel: 7, subsampling_channels: 8,
            feed_forward: {hidden_dim: 32, num_experts: 4}}
  decoder: {num_blocks: 1, num_reverse_blocks: 0, num_heads: 2,
            feed_forward: {hidden_dim: 32, num_experts: 4, activation: relu}}
  reverse_weight: 0.0
"""
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(run_command: Run) -> Run:
    """Runs `unichoir benchmark` in this process: exit code, standard output, standard error."""
    return partial(run_command, "benchmark")


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(EXPERIMENT, encoding="utf-8")
    return path


@pytest.mark.slow
def test_end_to_end(run: Run, experiment: Path, tmp_path: Path) -> None:
    sizes = ["--seconds", "2,3", "--batch", "1,2", "--streaming", 8, "--left-chunks", 2, "--streams", "1,2"]
    where = ["--output", tmp_path / "out", "--models", tmp_path / "models", "--threads", 1, "--repeats", 2]
    code, out, err = run("--configs", experiment, "--engine", "torch,onnx", "--precision", "fp32,int8", *sizes, *where)
    assert (code, err) == (0, "")
    assert out.rstrip() == (tmp_path / "out" / "results.md").read_text(encoding="utf-8").rstrip()
    content = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    found = {
        (each["engine"], each["precision"], each["load"], *each["cell"].values()): each
        for each in content["measurements"]
    }
    reference = [("utterance", 2.0, 1), ("chunk", 0.32, 1), ("chunk", 0.32, 2)]
    everything = [*reference, ("utterance", 3.0, 1), ("encoder", 2.0, 1), ("encoder", 2.0, 2)]
    assert set(found) == {
        *(("torch", "fp32", "trained", *cell) for cell in reference),
        *(("onnx", "fp32", "trained", *cell) for cell in reference),
        *(("onnx", "int8", "trained", *cell) for cell in everything),
        ("onnx", "int8", "uniform", "encoder", 2.0, 1),
    }
    compared = ("onnx", "int8", "trained", "encoder", 2.0, 1)  # once more beside the uniform load
    for key, each in found.items():
        assert len(each["samples"]) == (4 if key == compared else 2)
        assert all(part["median"] > 0 for part in each["parts"].values())
    engines = {(each["engine"], each["precision"]): each for each in content["models"] if each["load"] == "trained"}
    assert engines["torch", "fp32"]["seconds"] is None
    assert engines["torch", "fp32"]["tokens"] == engines["onnx", "fp32"]["tokens"] > 0
    assert engines["onnx", "int8"]["bytes_on_disk"] < engines["onnx", "fp32"]["bytes_on_disk"]
    assert all(each["memory_at_most"] >= each["memory"] > 10_000_000 for each in content["models"])
    assert len(content["expert_load"]["tiny"]["layers"]) == 3
    assert content["ratios"][0]["encoder"]["count"] == 2
    assert "utterances of 3 s and batches of 2" in content["left_out"][0]
    assert {path.name for path in (tmp_path / "models").glob("tiny-*/*")} == {
        "calibration.npz",
        "fp32",
        "int8",
        "int8-uniform",
    }


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--configs", "moe-2b"], 1, "unknown configuration 'moe-2b' (known: moe-tiny,"),
        (["--configs", ""], 1, "no configuration"),
        (["--configs", "none.yaml"], 1, "none.yaml: no such file"),
        (["--engine", "tpu"], 1, "unknown engine 'tpu' (known: torch, onnx)"),
        (["--precision", "int4"], 1, "unknown precision 'int4'"),
        (["--engine", "torch", "--precision", "int8"], 1, "for int8 the engine must be onnx"),
        (["--memory", "2"], 1, "more than the 2 GB of --memory"),
        (["--configs", "moe-tiny", "--audio", "none.wav"], 1, "none.wav"),
        (["--seconds", "ten"], 2, "not a list of numbers"),
    ],
)
def test_errors(run: Run, arguments: list[str], code: int, message: str) -> None:
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert message in " ".join(err.split())


def test_two_of_the_same_name(run: Run, experiment: Path) -> None:
    (experiment.parent / "other").mkdir()
    again = experiment.parent / "other" / experiment.name
    again.write_text(EXPERIMENT, encoding="utf-8")
    code, _, err = run("--configs", f"{experiment},{again}")
    assert code == 1
    assert "two configurations are called tiny" in err


def test_missing_extras_are_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)
    code, _, err = run()
    assert code == 1
    assert "unichoir benchmark needs an extra: pip install" in err
