"""States of a run on disk: written in the background, complete or absent, and never read if damaged."""

import hashlib
import io
import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, MetadataIndex

from unichoir.errors import CheckpointError
from unichoir.training.state import StateFolder, training_tensors
from unichoir.training.world import World


class Run:
    """A model, its optimizer and the folder of its states."""

    def __init__(self, folder: Path, world: World, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1, fused=True)
        self.states = StateFolder(folder, world)
        self.world = world
        self.told: list[str] = []

    def learn(self) -> None:
        self.optimizer.zero_grad()
        self.model(torch.randn(4, 5)).square().sum().backward()
        self.optimizer.step()

    def tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        state = training_tensors(self.model, self.optimizer)  # type: ignore[arg-type]
        moments = {f"{name}.{key}": value for name, entry in state["optimizer"].items() for key, value in entry.items()}
        return {"model": state["model"], "optimizer": moments}

    def copy(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for part in self.tensors().values() for name, tensor in part.items()}

    def save(self, step: int) -> None:
        tensors = training_tensors(self.model, self.optimizer)  # type: ignore[arg-type]
        self.states.save(step, tensors, {"progress": {"step": step}})

    def read_newest(self) -> int | None:
        found = self.states.newest(self.told.append)
        if found is None:
            return None
        path, run = found
        self.states.read(path, training_tensors(self.model, self.optimizer))  # type: ignore[arg-type]
        step: int = run["progress"]["step"]
        return step


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_what_is_saved_comes_back_though_training_went_on_meanwhile(tmp_path: Path, world: World) -> None:
    run = Run(tmp_path, world, seed=1)
    assert run.read_newest() is None
    run.learn()
    expected = run.copy()
    run.save(1)
    run.learn()
    run.states.finish()
    other = Run(tmp_path, world, seed=2)
    assert other.read_newest() == 1
    assert_equal(other.copy(), expected)


def test_a_state_that_is_being_written_does_not_count(tmp_path: Path, world: World) -> None:
    run = Run(tmp_path, world, seed=1)
    run.learn()
    run.save(1)
    run.states.finish()
    assert not run.states.is_ready
    # As left behind by a process that was killed while it wrote.
    shutil.copytree(tmp_path / "step-00000001", tmp_path / ".step-00000002.tmp")
    (tmp_path / ".step-00000002.tmp" / "sums-0.json").unlink()
    assert Run(tmp_path, world, seed=2).read_newest() == 1
    run.save(2)
    run.states.finish()
    assert [path.name for path in run.states.states()] == ["step-00000002", "step-00000001"]


def test_two_states_are_kept(tmp_path: Path, world: World) -> None:
    run = Run(tmp_path, world, seed=1)
    for step in (9, 10, 100000000, *[100000000] * 10):
        run.learn()
        run.save(step)
        newest = run.copy()
    run.states.finish()
    assert [path.name for path in run.states.states()] == ["step-100000000-11", "step-100000000-10"]
    assert len(list(tmp_path.iterdir())) == 2
    run.learn()
    assert run.read_newest() == 100000000
    assert_equal(run.copy(), newest)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing", "no sums", "no run.json", "metadata"])
def test_a_damaged_state_is_told_of_and_the_one_before_used(tmp_path: Path, world: World, damage: str) -> None:
    run = Run(tmp_path, world, seed=1)
    run.learn()
    expected = run.copy()
    run.save(1)
    run.learn()
    run.save(2)
    run.states.finish()
    newest = tmp_path / "step-00000002"
    (data,) = newest.glob("*.distcp")
    if damage == "flipped":
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    elif damage == "truncated":
        data.write_bytes(data.read_bytes()[:-1])
    else:
        names = {"missing": data.name, "no sums": "sums-0.json", "no run.json": "run.json", "metadata": ".metadata"}
        (newest / names[damage]).unlink()
    other = Run(tmp_path, world, seed=2)
    assert other.read_newest() == 1
    assert_equal(other.copy(), expected)
    (told,) = other.told
    assert told.startswith(f"{newest}: damaged checkpoint, not used: ")
    shutil.rmtree(tmp_path / "step-00000001")
    with pytest.raises(CheckpointError, match="no undamaged checkpoint to continue from"):
        other.read_newest()


