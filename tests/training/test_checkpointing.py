import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from unichoir.bundle.sums import write_sums
from unichoir.errors import CheckpointError
from unichoir.training.checkpointing import (
    BestCheckpoint,
    Progress,
    average_weights,
    rank,
    remove_strays,
)
from unichoir.training.feeding import Position


def test_average_is_the_mean_of_each_weight(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(4, 5)).astype(np.float32) for _ in range(3)]
    folders = [tmp_path / str(i) for i in range(3)]
    for i, folder in enumerate(folders):
        folder.mkdir()
        counter = torch.tensor(7 + i)
        save_file({"w": torch.from_numpy(weights[i]), "counter": counter}, folder / "model.safetensors")
    averaged = average_weights(folders)
    np.testing.assert_array_equal(averaged["w"], np.mean(weights, axis=0, dtype=np.float64).astype(np.float32))
    assert averaged["counter"] == 7


def test_average_refuses_what_does_not_match(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_file({name: torch.zeros(1)}, tmp_path / name / "model.safetensors")
    with pytest.raises(CheckpointError, match="its weights differ from those of"):
        average_weights([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(CheckpointError, match="cannot be read"):
        average_weights([tmp_path / "a", tmp_path / "absent"])


def test_rank_keeps_the_best_of_all_seen() -> None:
    rng = np.random.default_rng(1)
    seen = [BestCheckpoint(step=i, score=float(rng.integers(3)), loss=float(rng.integers(4))) for i in range(40)]
    best: list[BestCheckpoint] = []
    for entry in seen:
        best = rank(best, entry, keep=5)
    assert best == sorted(seen, key=lambda entry: (entry.score, entry.loss, entry.step))[:5]


def test_progress_survives_json() -> None:
    best = [BestCheckpoint(step=3, score=0.25, loss=1.5)]
    position = Position(epoch=1, window=3, batch=2, epochs_done=1.25)
    progress = Progress(step=4, batches_per_update=8, position=position, skipped={"a": "broken"}, best=best)
    assert Progress.from_state(json.loads(json.dumps(progress.to_state()))) == progress


def test_only_overtaken_checkpoints_are_removed(tmp_path: Path) -> None:
    for name in ("step-00000001", "step-00000002", ".step-00000003.tmp", "average", "step-notes"):
        (tmp_path / name).mkdir()
    remove_strays(tmp_path, [BestCheckpoint(step=2, score=0.0, loss=0.0)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["average", "step-00000002", "step-notes"]


def test_what_is_averaged_is_as_it_was_written(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_file({"weight": torch.ones(300)}, tmp_path / name / "model.safetensors")
        write_sums(tmp_path / name)
    content = bytearray((tmp_path / "b" / "model.safetensors").read_bytes())
    content[-9] ^= 1
    (tmp_path / "b" / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"b.model\.safetensors: truncated, damaged or changed"):
        average_weights([tmp_path / "a", tmp_path / "b"])
