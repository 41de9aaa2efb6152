"""What a person sees of a run: a progress line, `train.log`, TensorBoard."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter


class Reporter:
    """Lines to `train.log` and to standard error, figures to TensorBoard, and a progress line on a terminal."""

    def __init__(self, output: Path, console: Console | None = None) -> None:
        self._folder = output / "tensorboard"
        self._writer: SummaryWriter | None = None
        self._file = (output / "train.log").open("a", encoding="utf-8")
        self._console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), console=self._console, transient=True
        )
        self._task = self._bar.add_task("starting", total=1.0)
        if self._console.is_terminal:
            self._bar.start()

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:  # whoever catches it tells the person
            self._note(f"stopped by {type(error).__name__}: {error}")
        if self._console.is_terminal:
            self._bar.stop()
        if self._writer is not None:
            self._writer.close()
        self._file.close()

    def line(self, text: str) -> None:
        """One line for the log, with the time."""
        stamped = self._note(text)
        if self._console.is_terminal:
            self._console.print(stamped, markup=False, highlight=False)
        else:
            print(stamped, file=sys.stderr, flush=True)

    def _note(self, text: str) -> str:
        stamped = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}"
        self._file.write(stamped + "\n")
        self._file.flush()
        return stamped

    def progress(self, text: str, done: float) -> None:
        """The progress line of a terminal; nothing elsewhere."""
        self._bar.update(self._task, description=text, completed=min(done, 1.0))

    def figures(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Scalars to TensorBoard."""
        for name, value in values.items():
            self._board(step).add_scalar(f"{group}/{name}", value, step)

    def expert_loads(self, loads: Mapping[str, Tensor], step: int) -> None:
        """How evenly experts are used: the largest share of one expert by layer, and the number of unused experts.

        loads: frame copies computed by each expert (E,) of each layer.
        """
        largest, unused = [0.0], 0
        for layer, load in loads.items():
            share = load.to(torch.float64) / load.sum().clamp(min=1)
            largest.append(float(share.max()))
            unused += int((load == 0).sum())
            self._board(step).add_scalar(f"experts/{layer}/largest_share", largest[-1], step)
        if loads:
            self.figures("experts", {"largest_share": max(largest), "unused": unused}, step)

    def _board(self, step: int) -> SummaryWriter:
        # Figures that a cut-off run wrote after its last checkpoint are hidden: they come again.
        if self._writer is None:
            self._writer = SummaryWriter(str(self._folder), purge_step=step)
        return self._writer
