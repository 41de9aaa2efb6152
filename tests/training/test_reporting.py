import io
import json
import math
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from unichoir.errors import ConfigError
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
        report.go_on_after(1)
        report.figures("dev", {"loss": 5.0}, 1)
        report.figures("train", {"loss": 2.0}, 2)
    assert scalars(tmp_path, "train/loss") == [(1, 11.0), (2, 2.0)]


LOADS = {"a": torch.tensor([3, 1, 0, 0]), "b": torch.tensor([1, 1, 1, 1]), "unused": torch.tensor([0, 0])}


def test_expert_loads(tmp_path: Path) -> None:
    with Reporter(tmp_path) as report:
        report.expert_loads(LOADS, 5)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(4)
    expected = {
        "a/largest_share": 0.75,
        "a/entropy": entropy,
        "a/dead": 2.0,
        "b/largest_share": 0.25,
        "b/entropy": 1.0,
        "b/dead": 0.0,
        "largest_share": 0.75,
        "mean_entropy": (1 + entropy) / 2,
        "least_entropy": entropy,
        "dead": 2.0,
    }
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {tag.removeprefix("experts/") for tag in events.Tags()["scalars"]} == set(expected)
    for name, value in expected.items():
        assert scalars(tmp_path, f"experts/{name}") == [(5, pytest.approx(value))]
    (event,) = events.Tensors("experts/a/copies")
    assert (event.step, make_ndarray(event.tensor_proto).tolist()) == (5, [3, 1, 0, 0])


def test_dense_models_have_no_expert_loads(tmp_path: Path) -> None:
    with Reporter(tmp_path) as report:
        report.expert_loads({}, 5)
    assert not (tmp_path / "tensorboard").exists()


def test_all_processes_but_one_are_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    with Reporter(tmp_path, console, active=False, wandb_project="speech") as report:
        report.line("a line")
        report.progress("update 7", 0.5)
        report.figures("train", {"loss": 1.0}, 7)
        report.expert_loads(LOADS, 7)
    assert list(tmp_path.iterdir()) == []
    assert (screen.getvalue(), capsys.readouterr()) == ("", ("", ""))


def wandb_records(folder: Path) -> list[Any]:
    """What `wandb sync` would send: records in LevelDB's log format, pieces of them in blocks of 32 KiB."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # its process writes the file to the end after the run has finished, and is gone after this
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    content = path.read_bytes()
    assert content.startswith(b":W&B")
    place, whole, records = 7, b"", []
    while place + 7 <= len(content):
        size, kind = struct.unpack_from("<HB", content, place + 4)
        whole += content[place + 7 : place + 7 + size]
        place += 7 + size
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
        if kind in (1, 4):  # complete, or the last piece
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            records.append(record)
            whole = b""
    return records


@pytest.fixture
def wandb_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """Weights & Biases as in a new process, away from the network and from whoever is logged in here."""
    import wandb

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    wandb.teardown()
    yield monkeypatch
    wandb.teardown()


def test_weights_and_biases(tmp_path: Path, wandb_settings: pytest.MonkeyPatch) -> None:
    wandb_settings.setenv("WANDB_MODE", "offline")
    (tmp_path / "wandb_id").write_text("run12345\n")  # of an earlier part of the run
    with Reporter(tmp_path, wandb_project="speech", run_config={"optim": {"learning_rate": 0.5}}) as report:
        report.figures("train", {"loss": 2.5}, 20)
        report.expert_loads(LOADS, 20)
        report.figures("dev", {"wer": 0.25}, 30)
    records = wandb_records(tmp_path)
    (run,) = [record.run for record in records if record.HasField("run")]
    assert (run.run_id, run.project) == ("run12345", "speech")
    assert {item.key: json.loads(item.value_json) for item in run.config.update}["optim"] == {"learning_rate": 0.5}
    rows = []
    for record in records:
        if record.HasField("history"):
            items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            rows.append({name: json.loads(value) for name, value in items.items() if not name.startswith("_")})
    assert rows[0] == {"update": 20, "train/loss": 2.5}
    assert rows[1]["update"] == 20
    assert rows[1]["experts/a/largest_share"] == 0.75
    assert rows[2] == {"update": 30, "dev/wer": 0.25}
    assert scalars(tmp_path, "train/loss") == [(20, 2.5)]
    assert "run12345" in next(tmp_path.glob("wandb/offline-run-*")).name


def test_a_run_gets_a_name_that_stays(tmp_path: Path, wandb_settings: pytest.MonkeyPatch) -> None:
    wandb_settings.setenv("WANDB_MODE", "disabled")
    names = set()
    for _ in range(2):
        with Reporter(tmp_path, wandb_project="speech"):
            pass
        names.add((tmp_path / "wandb_id").read_text())
    (name,) = names
    assert re.fullmatch(r"[0-9a-f]{8}\n", name)


def test_weights_and_biases_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"pip install 'unichoir\[wandb\]'"):
        Reporter(tmp_path, wandb_project="speech")
    assert list(tmp_path.iterdir()) == []


def test_weights_and_biases_that_does_not_let_us_in(tmp_path: Path, wandb_settings: pytest.MonkeyPatch) -> None:
    wandb_settings.setenv("WANDB_MODE", "online")
    wandb_settings.setenv("WANDB_API_KEY", "short")
    with pytest.raises(ConfigError, match=r"wandb_project speech: Weights & Biases says: .*WANDB_MODE=offline"):
        Reporter(tmp_path, wandb_project="speech")
    assert not (tmp_path / "train.log").exists()


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
