"""Reports of a run: a progress line, `train.log`, TensorBoard and, optionally, Weights & Biases."""

import os
import secrets
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
from torch import Tensor
from torch.utils.tensorboard import summary

from unichoir.bundle.replacing import writing
from unichoir.errors import ConfigError
from unichoir.network.load import LayerLoad

TENSORBOARD = "tensorboard"
"""Folder of TensorBoard's events within the folder of the run."""
WANDB_ID = "wandb_id"
"""File with the run's id at Weights & Biases, which lets a continued run continue its curves."""
COPIES = "copies"
"""Last part of the TensorBoard tag for a layer's load: frame copies per expert, (E,) int32."""


class _Board(Protocol):
    """A destination of figures."""

    def scalars(self, values: Mapping[str, float], step: int) -> None: ...

    def tensor(self, name: str, values: Tensor, step: int) -> None: ...

    def close(self, failed: bool) -> None: ...


class Reporter:
    """Writes lines to `train.log` and standard error, figures to TensorBoard, and a progress line to a terminal."""

    def __init__(
        self,
        output: Path,
        console: Console | None = None,
        *,
        active: bool = True,
        wandb_project: str | None = None,
        run_config: Mapping[str, Any] | None = None,
    ) -> None:
        """Report a run whose folder is `output`.

        active: False in all processes of a run but one, which then report nothing.
        wandb_project: also send the figures to this project of Weights & Biases, with `run_config` as the run's
        configuration. Raises ConfigError if its package isn't installed, or if it refuses access.
        """
        self._active = active
        self._boards: list[_Board] = []
        self._console = console or Console(stderr=True)
        self._show = active and self._console.is_terminal
        if active:
            self._boards.append(_TensorBoard(output / TENSORBOARD))
            if wandb_project is not None:
                self._boards.append(_WeightsAndBiases(output, wandb_project, run_config or {}))
            self._log = output / "train.log"
            self._file = self._log.open("a", encoding="utf-8")
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), console=self._console, transient=True
        )
        self._task = self._bar.add_task("starting", total=1.0)
        if self._show:
            self._bar.start()

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._active:
            return
        if self._show:
            self._bar.stop()
        # If a full disk has ended the run, closing the files fails too. One message about it is enough.
        with nullcontext() if error is None else suppress(OSError), ExitStack() as closing:
            for board in self._boards:
                closing.callback(board.close, failed=error is not None)
            closing.enter_context(writing(self._log))
            closing.enter_context(self._file)
            if error is not None:  # the caller reports it
                self._note(f"stopped by {type(error).__name__}: {error}")

    def go_on_after(self, step: int) -> None:
        """Hide figures of later steps, left by an interrupted run. Call this before reporting the first figure."""
        for board in self._boards:
            if isinstance(board, _TensorBoard):
                board.first_step = step + 1

    def line(self, text: str) -> None:
        """Write one line to the log, with the time."""
        if not self._active:
            return
        stamped = self._note(text)
        if self._show:
            self._console.print(stamped, markup=False, highlight=False)
        else:
            print(stamped, file=sys.stderr, flush=True)

    def _note(self, text: str) -> str:
        stamped = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}"
        with writing(self._log):
            self._file.write(stamped + "\n")
            self._file.flush()
        return stamped

    def progress(self, text: str, done: float) -> None:
        """Update the progress line on a terminal."""
        self._bar.update(self._task, description=text, completed=min(done, 1.0))

    def figures(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Report scalars as `group/name`."""
        for board in self._boards:
            board.scalars({f"{group}/{name}": value for name, value in values.items()}, step)

    def expert_loads(self, loads: Mapping[str, Tensor], step: int) -> None:
        """Report how evenly experts are used, by layer and in total.

        For each layer this reports the largest share of one expert, the entropy of the shares (1: even), the number of
        dead experts and the load itself; over all layers the largest share, mean and lowest entropy, and the number of
        dead experts. Unused layers, such as a decoder without a loss, are left out.

        loads: the frame copies that each expert of a layer computed (E,), by layer.
        """
        measured = {name: LayerLoad(frames=tuple(load.tolist())) for name, load in loads.items() if bool(load.any())}
        if not measured:
            return
        figures: dict[str, float] = {}
        for name, layer in measured.items():
            figures[f"{name}/largest_share"] = layer.largest_share
            figures[f"{name}/entropy"] = layer.entropy
            figures[f"{name}/dead"] = len(layer.dead)
            for board in self._boards:
                board.tensor(f"experts/{name}/{COPIES}", loads[name], step)
        entropies = [layer.entropy for layer in measured.values()]
        figures["largest_share"] = max(layer.largest_share for layer in measured.values())
        figures["mean_entropy"] = sum(entropies) / len(entropies)
        figures["least_entropy"] = min(entropies)
        figures["dead"] = sum(len(layer.dead) for layer in measured.values())
        self.figures("experts", figures, step)


class _TensorBoard:
    """An event file, created with the first figure.

    TensorBoard's own writer uses a thread, which prints a traceback when the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None
        self.first_step = 0
        """Figures of this step or later ones are no longer valid."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        summaries = [summary.scalar(name, value) for name, value in values.items()]  # type: ignore[no-untyped-call]
        self._write(*(Event(step=step, summary=each) for each in summaries))

    def tensor(self, name: str, values: Tensor, step: int) -> None:
        content = summary.tensor_proto(name, values.to(torch.int32))  # type: ignore[no-untyped-call]
        self._write(Event(step=step, summary=content))

    def close(self, failed: bool) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, *events: Event) -> None:
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            # TensorBoard reads the files in the order of their names.
            seconds, nanoseconds = divmod(time.time_ns(), 10**9)
            name = f"events.out.tfevents.{seconds:010}.{nanoseconds:09}.{socket.gethostname()}.{os.getpid()}"
            self._file = (self._folder / name).open("xb")
            # Hide figures that an interrupted run wrote after its last checkpoint: they are computed again.
            start = SessionLog(status=SessionLog.START)
            first = Event(file_version="brain.Event:2"), Event(step=self.first_step, session_log=start)
            events = (*first, *events)
        with writing(Path(self._file.name)):
            records = RecordWriter(self._file)
            for event in events:
                event.wall_time = time.time()
                records.write(event.SerializeToString())
            self._file.flush()


class _WeightsAndBiases:
    """A run at wandb.ai or, with WANDB_MODE=offline, in a folder that `wandb sync` uploads later.

    Its own step only ever increases, so our step is a figure, `update`, used as the x axis of all curves. A point that
    a continued run computes again then lies on the previous one.
    """

    def __init__(self, output: Path, project: str, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ModuleNotFoundError as error:
            if error.name != "wandb":
                raise
            raise ConfigError("wandb_project: Weights & Biases is missing: pip install 'unichoir[wandb]'") from None
        identity = output / WANDB_ID
        if not identity.exists():
            identity.write_text(secrets.token_hex(4) + "\n", encoding="utf-8")
        name = identity.read_text(encoding="utf-8").strip()
        settings = wandb.Settings(console="off")  # train.log has the lines
        try:
            self._run = wandb.init(
                project=project, dir=str(output), id=name, resume="allow", config=dict(config), settings=settings
            )
        except wandb.Error as error:
            advice = "run `wandb login`, or set WANDB_MODE=offline to keep the figures here"
            raise ConfigError(f"wandb_project {project}: Weights & Biases says: {error} ({advice})") from None
        self._run.define_metric("update")
        self._run.define_metric("*", step_metric="update")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({"update": step, **values})

    def tensor(self, name: str, values: Tensor, step: int) -> None:
        """Do nothing: it gets shares and entropies of a layer, but counts only go to TensorBoard and the plot."""

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))