def test_a_state_of_another_model_is_refused(tmp_path: Path, world: World) -> None:
    run = Run(tmp_path, world, seed=1)
    run.learn()
    run.save(1)
    run.states.finish()
    other = Run(tmp_path, world, seed=1)
    other.model.append(nn.Linear(1, 1))
    other.optimizer = torch.optim.AdamW(other.model.parameters(), lr=0.1, fused=True)
    with pytest.raises(CheckpointError, match="step-00000001: does not fit this run"):
        other.read_newest()


class Evil:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["call", "object", "elsewhere"])
def test_a_crafted_state_runs_nothing(tmp_path: Path, world: World, kind: str) -> None:
    """Its sums are right: who can write the folder can write them, too."""
    run, evil = Run(tmp_path / "states", world, seed=1), tmp_path / "evil"
    run.learn()
    run.save(1)
    run.states.finish()
    (state,) = run.states.states()
    metadata = pickle.loads((state / ".metadata").read_bytes())
    place = next(each for each in metadata.storage_data if each.fqn == "model.0.weight")
    if kind == "call":
        metadata.planner_data = Evil(evil)
    elif kind == "object":  # a tensor that the metadata call a pickle
        content = io.BytesIO()
        torch.save(Evil(evil), content)
        metadata.state_dict_metadata["model.0.weight"] = BytesStorageMetadata()
        info = replace(metadata.storage_data.pop(place), offset=0, length=len(content.getvalue()))
        metadata.storage_data[MetadataIndex("model.0.weight")] = info
        (state / info.relative_path).write_bytes(content.getvalue())
    else:
        shutil.copy(state / metadata.storage_data[place].relative_path, tmp_path / "other.distcp")
        metadata.storage_data[place] = replace(metadata.storage_data[place], relative_path="../../other.distcp")
    (state / ".metadata").write_bytes(pickle.dumps(metadata))
    sums = json.loads((state / "sums-0.json").read_text())
    for name in sums:
        written = (state / name).read_bytes()
        sums[name] = [len(written), hashlib.sha256(written).hexdigest()]
    (state / "sums-0.json").write_text(json.dumps(sums))
    with pytest.raises(CheckpointError, match=r"posix\.mkdir|BytesStorageMetadata|the file \.\./\.\./other"):
        Run(tmp_path / "states", world, seed=2).read_newest()
    assert not evil.exists()


def test_a_failed_write_is_raised_and_leaves_the_state_before(tmp_path: Path, world: World) -> None:
    run = Run(tmp_path, world, seed=1)
    run.learn()
    run.save(1)
    run.states.finish()
    run.save(2)
    pending = run.states._pending
    assert pending is not None
    pending[1].result()
    shutil.rmtree(tmp_path / ".step-00000002.tmp")
    with pytest.raises(FileNotFoundError):
        run.states.finish()
    assert Run(tmp_path, world, seed=2).read_newest() == 1


def test_moments_go_by_the_names_of_parameters(tmp_path: Path, world: World) -> None:
    run = Run(tmp_path, world, seed=1)
    run.learn()
    run.save(1)
    run.states.finish()
    other = Run(tmp_path, world, seed=2)
    groups = [{"params": [parameter]} for parameter in reversed(list(other.model.parameters()))]
    other.optimizer = torch.optim.AdamW(groups, lr=0.1, fused=True)
    assert other.read_newest() == 1
    assert_equal(other.copy(), run.copy())
    metadata = json.loads((tmp_path / "step-00000001" / "run.json").read_text())
    assert metadata == {"progress": {"step": 1}, "processes": 1}
