"""The scripts that measure training, started as by a user: a tiny corpus, a small configuration, real processes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.training.conftest import LETTERS, write_corpus

from unichoir.text.tokenizer import CharTokenizer

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXPERIMENTS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def table(text: str) -> list[dict[str, str]]:
    """Return the rows of the Markdown table in a script's output."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    header, alignment, *rows = cells
    assert all(set(cell) <= set("-:") for cell in alignment)
    return [dict(zip(header, row, strict=True)) for row in rows]


@pytest.mark.slow
def test_layouts_are_compared_and_what_is_measured_is_kept(tmp_path: Path) -> None:
    write_corpus(tmp_path, "train", 24, seed=1)
    CharTokenizer(["<blank>", "<unk>", "<sos/eos>", *LETTERS]).save(tmp_path / "tokenizer")
    command = [tmp_path / "train.jsonl", "--tokenizer", tmp_path / "tokenizer", "--config", "moe-tiny"]
    command += ["--layouts", "alone,FSDP + experts", "--updates", 4, "--warmup", 1, "--frames-per-batch", 600]
    command += ["--output", tmp_path / "runs"]
    first = run("scaling.py", *command)
    assert not first.returncode, first.stderr
    alone, spread = table(first.stdout)
    assert (alone["processes"], alone["layout"], alone["relative"]) == ("1", "alone", "1.00")
    assert (spread["processes"], spread["layout"]) == ("2", "FSDP + experts")
    for column in ("loss", "dev loss"):
        assert float(alone[column]) == pytest.approx(float(spread[column]), rel=1e-4)
    differences = re.findall(r"difference of (\w+): (\S+)", first.stdout)
    assert [name for name, _ in differences] == ["loss", "gradient", "dev_loss"]
    assert all(float(difference) < 1e-3 for _, difference in differences)
    for row in (alone, spread):
        assert 0.2 < float(row["memory"].removesuffix(" GB")) < 4
        assert float(row["s of audio / s"]) > 0
        assert 0 <= float(row["checkpoint stands still"].removesuffix(" s")) <= float(row["on disk"].removesuffix(" s"))
    assert run("scaling.py", *command).stdout == first.stdout


@pytest.mark.slow
def test_whole_steps_are_compared_with_a_large_product() -> None:
    ended = run(
        "training_speed.py", "step", "--config", "moe-tiny,dense-small", "--frames-per-batch", 1000, "--steps", 1
    )
    assert not ended.returncode, ended.stderr
    moe, dense = table(ended.stdout)
    (rate,) = re.findall(r"TFLOP/s of one large product: (\S+),", ended.stdout)
    for row in (moe, dense):
        assert row["batch"] == "10 s"
        # More than 100 % where the processor has no bf16: torch computes the large product in it, and much else not.
        share = int(row["of the product"].removesuffix("%")) / 100
        assert share == pytest.approx(float(row["TFLOP/s"]) / float(rate), rel=0.1, abs=0.006)  # in whole percents
        assert share > 0
        assert float(row["peak GB"]) == pytest.approx(float(row["planned GB"]), abs=0.02)
        speed = float(row["batch"].removesuffix(" s")) / float(row["ms of a step"]) * 1000
        assert float(row["s of audio / s"]) == pytest.approx(speed, abs=0.6)  # a whole number
    assert float(moe["the layer alone"]) > 0
    assert dense["the layer alone"] == "-"


def test_a_layer_can_be_checked_for_waiting_only_on_a_gpu() -> None:
    import torch

    ended = run("training_speed.py", "--check-sync")
    if torch.cuda.is_available():
        assert not ended.returncode, ended.stderr
        assert "never wait for the GPU" in ended.stdout
    else:
        assert ended.returncode == 2
        assert "--check-sync needs a CUDA device" in ended.stderr


@pytest.mark.parametrize(
    ("name", "gib", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", 79.1, "h100"),
        ("NVIDIA H100 PCIe", 79.1, None),
        ("NVIDIA H100 NVL", 93.1, None),
        ("NVIDIA H200", 139.8, "h200"),
        ("NVIDIA H200 NVL", 139.8, None),
        ("NVIDIA A100-SXM4-40GB", 39.4, "a100-40"),
        ("NVIDIA A100-SXM4-80GB", 79.2, "a100-80"),
        ("NVIDIA L40S", 44.4, "l40s"),
        ("AMD Instinct MI300X", 192.0, "mi300x"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 9.8, None),
        ("NVIDIA GeForce RTX 4090", 23.6, None),
    ],
)
def test_only_the_gpu_that_a_data_sheet_describes_is_compared_with_it(
    name: str, gib: float, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    from training_speed import data_sheet

    gpu = data_sheet(name, gib * 2**30)
    assert (gpu and gpu.name) == expected
