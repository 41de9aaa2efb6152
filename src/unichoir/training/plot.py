"""A plot of a complete run, drawn from TensorBoard's event files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from unichoir.bundle.replacing import replacing
from unichoir.training.reporting import COPIES, TENSORBOARD

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURE = "training.png"
COLUMNS = 3
LAST = 10
"""The heat map shows the load in the last 1 / LAST of the run."""
Points = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Updates and values, (N,) each."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A figure of TensorBoard on a panel."""

    tag: str
    label: str
    color: str = "C0"
    style: str = "-"
    right: bool = False
    """Whether the curve has its own axis on the right."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Curves that share an axis."""

    title: str
    unit: str
    curves: Sequence[Curve]
    right_unit: str = ""
    scale: Literal["auto", "log", "zero"] = "auto"
    """Scale of the axis. zero: starts at 0; log: logarithmic if all values allow it."""


def _pair(name: str, color: str) -> list[Curve]:
    return [
        Curve(tag=f"train/{name}", label=f"{name}, training", color=color),
        Curve(tag=f"dev/{name}", label=f"{name}, dev", color=color, style="o--"),
    ]


PANELS = (
    Panel(
        title="Loss",
        unit="per utterance",
        curves=[*_pair("ctc", "C1"), *_pair("attention", "C2"), *_pair("loss", "C0")],
        scale="log",
    ),
    Panel(
        title="Error rates on dev, greedy CTC",
        unit="% of the reference",
        curves=[
            Curve(tag="dev/wer", label="words", style="o-"),
            Curve(tag="dev/ter", label="tokens", color="C1", style="s-"),
        ],
        scale="zero",
    ),
    Panel(
        title="Learning rate",
        unit="learning rate",
        curves=[Curve(tag="train/learning_rate", label="learning rate")],
    ),
    Panel(
        title="Gradient norm before clipping",
        unit="norm",
        curves=[Curve(tag="train/gradient", label="gradient")],
        scale="log",
    ),
    Panel(
        title="Throughput and waiting for data",
        unit="seconds of audio per second",
        curves=[
            Curve(tag="train/audio_seconds_per_second", label="throughput"),
            Curve(tag="train/stall", label="waiting", color="C1", right=True),
        ],
        right_unit="% of the time",
        scale="zero",
    ),
    Panel(
        title="Memory and balance of the processes",
        unit="GB",
        curves=[
            Curve(tag="train/memory_gb", label="memory"),
            Curve(tag="train/imbalance", label="imbalance", color="C1", right=True),
        ],
        right_unit="imbalance of audio",
        scale="zero",
    ),
    Panel(
        title="Audio trained on and utterances skipped",
        unit="hours",
        curves=[
            Curve(tag="train/audio_hours", label="audio"),
            Curve(tag="train/skipped", label="skipped", color="C1", right=True),
        ],
        right_unit="utterances",
        scale="zero",
    ),
    Panel(
        title="Entropy of expert load (1: even)",
        unit="entropy / maximum",
        curves=[
            Curve(tag="experts/mean_entropy", label="mean of the layers"),
            Curve(tag="experts/least_entropy", label="least even layer", color="C1"),
            Curve(tag="experts/dead", label="dead experts", color="C3", style=":", right=True),
        ],
        right_unit="experts",
    ),
)
PERCENT = ("dev/wer", "dev/ter", "train/stall")
"""Fractions that are shown in percent."""


@dataclass(frozen=True, kw_only=True)
class History:
    """The recorded figures of a run."""

    scalars: Mapping[str, Points] = field(default_factory=dict)
    loads: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """Frame copies per expert for each layer: (N, E), by the layer's name, in the order of the model."""


def read_history(folder: Path) -> History:
    """Read all figures from the event files of one folder. For a continued run, replaced figures are left out."""
    if not folder.is_dir():
        return History()
    from tensorboard.backend.event_processing import event_accumulator  # type: ignore[import-untyped]
    from tensorboard.util.tensor_util import make_ndarray  # type: ignore[import-untyped]

    everything = {event_accumulator.SCALARS: 0, event_accumulator.TENSORS: 0}
    events = event_accumulator.EventAccumulator(str(folder), size_guidance=everything)
    events.Reload()
    tags = events.Tags()
    scalars = {}
    for tag in tags["scalars"]:
        points = [(event.step, event.value) for event in events.Scalars(tag) if np.isfinite(event.value)]
        if points:
            steps, values = np.array(points, dtype=np.float64).T
            scalars[tag] = (steps, values)
    loads = {}
    for tag in tags["tensors"]:
        layer, _, last = tag.removeprefix("experts/").rpartition("/")
        counts = {event.step: make_ndarray(event.tensor_proto) for event in events.Tensors(tag)}
        # TensorBoard hides replaced scalars of a continued run, but not replaced tensors.
        steps, _ = scalars.get(f"experts/{layer}/entropy", ((), ()))
        kept = [counts[step] for step in steps if step in counts]
        if last == COPIES and kept:
            loads[layer] = np.stack(kept).astype(np.float64)
    return History(scalars=scalars, loads=loads)


