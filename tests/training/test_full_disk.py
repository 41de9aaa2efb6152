"""A disk that becomes full while a model is trained: one line says so, and the run goes on from its last checkpoint."""

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

ADVICE = "File too large: started again when there is room, the run goes on from its last checkpoint"


@pytest.mark.parametrize(
    ("method", "update", "size", "every", "name"),
    [
        ("update", 4, 0, 2, r"tensorboard/events\.out\.tfevents\.[^/]+"),
        ("update", 4, 1_000_000, 2, "state/step-00000005"),
        ("update", 4, 60_000, 0, "step-00000006/model.safetensors"),
        ("measure", 6, 0, 2, "train.log"),
        ("finish", 8, 60_000, 2, "average/model.safetensors"),
    ],
    ids=["figures", "state", "weights", "log", "average"],
)
def test_a_run_goes_on_when_there_is_room_again(
    experiment: Callable[..., ExperimentConfig],
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_command: Callable[..., tuple[int, str, str]],
    made_once: Callable[..., Path],
    limit_files: Callable[[int], None],
    method: str,
    update: int,
    size: int,
    every: int,
    name: str,
) -> None:
    """The disk is full from the call of a trainer's method after an update, for files of more than `size` bytes."""
    trainer = {"max_epochs": 4, "validate_every": 3, "checkpoint_every_steps": every}
    config = experiment(trainer=trainer)
    whole = made_once("whole-run", lambda folder: run(config, corpus, folder))
    original = getattr(Trainer, method)

    def fill(self: Trainer, *arguments: Any, **options: Any) -> Any:
        if self.progress.step == update:
            self.states.finish()
            limit_files(size)
        return original(self, *arguments, **options)

    (tmp_path / "config.json").write_text(json.dumps(to_mapping(config)))
    data = ["--train", corpus / "train.jsonl", "--dev", corpus / "dev.jsonl", "--output", tmp_path / "parts"]
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, method, fill)
        code, out, err = run_command("train", tmp_path / "config.json", *data)
    limit_files(-1)
    *lines, last = err.splitlines()
    assert (code, out) == (1, "")
    assert re.fullmatch(rf"error: {re.escape(str(tmp_path))}/parts/{name}: {ADVICE}", last), last
    assert all(re.match(r"20\d\d-\d\d-\d\d ", line) for line in lines), err
    assert not list((tmp_path / "parts").rglob("*.tmp"))
    assert not (tmp_path / "parts" / "average").exists()
    code, _, err = run_command("train", tmp_path / "config.json", *data)
    assert code == 0
    started = re.search(r"continuing after update (\d+)", err)
    assert started is not None
    assert int(started[1]) >= 3
    assert_same(whole, tmp_path / "parts")
