"""A picture of which experts serve which language."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unichoir.bundle.replacing import replacing
from unichoir.network.load import LayerLoad

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

COLUMNS = 4
_PARTS = {
    "feed_forward_macaron": "before attention",
    "feed_forward": "after convolution",
}


def plot_experts(loads: Mapping[str, Mapping[str, LayerLoad]], path: Path) -> None:
    """Draw, for each layer and language, the share of the layer's computation that each expert does.

    loads: for each language the load of each layer, by layer name (`ExpertsByLanguage`); idle layers are omitted.
    path: the picture, in any format that matplotlib writes; the same loads give the same SVG.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    languages = sorted(loads)
    layers = {name: np.array([loads[one][name].frames for one in languages]) for name in loads[languages[0]]}
    totals = {name: counts.sum(axis=1, keepdims=True) for name, counts in layers.items()}
    shares = {name: 100 * counts / np.maximum(totals[name], 1) for name, counts in layers.items() if totals[name].any()}
    rows = -(-len(shares) // COLUMNS)
    figure = Figure(figsize=(3.2 * COLUMNS, (0.75 + 0.28 * len(languages)) * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, COLUMNS, squeeze=False)
    highest = max((float(share.max()) for share in shares.values()), default=100.0)
    for axes, (name, share) in zip(grid.flat, shares.items(), strict=False):
        image = _draw(axes, layer_title(name), languages, share, highest)
    for axes in grid.flat[len(shares) :]:
        axes.axis("off")
    if shares:
        figure.colorbar(image, ax=grid, label="% of the language's computation", shrink=0.8)
    with matplotlib.rc_context({"svg.hashsalt": "experts"}), replacing(path) as file:
        figure.savefig(file, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)


def layer_title(name: str) -> str:
    """Return the name of a layer in words."""
    block = re.search(r"\d+", name)
    number = f" {int(block[0]) + 1}" if block else ""
    part = _PARTS.get(name.rpartition(".")[2], "") if name.startswith("encoder") else ""
    return f"{name.partition('.')[0].replace('_', ' ')}{number}" + (f", {part}" if part else "")


def _draw(axes: Axes, title: str, languages: list[str], share: np.ndarray, highest: float) -> AxesImage:
    image = axes.imshow(share, aspect="auto", cmap="viridis", vmin=0.0, vmax=highest)
    axes.set_title(title, fontsize=9)
    axes.set_yticks(range(len(languages)), [one or "unknown" for one in languages])
    axes.set_xticks(range(share.shape[1]), [str(expert + 1) for expert in range(share.shape[1])])
    axes.tick_params(labelsize=8, length=0)
    for (row, column), value in np.ndenumerate(share):
        color = "black" if value > 0.6 * highest else "white"
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=color, fontsize=7)
    return image
