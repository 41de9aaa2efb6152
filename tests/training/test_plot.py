"""The picture of a run, from the event files of a run."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from unichoir.training.plot import plot_training, read_history, short_name
from unichoir.training.reporting import Reporter

FIGURES = {"loss": 9.0, "ctc": 8.0, "gradient": 2.0, "audio_seconds_per_second": 90.0, "stall": 0.1, "memory_gb": 3.0}


def write_run(output: Path, steps: range, experts: int = 0) -> None:
    with Reporter(output) as report:
        report.go_on_after(steps[0] - 1)
        for step in steps:
            report.figures("train", {name: value / step for name, value in FIGURES.items()}, step)
            counts = torch.arange(experts) * step
            report.expert_loads({f"encoder.blocks.{i}.feed_forward": counts for i in range(2 * bool(experts))}, step)
        report.figures("dev", {"loss": 4.0, "wer": 0.5, "ter": 0.25}, steps[-1])


def size_of(picture: Path) -> tuple[int, int]:
    """Return height and width of the picture, which must not be blank."""
    pixels = imread(picture)
    assert (pixels[..., 0] < 0.5).sum() > 100  # dark ones: letters and lines on white
    return pixels.shape[:2]


def test_a_run_that_was_continued_counts_once(tmp_path: Path) -> None:
    write_run(tmp_path, range(1, 6), experts=3)
    write_run(tmp_path, range(4, 9), experts=3)
    history = read_history(tmp_path / "tensorboard")
    steps, values = history.scalars["train/loss"]
    assert steps.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert values == pytest.approx(9 / steps)
    assert list(history.loads) == ["encoder.blocks.0.feed_forward", "encoder.blocks.1.feed_forward"]
    assert history.loads["encoder.blocks.0.feed_forward"].tolist() == [[0, step, 2 * step] for step in range(1, 9)]


def test_picture(tmp_path: Path) -> None:
    write_run(tmp_path, range(1, 20), experts=4)
    assert plot_training(tmp_path) == tmp_path / "training.png"
    with_experts = size_of(tmp_path / "training.png")
    write_run(tmp_path, range(1, 20))  # all that came before is hidden
    plot_training(tmp_path)
    height, width = size_of(tmp_path / "training.png")
    assert (height < with_experts[0], width) == (True, with_experts[1])
    assert {path.name for path in tmp_path.iterdir()} == {"training.png", "tensorboard", "train.log"}


def test_everything_on_the_picture_stays_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **options: (drawn.append(self), save(self, *args, **options))
    )
    write_run(tmp_path, range(1, 20), experts=4)
    plot_training(tmp_path)
    (figure,) = drawn
    renderer = figure.canvas.get_renderer()
    places = [axes.get_tightbbox(renderer) for axes in figure.axes]
    outlines = [axes.get_window_extent(renderer) for axes in figure.axes]
    for i, place in enumerate(places):
        assert 0 <= place.x0 <= place.x1 <= figure.bbox.x1 + 1
        assert 0 <= place.y0 <= place.y1 <= figure.bbox.y1 + 1
        for j in range(i):
            twins = np.allclose(outlines[i].bounds, outlines[j].bounds)
            assert twins or not place.overlaps(places[j])
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles[:2] == ["Loss", "Error rates on dev, greedy CTC"]
    assert titles[-1] == "Load of experts, last 10 % of the run"


@pytest.mark.parametrize("experts", [0, 2])
def test_one_point(tmp_path: Path, experts: int) -> None:
    write_run(tmp_path, range(7, 8), experts)
    size_of(plot_training(tmp_path))


def test_values_that_are_zero_or_not_finite(tmp_path: Path) -> None:
    with Reporter(tmp_path) as report:
        for step, value in enumerate([1.0, float("nan"), 0.0, float("inf")], start=1):
            report.figures("train", {"loss": value, "gradient": value, "stall": 0.0}, step)
    assert read_history(tmp_path / "tensorboard").scalars["train/loss"][1].tolist() == [1.0, 0.0]
    size_of(plot_training(tmp_path))


def test_nothing_recorded(tmp_path: Path) -> None:
    size_of(plot_training(tmp_path))


@pytest.mark.parametrize(
    ("layer", "label"),
    [
        ("encoder.blocks.3.feed_forward_macaron", "encoder 3, first half"),
        ("encoder.blocks.14.feed_forward", "encoder 14, second half"),
        ("left_decoder.blocks.2.feed_forward", "left decoder 2"),
        ("something.else", "something.else"),
    ],
)
def test_short_names(layer: str, label: str) -> None:
    assert short_name(layer) == label
