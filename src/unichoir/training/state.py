"""The state that a run continues from: weights, optimizer and progress, written by all processes during training.

`state/step-NNNNNNNN/` is a distributed checkpoint of torch: each process writes what it holds, and any number of
processes with any distribution can read it. Besides the tensors it contains `run.json`, which identifies the run and
its progress, and `sums-R.json`, with sizes and SHA-256 of the files of process R. The folder gets its final name when
it is complete. The previous state is kept until then, and until the next one as a reserve against damage.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from unichoir.bundle.replacing import replace_text, sync_directory, writing
from unichoir.errors import CheckpointError
from unichoir.network.asr_model import AsrModel
from unichoir.training.state_reader import StateReader, TensorPlanner
from unichoir.training.world import World

KEPT = 2
"""Number of states kept on disk."""
NAME = re.compile(r"step-(\d{8,})(?:-(\d+))?")


def training_tensors(model: AsrModel, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return all tensors of a run by name. Missing optimizer state is created, because reading a state needs it.

    Optimizer state is keyed by the parameter's name, not by its place in the optimizer, which depends on how the model
    is distributed.
    """
    moments: dict[str, dict[str, Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            entry = optimizer.state[parameter]
            if not entry:
                entry["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                entry["exp_avg"] = torch.zeros_like(parameter)
                entry["exp_avg_sq"] = torch.zeros_like(parameter)
            moments[name] = entry
    return {"model": model.state_dict(), "optimizer": moments}


class StateFolder:
    """The states of one run. All processes call every method."""

    def __init__(self, folder: Path, world: World) -> None:
        self.folder, self.world = folder, world
        self._thread = ThreadPoolExecutor(1)
        self._pending: tuple[Path, Future[None]] | None = None

    def save(self, step: int, tensors: Mapping[str, Any], run: Mapping[str, Any]) -> None:
        """Start to write a state; the tensors are copied before this returns.

        A state in progress is completed first.
        """
        self.finish()
        temporary = self.folder / f".step-{step:08d}.tmp"
        if self.world.is_first:
            for left in self.folder.glob(".step-*.tmp"):  # left by an interrupted run
                shutil.rmtree(left)
            temporary.mkdir(parents=True)
            content = json.dumps({**run, "processes": self.world.size}, ensure_ascii=False)
            replace_text(temporary / "run.json", content)
        self.world.wait()
        written = async_save(dict(tensors), checkpoint_id=temporary, process_group=self.world.saving)
        assert isinstance(written, Future)
        self._pending = temporary, self._thread.submit(_write_sums, temporary, self.world.rank, written)

    @property
    def is_ready(self) -> bool:
        """Whether this process has written its part of a state that `finish` has not yet put in place."""
        return self._pending is not None and self._pending[1].done()

    def finish(self) -> None:
        """Wait for the state in progress, if any, and put it in place.

        Raises any error of the writers; OSError names the state if the disk is full. No part of the state is left then.
        """
        if self._pending is None:
            return
        (temporary, written), self._pending = self._pending, None
        name = temporary.stem.lstrip(".")
        failure: BaseException | None = None
        try:
            with writing(self.folder / name):
                written.result()
        except BaseException as error:  # raised when all processes know of it
            failure = error
        if self.world.gather([failure is not None]).any():
            if self.world.is_first:
                shutil.rmtree(temporary, ignore_errors=True)
            raise failure or CheckpointError(f"{self.folder / name}: another process could not write its part")
        if self.world.is_first:
            sync_directory(temporary)
            os.replace(temporary, self._free_name(name))
            sync_directory(self.folder)
            for old in self.states()[KEPT:]:
                shutil.rmtree(old)

    def states(self) -> list[Path]:
        """Return the complete states, the newest first."""
        found = [path for path in self.folder.glob("step-*") if NAME.fullmatch(path.name)]
        return sorted(found, key=_order, reverse=True)

    def newest(self, say: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
        """Return the newest undamaged state and its run.json; None if the run has none.

        Damaged states are reported and skipped. Raises CheckpointError if all are damaged.
        """
        states = self.states()
        for path in states:
            damage = self._damage(path)
            if damage is None:
                return path, json.loads((path / "run.json").read_text(encoding="utf-8"))
            say(f"{path}: damaged checkpoint, not used: {damage}")
        if states:
            raise CheckpointError(f"{self.folder}: no undamaged checkpoint to continue from")
        return None

    def read(self, path: Path, tensors: dict[str, Any]) -> None:
        """Fill the tensors in place with those of a state. Raises CheckpointError if they don't fit."""
        try:
            load(tensors, storage_reader=StateReader(path), planner=TensorPlanner(), process_group=self.world.saving)
        except (Exception, CheckpointException) as error:  # torch raises any error, or wraps it in this
            raise CheckpointError(f"{path}: does not fit this run: {str(error).strip().splitlines()[-1]}") from None

    def _free_name(self, name: str) -> Path:
        """Return an unused name: a state saved after a validation differs from one saved before it at the same step."""
        numbers = [_order(path)[1] for path in self.states() if path.name.startswith(name)]
        return self.folder / (f"{name}-{max(numbers) + 1}" if numbers else name)

    def _damage(self, path: Path) -> str | None:
        """Return a short description of a state's damage, if any. The processes divide the files among them."""
        found = self.world.gather_objects(next(_damages(path, self.world.rank, self.world.size), None))
        return next((str(damage) for damage in found if damage is not None), None)


def _order(path: Path) -> tuple[int, int]:
    match = NAME.fullmatch(path.name)
    assert match is not None
    step, number = match.groups("1")
    return int(step), int(number)


def _write_sums(folder: Path, rank: int, written: "Future[Any]") -> None:
    written.result()
    own = sorted(folder.glob(f"__{rank}_*.distcp"))
    if rank == 0:
        own += [folder / ".metadata", folder / "run.json"]
    sums = {path.name: [path.stat().st_size, _sha256(path)] for path in own}
    with (folder / f"sums-{rank}.json").open("w", encoding="utf-8") as file:
        json.dump(sums, file)
        file.flush()
        os.fsync(file.fileno())


def _damages(path: Path, rank: int, size: int) -> Iterator[str]:
    try:
        processes = int(json.loads((path / "run.json").read_text(encoding="utf-8"))["processes"])
    except (OSError, ValueError, KeyError, TypeError):
        yield "run.json cannot be read"
        return
    for writer in range(rank, processes, size):
        try:
            sums = json.loads((path / f"sums-{writer}.json").read_text(encoding="utf-8"))
            for name, (length, digest) in sums.items():
                if (path / name).stat().st_size != length or _sha256(path / name) != digest:
                    yield f"{name} was changed after it was written"
        except (OSError, ValueError) as error:  # noqa: PERF203
            yield f"the part of process {writer} is incomplete ({error})"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
