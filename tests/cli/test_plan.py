"""`unichoir plan` from the command line."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from unichoir.network.asr_model import AsrModel
from unichoir.network.checkpoint import save_checkpoint
from unichoir.network.config import NAMED_CONFIGS
from unichoir.text.tokenizer import CharTokenizer

Run = Callable[..., tuple[int, str, str]]
BASIC = ["--hours", 100]


@pytest.fixture
def run(run_command: Run) -> Run:
    """Runs `unichoir plan` in this process: exit code, standard output, standard error."""
    return partial(run_command, "plan")


def test_tables(run: Run) -> None:
    code, out, err = run("--config", "moe-1b", "--hours", 160000, "--gpus", 64, "--gpu", "h200")
    assert (code, err) == (0, "")
    text = " ".join(out.split())
    for part in (
        "total 1,054.7M",
        "active for one frame 343.9M",
        "weights, fp32 4.22 GB",
        "AdamW's two moments, fp32 8.44 GB",
        "fits into 141 GB of h200",
        "updates 75,000",
        "30% of h200's peak of 989.4 TFLOP/s in bf16, an assumption: no training was measured on GPUs",
    ):
        assert part in text


def test_json(run: Run) -> None:
    options = ["--gpus", 8, "--gpu", "l40s", "--shard", 0, "--expert-parallel", 2, "--activation-checkpointing"]
    options += ["--frames-per-batch", 6000, "--accumulate", 16, "--epochs", 3, "--efficiency", 0.5]
    code, out, err = run("--config", "moe-base", *BASIC, *options, "--vocab-size", 1000, "--json")
    assert (code, err) == (0, "")
    content = json.loads(out)
    assert content["efficiency_is_assumed"] is False
    assert content["workload"]["parallel"]["expert_parallel"] == 2
    plan = content["plan"]
    with torch.device("meta"):
        total = sum(each.numel() for each in AsrModel(NAMED_CONFIGS["moe-base"].with_vocab_size(1000)).parameters())
    assert plan["sizes"]["total"] == total
    assert plan["memory"]["weights"] == 4 * total / 8
    assert plan["memory"]["activations"] == plan["memory"]["activations_checkpointed"]
    assert plan["updates"] == 3 * 100 * 3600 / (16 * 60)
    # Two batches for each GPU: at the second one the gradients of the first are there.
    parts = ("weights", "copies", "gradients", "optimizer", "activations", "logits_gradient")
    assert plan["memory"]["peak"] == pytest.approx(sum(plan["memory"][name] for name in parts))
    assert plan["step_flops"] == 4 * plan["forward_flops"]


def test_an_experiment_says_how_it_trains(run: Run, tmp_path: Path) -> None:
    CharTokenizer(["<blank>", "<unk>", "<sos/eos>", *"abcdefg"]).save(tmp_path / "tokenizer")
    path = tmp_path / "my.yaml"
    path.write_text(
        f"tokenizer: {tmp_path / 'tokenizer'}\nmodel: moe-tiny\ndata: {{max_frames_in_batch: 3000}}\n"
        "trainer: {max_epochs: 7, accumulate: 4, precision: fp32}\nparallel: {shard: 2}\n"
    )
    code, out, _ = run("--config", path, *BASIC, "--gpus", 2, "--json")
    assert code == 0
    content = json.loads(out)
    workload = content["workload"]
    found = [workload[name] for name in ("epochs", "accumulate", "precision", "frames_per_batch")]
    assert found == [7, 4, "fp32", 3000]
    assert workload["parallel"]["shard"] == 2
    with torch.device("meta"):
        total = sum(each.numel() for each in AsrModel(NAMED_CONFIGS["moe-tiny"].with_vocab_size(10)).parameters())
    assert content["plan"]["sizes"]["total"] == total
    _, out, _ = run("--config", path, *BASIC, "--gpus", 2, "--precision", "bf16", "--shard", 1, "--json")
    workload = json.loads(out)["workload"]
    assert (workload["precision"], workload["parallel"]["shard"]) == ("bf16", 1)


def test_a_checkpoint(run: Run, tmp_path: Path) -> None:
    model = AsrModel(NAMED_CONFIGS["moe-tiny"].with_vocab_size(33))
    save_checkpoint(tmp_path / "checkpoint", model)
    code, out, _ = run("--config", tmp_path / "checkpoint", *BASIC, "--json")
    assert code == 0
    assert json.loads(out)["plan"]["sizes"]["total"] == sum(each.numel() for each in model.parameters())


def test_a_gpu_of_ones_own(run: Run) -> None:
    code, out, _ = run("--config", "moe-tiny", *BASIC, "--gpu", "mine", "--gpu-memory", 0.02, "--gpu-tflops", 1)
    assert code == 0
    assert "DOES NOT FIT into 0.02 GB of mine" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--config", "moe-2b"], 1, "unknown configuration 'moe-2b' (known: moe-tiny,"),
        (["--config", "none.yaml"], 1, "none.yaml: no such file"),
        (["--config", "moe-1b", "--gpu", "h300"], 1, "unknown GPU 'h300' (known: a100-40, a100-80, h100, h200"),
        (["--config", "moe-1b", "--gpus", 3, "--shard", 2], 1, "shard 2 does not divide"),
        (["--config", "moe-1b", "--efficiency", 2], 1, "efficiency must be above 0 and at most 1"),
        (["--config", "moe-1b", "--hours", -1], 1, "hours must be above 0"),
        (["--config", "moe-1b", "--precision", "fp8"], 2, "fp8"),
    ],
)
def test_errors(run: Run, arguments: list[str], code: int, message: str) -> None:
    hours = [] if "--hours" in arguments else BASIC
    found, out, err = run(*arguments, *hours)
    assert (found, out) == (code, "")
    assert message in " ".join(err.split())


def test_missing_extras_are_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("unichoir.training")]:
        monkeypatch.delitem(sys.modules, name)
    code, _, err = run("--config", "moe-1b", *BASIC)
    assert code == 1
    assert "unichoir plan needs an extra: pip install" in err
