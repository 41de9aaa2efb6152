"""The script that times a cold start, started as by a user, with a small model."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.samples import CLIPS, WITH_SMALL_MODEL

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "cold_start.py"


@pytest.mark.slow
def test_processes_and_their_parts_are_timed() -> None:
    command = [sys.executable, str(SCRIPT), str(CLIPS[0]), *WITH_SMALL_MODEL, "--repeats", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    costs = {row[0]: [float(cell) for cell in row[1:]] for row in rows if row[0] not in ("process", "part")}
    program, unit, load, transcribe = (
        costs[name]
        for name in (
            *("`load_model().transcribe(clip)`", "`unichoir transcribe clip`"),
            *("load_model, all of it", "transcribe, all of it"),
        )
    )
    assert min(program + unit) > 0
    graphs = {path.name for path in Path(WITH_SMALL_MODEL[1]).glob("*.onnx")} - {"punctuation.onnx"}
    assert {name.removeprefix("load ") for name in costs if name.startswith("load ")} == graphs
    assert costs["check_sums"][0] <= load[0]
    assert costs["OnnxBackend.encode_chunk"][0] <= transcribe[0]
