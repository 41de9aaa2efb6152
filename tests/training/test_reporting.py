import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from unichoir.training.reporting import Reporter


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_figures_of_a_cut_off_run_are_replaced(tmp_path: Path) -> None:
    with Reporter(tmp_path) as report:
        for step in (1, 2, 3):
            report.figures("train", {"loss": 10.0 + step}, step)
    with Reporter(tmp_path) as report:
        report.figures("train", {"loss": 2.0}, 2)
    assert scalars(tmp_path, "train/loss") == [(1, 11.0), (2, 2.0)]


def test_expert_loads(tmp_path: Path) -> None:
    with Reporter(tmp_path) as report:
        report.expert_loads({"a": torch.tensor([3, 1, 0, 0]), "b": torch.tensor([1, 1, 1, 1])}, 5)
    assert scalars(tmp_path, "experts/a/largest_share") == [(5, 0.75)]
    assert scalars(tmp_path, "experts/largest_share") == [(5, 0.75)]
    assert scalars(tmp_path, "experts/unused") == [(5, 2.0)]


def test_lines_and_progress_on_a_terminal(tmp_path: Path) -> None:
    screen = io.StringIO()
    with Reporter(tmp_path, Console(file=screen, force_terminal=True, width=80)) as report:
        report.line("the loss [of all] is 3")
        report.progress("update 7", 0.5)
    assert "the loss [of all] is 3" in screen.getvalue()
    assert "update 7" in screen.getvalue()
    assert (tmp_path / "train.log").read_text().endswith("the loss [of all] is 3\n")


def test_without_a_terminal_lines_go_to_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with Reporter(tmp_path) as report:
            report.progress("update 7", 0.5)
            report.line("a line")
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        fail()
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.endswith(" a line\n")
    assert (tmp_path / "train.log").read_text().endswith("stopped by RuntimeError: no more\n")
