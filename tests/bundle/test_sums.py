"""SHA256SUMS: coreutils agree with it, and every changed file is refused by name."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from tests.samples import CLIPS, SMALL_MODEL

from unichoir import api
from unichoir.bundle.sums import SUMS_FILE, check_sums, write_sums
from unichoir.errors import CheckpointError, ConfigError
from unichoir.network.checkpoint import load_checkpoint


@pytest.fixture
def included(tmp_path: Path) -> Path:
    """A copy of a small model."""
    return Path(shutil.copytree(SMALL_MODEL, tmp_path / "model"))


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


def coreutils_agree(directory: Path) -> bool:
    command = ["sha256sum", "--check", "--strict", "--quiet", SUMS_FILE]
    return subprocess.run(command, cwd=directory, capture_output=True, check=False).returncode == 0


def listed(directory: Path) -> set[str]:
    return {line.split("  ")[1] for line in (directory / SUMS_FILE).read_text().splitlines()}


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs coreutils")
def test_coreutils_agree(included: Path, tiny_checkpoint: Path) -> None:
    for directory in (included, tiny_checkpoint):
        assert coreutils_agree(directory)
        written = {path.name for path in directory.iterdir()} - {SUMS_FILE, "README.md"}
        assert listed(directory) == written, "all that a model is read from, and no card"
    (included / "units.txt").write_text("changed")
    assert not coreutils_agree(included)
    write_sums(included)
    assert coreutils_agree(included)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("name", ["encoder.onnx", "reverse_decoder.onnx", "units.txt", "bpe.model"])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [(flip, "truncated, damaged or changed"), (cut, "truncated, damaged or changed"), (Path.unlink, "no such file")],
)
def test_damage_is_named(included: Path, name: str, damage: Callable[[Path], None], reason: str) -> None:
    damage(included / name)
    with pytest.raises(CheckpointError, match=f"{name}: {reason}"):
        api.load_model(included)


def test_of_several_damaged_files_the_first_of_the_list_is_named(included: Path) -> None:
    """Although files are read in parallel, and the second one here is read long before the first."""
    names = [line.split("  ")[1] for line in (included / SUMS_FILE).read_text().splitlines()]
    assert names.index("encoder.onnx") < names.index("reverse_decoder.onnx") < names.index("units.txt")
    for name in ("encoder.onnx", "reverse_decoder.onnx", "units.txt"):
        flip(included / name)
    for _ in range(10):
        with pytest.raises(CheckpointError, match=r"encoder\.onnx: truncated, damaged or changed"):
            check_sums(included)


@pytest.mark.parametrize("name", ["model.safetensors", "units.txt"])
def test_damaged_checkpoints_are_refused(checkpoint: Path, name: str) -> None:
    flip(checkpoint / name)
    with pytest.raises(CheckpointError, match=f"{name}: truncated, damaged or changed"):
        load_checkpoint(checkpoint)
    with pytest.raises(CheckpointError, match=f"{name}: truncated, damaged or changed"):
        api.load_model(checkpoint)


def test_a_configuration_that_is_valid_but_another_is_refused(included: Path) -> None:
    path = included / "config.json"
    path.write_text(path.read_text().replace('"reverse_weight": 0.3', '"reverse_weight": 0.4'))
    with pytest.raises(CheckpointError, match=r"config\.json: truncated, damaged or changed"):
        api.load_model(included)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "folder/units.txt", "..", ".", "C:\\units.txt", "..\\units.txt"]
)
def test_what_lies_outside_is_not_even_read(included: Path, name: str) -> None:
    with (included / SUMS_FILE).open("a") as file:
        file.write(f"{'0' * 64}  {name}\n")
    with pytest.raises(CheckpointError, match=r"SHA256SUMS, line 10: .* is not the name of a file in this directory"):
        check_sums(included)


@pytest.mark.parametrize("line", ["", "units.txt", "abc  units.txt", f"{'g' * 64}  units.txt", f"{'0' * 64}units.txt"])
def test_malformed_lines_are_named(included: Path, line: str) -> None:
    (included / SUMS_FILE).write_text(f"{line}\n")
    with pytest.raises(CheckpointError, match="line 1: expected a SHA-256, two spaces and the name of a file"):
        check_sums(included)


def test_other_damage_to_the_list(included: Path) -> None:
    path = included / SUMS_FILE
    content = path.read_text()
    path.write_text(content + content.splitlines()[0] + "\n")
    with pytest.raises(CheckpointError, match=r"line 10: 'bpe\.model' is listed twice"):
        check_sums(included)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="SHA256SUMS: cannot be read"):
        check_sums(included)
    path.write_text("")
    with pytest.raises(CheckpointError, match=r"bpe\.model: not listed in SHA256SUMS"):
        check_sums(included)


def test_a_file_that_was_put_there_is_refused(included: Path) -> None:
    (included / "other.onnx").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"other\.onnx: not listed in SHA256SUMS"):
        api.load_model(included)


def test_the_card_and_other_notes_may_change(included: Path) -> None:
    (included / "README.md").write_text("my own words")
    (included / "notes.txt").write_text("more of them")
    assert api.load_model(included)
    (included / "README.md").unlink()
    assert api.load_model(included)


def test_directories_of_earlier_releases_are_read(included: Path, checkpoint: Path) -> None:
    for directory in (included, checkpoint):
        (directory / SUMS_FILE).unlink()
        assert api.load_model(directory)


def test_newer_formats_are_refused(included: Path, checkpoint: Path) -> None:
    path = included / "config.json"
    path.write_text(path.read_text().replace('"format_version": 3', '"format_version": 4'))
    with pytest.raises(CheckpointError, match=r"model: format version 4, .* a newer release is needed"):
        api.load_model(included)
    path = checkpoint / "config.yaml"
    path.write_text(path.read_text().replace("format_version: 1", "format_version: 2"))
    with pytest.raises(CheckpointError, match=r"checkpoint: format version 2, .* a newer release is needed"):
        api.load_model(checkpoint)


def test_links_are_followed(included: Path, tmp_path: Path) -> None:
    """As in the cache of the Hugging Face hub, where all files of a model are links."""
    (tmp_path / "linked").mkdir()
    for path in included.iterdir():
        (tmp_path / "linked" / path.name).symlink_to(path)
    assert api.load_model(tmp_path / "linked")


def test_loading_opens_no_pickle(included: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    import torch

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a pickle was opened")

    (checkpoint / "final.pt").write_bytes(pickle.dumps("beside it"))
    for module, name in ((pickle, "Unpickler"), (pickle, "load"), (pickle, "loads"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    with pytest.raises(AssertionError, match="a pickle was opened"):
        torch.load(checkpoint / "final.pt")
    assert api.load_model(included).transcribe(CLIPS[1]).text
    assert api.load_model(checkpoint)


@pytest.mark.parametrize("name", ["final.pt", "pytorch_model.bin", "weights.ckpt"])
def test_pickles_alone_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04N.")
    with pytest.raises(
        CheckpointError, match=f"neither a model .* {name} is not read, because pickles can run any code"
    ):
        api.load_model(tmp_path)
    (tmp_path / "train.yaml").touch()
    with pytest.raises(CheckpointError, match=f"unichoir import-wenet {tmp_path} OUT"):
        api.load_model(tmp_path)


@pytest.mark.parametrize("name", ["weights.bin", "../weights.bin", "w" * 200])
def test_weights_outside_of_the_list_are_refused(included: Path, name: str) -> None:
    """A graph may have weights in another file. The sums of the graph are right, since that is what is attacked."""
    graph = onnx.load(included / "ctc.onnx")
    weight = next(each for each in graph.graph.initializer if each.data_type == onnx.TensorProto.INT8)
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=name)
    if len(name) < 100:
        (included / name).write_bytes(weight.raw_data)
    weight.ClearField("raw_data")
    (included / "ctc.onnx").write_bytes(graph.SerializeToString())
    write_sums(included)
    with pytest.raises(CheckpointError, match=r"ctc\.onnx: has weights in '.+', which SHA256SUMS does not list"):
        api.load_model(included)


def test_weights_in_a_file_of_the_list_are_read(included: Path) -> None:
    expected, graph = api.load_model(included).transcribe(CLIPS[0]).text, included / "encoder.onnx"
    onnx.save(onnx.load(graph), graph, save_as_external_data=True, location="encoder.onnx.data")
    write_sums(included)
    assert "encoder.onnx.data" in listed(included)
    assert api.load_model(included).transcribe(CLIPS[0]).text == expected


@pytest.mark.parametrize("kind", ["pipe", "deep", "folder"])
def test_configurations_that_are_no_files_or_have_no_bottom(included: Path, checkpoint: Path, kind: str) -> None:
    """A named pipe would be waited for without end; nesting would end in Python's recursion."""
    for directory, name, load in (
        (included, "config.json", api.load_model),
        (checkpoint, "config.yaml", load_checkpoint),
    ):
        path = directory / name
        path.unlink()
        (directory / SUMS_FILE).unlink()
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            path.write_text("[" * 100_000)
        with pytest.raises((CheckpointError, ConfigError)) as raised:
            load(directory)
        assert len(str(raised.value)) < 600


def test_a_graph_that_is_empty_is_named(included: Path) -> None:
    """Cut to nothing it is damaged; listed as such it is no graph."""
    (included / "ctc.onnx").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"ctc\.onnx: truncated, damaged or changed"):
        check_sums(included)
    write_sums(included)
    check_sums(included)
    with pytest.raises(CheckpointError, match=r"ctc\.onnx: cannot be read"):
        api.load_model(included)
