"""A disk that fills up during training: one line says so, and the run can continue from its last checkpoint."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.training.test_resume import assert_same, run

from unichoir.configuration import to_mapping
from unichoir.training.config import ExperimentConfig
from unichoir.training.trainer import Trainer

ADVICE = "File too large: free some space and start the run again; it continues from its last checkpoint"
CASES = (
    ("update", 4, 0, r"tensorboard/events\.out\.tfevents\.[^/]+"),
    ("update", 4, 1_000_000, "state/step-00000005"),
    ("validate", 6, 60_000, "step-00000006/model.safetensors"),
    ("measure", 8, 0, "train.log"),
    ("finish", 8, 60_000, "average/model.safetensors"),
)
"""The disk is full from the call of a trainer's method after an update, for files of more than so many bytes: which
file is named."""


@pytest.mark.slow
def test_a_run_goes_on_when_there_is_room_again(
    experiment: Callable[..., ExperimentConfig],
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_command: Callable[..., tuple[int, str, str]],
    limit_files: Callable[[int], None],
) -> None:
    """Five times, and its weights are those of a run that always had room."""
    config = experiment(trainer={"max_epochs": 4, "validate_every": 3, "checkpoint_every_steps": 2})
    (tmp_path / "config.json").write_text(json.dumps(to_mapping(config)))
    data = ["--train", corpus / "train.jsonl", "--dev", corpus / "dev.jsonl", "--output", tmp_path / "parts"]
    command = ["train", tmp_path / "config.json", *data]
    for number, (method, update, size, name) in enumerate(CASES):
        original = getattr(Trainer, method)

        def fill(self: Trainer, *arguments: Any, case: Any = (update, size, original), **options: Any) -> Any:
            if self.progress.step == case[0]:
                self.states.finish()
                limit_files(case[1])
            return case[2](self, *arguments, **options)

        with monkeypatch.context() as patched:
            patched.setattr(Trainer, method, fill)
            code, out, err = run_command(*command)
        limit_files(-1)
        *lines, last = err.splitlines()
        assert (code, out) == (1, "")
        assert re.fullmatch(rf"error: {re.escape(str(tmp_path))}/parts/{name}: {ADVICE}", last), last
        assert all(re.match(r"20\d\d-\d\d-\d\d ", line) for line in lines), err
        assert not list((tmp_path / "parts").rglob("*.tmp"))
        assert not (tmp_path / "parts" / "average").exists()
        assert ("continuing after update" in err) == (number > 0)
    code, _, err = run_command(*command)
    assert code == 0
    assert "continuing after update 8" in err
    run(config, corpus, tmp_path / "whole")
    assert_same(tmp_path / "whole", tmp_path / "parts")
