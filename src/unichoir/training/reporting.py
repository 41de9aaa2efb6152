"""What a person sees of a run: a progress line, `train.log`, TensorBoard and, if asked for, Weights & Biases."""

import secrets
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from unichoir.errors import ConfigError
from unichoir.model.load import LayerLoad

TENSORBOARD = "tensorboard"
"""Folder of the events in that of the run."""
WANDB_ID = "wandb_id"
"""File of the run's name at Weights & Biases, so that what continues the run continues its curves."""
COPIES = "copies"
"""Last part of the tag under which TensorBoard holds a layer's load: frame copies of each expert, (E,) int32."""


class _Board(Protocol):
    """Where figures go."""

    def scalars(self, values: Mapping[str, float], step: int) -> None: ...

    def tensor(self, name: str, values: Tensor, step: int) -> None: ...

    def close(self, failed: bool) -> None: ...


class Reporter:
    """Lines to `train.log` and to standard error, figures to TensorBoard, and a progress line on a terminal."""

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

        active: False in every process of a run but one: nothing is written and nothing shown.
        wandb_project: send the figures to this project of Weights & Biases too, with `run_config` as the run's
        configuration. Raises ConfigError when it is not installed, or when it does not let us in.
        """
        self._active = active
        self._boards: list[_Board] = []
        self._console = console or Console(stderr=True)
        self._show = active and self._console.is_terminal
        if active:
            self._boards.append(_TensorBoard(output / TENSORBOARD))
            if wandb_project is not None:
                self._boards.append(_WeightsAndBiases(output, wandb_project, run_config or {}))
            self._file = (output / "train.log").open("a", encoding="utf-8")
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
        if error is not None:  # whoever catches it tells the person
            self._note(f"stopped by {type(error).__name__}: {error}")
        if self._show:
            self._bar.stop()
        self._file.close()
        for board in self._boards:
            board.close(failed=error is not None)

    def go_on_after(self, step: int) -> None:
        """To be called before the first figure: those of later steps, left by a run that was cut off, are hidden."""
        for board in self._boards:
            if isinstance(board, _TensorBoard):
                board.first_step = step + 1

    def line(self, text: str) -> None:
        """One line for the log, with the time."""
        if not self._active:
            return
        stamped = self._note(text)
        if self._show:
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
        """Scalars, as `group/name`."""
        for board in self._boards:
            board.scalars({f"{group}/{name}": value for name, value in values.items()}, step)

    def expert_loads(self, loads: Mapping[str, Tensor], step: int) -> None:
        """How evenly experts are used, by layer and in all.

        Of each layer the largest share of one expert, the entropy of the shares (1: even), the number of experts that
        computed nothing, and the load itself; over all layers the largest share, mean and least entropy, and the number
        of dead experts. Layers that computed nothing at all, such as a decoder without a loss, are left out.

        loads: frame copies computed by each expert (E,) of each layer.
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
    """Event files; a folder without figures is not made."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None
        self.first_step = 0
        """What was written for this step or later ones does not count any more."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._open().add_scalar(name, value, step)

    def tensor(self, name: str, values: Tensor, step: int) -> None:
        self._open().add_tensor(name, values.to(torch.int32), step)

    def close(self, failed: bool) -> None:
        if self._writer is not None:
            self._writer.close()

    def _open(self) -> SummaryWriter:
        # Figures that a cut-off run wrote after its last checkpoint are hidden: they come again.
        if self._writer is None:
            self._writer = SummaryWriter(str(self._folder), purge_step=self.first_step)
        return self._writer


class _WeightsAndBiases:
    """A run at wandb.ai or, with WANDB_MODE=offline, in a folder that `wandb sync` sends there later.

    Its own steps only ever grow, so ours are a figure, `update`, that every curve is drawn over: a point that a
    continued run computes again lies on the one before.
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
            advice = "`wandb login` lets you in, WANDB_MODE=offline keeps the figures here"
            raise ConfigError(f"wandb_project {project}: Weights & Biases says: {error} ({advice})") from None
        self._run.define_metric("update")
        self._run.define_metric("*", step_metric="update")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({"update": step, **values})

    def tensor(self, name: str, values: Tensor, step: int) -> None:
        """Shares and entropies of a layer go there; its counts are for TensorBoard and the plot."""

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))