def plot_training(output: Path) -> Path:
    """Draw `output/training.png` from `output/tensorboard`: losses, error rates, speed, memory, load of experts.

    Panels without figures are left out; without any figure the plot says so. Returns the path of the plot.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    history = read_history(output / TENSORBOARD)
    panels = [panel for panel in PANELS if any(curve.tag in history.scalars for curve in panel.curves)]
    rows = max(-(-len(panels) // COLUMNS), 1)
    names = list(history.loads)
    map_inches = 1.2 + 0.16 * len(names) if names else 0.0
    size = 5.4 * min(max(len(panels), 1), COLUMNS), 3.4 * rows + map_inches
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        rows + bool(names), min(max(len(panels), 1), COLUMNS), height_ratios=[3.4] * rows + [map_inches] * bool(names)
    )
    for place, panel in enumerate(panels):
        _draw(figure.add_subplot(grid[place // COLUMNS, place % COLUMNS]), panel, history)
    if names:
        _draw_loads(figure, figure.add_subplot(grid[rows, :]), history.loads)
    if not panels and not names:
        figure.text(0.5, 0.5, "no figures recorded", ha="center", va="center")
    path = output / PICTURE
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # saving would repeat the layout
    with replacing(path) as file:
        figure.savefig(file)
    return path


def _draw(axes: Axes, panel: Panel, history: History) -> None:
    from matplotlib.ticker import LogFormatter, MaxNLocator

    right: Axes | None = None
    lines = []
    lowest = np.inf
    for curve in panel.curves:
        if curve.tag not in history.scalars:
            continue
        steps, values = history.scalars[curve.tag]
        if curve.tag in PERCENT:
            values = 100 * values
        target = axes
        if curve.right:
            target = right = right or axes.twinx()
        lowest = min(lowest, float(values.min()))
        style = "o" if len(steps) == 1 else curve.style
        lines += target.plot(steps, values, style, label=curve.label, color=curve.color, linewidth=1.2, markersize=3)
    columns = min(len(lines), 3)
    axes.set_title(panel.title, pad=6 + 12 * -(-len(lines) // columns) if len(lines) > 1 else 6)
    axes.set(xlabel="update", ylabel=panel.unit)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.grid(alpha=0.3)
    if panel.scale == "zero":
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    elif panel.scale == "log" and lowest > 0:
        axes.set_yscale("log")
        for formatted in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            formatted(LogFormatter(minor_thresholds=(1.5, 0.5)))
    if right is not None:
        right.set_ylabel(panel.right_unit)
        right.set_ylim(0, max(1.05 * right.get_ylim()[1], 1e-3))
    if len(lines) > 1:  # above the curves, not over them
        axes.legend(
            handles=lines,
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            borderaxespad=0.0,
            ncols=columns,
            fontsize="x-small",
            frameon=False,
        )


def _draw_loads(figure: Figure, axes: Axes, loads: Mapping[str, NDArray[np.float64]]) -> None:
    """Draw layers by experts. Lighter means a higher load than even, and black means dead."""
    most = max(counts.shape[1] for counts in loads.values())
    shares = np.full((len(loads), most), np.nan)
    for row, counts in enumerate(loads.values()):
        last = counts[-max(len(counts) // LAST, 1) :].sum(axis=0)
        shares[row, : len(last)] = last * len(last) / max(last.sum(), 1)
    picture = axes.imshow(shares, aspect="auto", cmap="inferno", vmin=0, vmax=max(2.0, float(np.nanmax(shares))))
    axes.set_yticks(range(len(loads)), [short_name(name) for name in loads], fontsize="x-small")
    axes.set_xticks(range(most), [str(expert) for expert in range(most)])
    axes.set(title=f"Load of experts, last {100 // LAST} % of the run", xlabel="expert")
    figure.colorbar(picture, ax=axes, label="load / even load", pad=0.01)


def short_name(layer: str) -> str:
    """Return a layer's name as a label: `encoder 3, first half` for `encoder.blocks.3.feed_forward_macaron`."""
    match = re.fullmatch(r"(\w+)\.blocks\.(\d+)\.(\w+)", layer)
    if match is None:
        return layer
    stack, block, part = match.groups()
    half = {"feed_forward_macaron": ", first half", "feed_forward": ", second half"}.get(part, f", {part}")
    return f"{stack.replace('_', ' ')} {block}{half if stack == 'encoder' else ''}"
