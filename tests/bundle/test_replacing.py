"""Replaced files and folders are complete or unchanged, however writing ends. A full disk gives a clear error."""

import contextlib
import errno
import io
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir
import pytest
import torch
from safetensors.torch import save_file

from unichoir.bundle.replacing import (
    NO_ROOM,
    replace_directory,
    replace_text,
    replacing,
    replacing_directory,
    replacing_path,
    restore_directory,
    writing,
)
from unichoir.errors import CheckpointError

SIZE = 300_000


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def fail(file: io.BufferedIOBase) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        fail(file)
    assert path.read_bytes() == b"before"
    with replacing(path) as file:
        file.write(b"after")
        file.flush()
        assert path.read_bytes() == b"before"
    assert path.read_bytes() == b"after"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError, match=r"none/file'$"), replacing(tmp_path / "none" / "file"):
        pass


def test_a_write_that_fails_leaves_the_directory_that_was_there(tmp_path: Path) -> None:
    with replacing_directory(tmp_path / "out") as folder:
        (folder / "whole").touch()

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("out of order")

    with pytest.raises(OSError, match="out of order"), replacing_directory(tmp_path / "out") as folder:
        fail(folder)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["whole"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


class Killed(BaseException):
    """Simulates the end of the process at this point."""


@pytest.mark.parametrize("steps", range(5))
def test_a_directory_that_is_replaced_is_never_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """Killed before any of the renames and removals: the old or the new content is there, or comes back."""
    done: list[str] = []

    def counted(function: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: object, **options: object) -> None:
            if len(done) == steps:
                raise Killed
            done.append(function.__name__)
            function(*arguments, **options)

        return call

    for name, text in ((".new", "new"), ("kept", "old")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(text)
    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(os, "replace", counted(os.replace))
        patch.setattr(shutil, "rmtree", counted(shutil.rmtree))
        replace_directory(tmp_path / ".new", tmp_path / "kept")
    assert len(done) == min(steps, 4)
    restore_directory(tmp_path / "kept")
    assert (tmp_path / "kept" / "file").read_text() == ("old" if steps < 3 else "new")
    with replacing_directory(tmp_path / "kept") as folder:
        (folder / "file").write_text("newer")
    assert (tmp_path / "kept" / "file").read_text() == "newer"
    assert not list(tmp_path.glob(".kept*"))


def write_safetensors(path: Path) -> None:
    with replacing_path(path) as partial:
        save_file({"weight": torch.zeros(SIZE)}, partial)


def write_torch(path: Path) -> None:
    with replacing(path) as file:
        torch.save({"weight": torch.zeros(SIZE)}, file)


def write_numpy(path: Path) -> None:
    with replacing(path) as file:
        np.save(file, np.zeros(SIZE))


def write_archive(path: Path) -> None:
    with replacing(path) as file:
        np.savez(file, weight=np.zeros(SIZE))


def write_onnx(path: Path) -> None:
    weight = onnx_ir.tensor(np.zeros(SIZE, np.float32), name="weight")
    value = onnx_ir.Value(name="weight", const_value=weight)
    graph = onnx_ir.Graph([], [], nodes=[], initializers=[value], opset_imports={"": 18})
    with replacing_path(path) as partial:
        onnx_ir.save(onnx_ir.Model(graph, ir_version=9), partial)


def write_text(path: Path) -> None:
    replace_text(path, "x" * SIZE)


WAYS = (write_safetensors, write_torch, write_numpy, write_archive, write_onnx, write_text)


@pytest.mark.parametrize("write", WAYS, ids=lambda write: write.__name__.removeprefix("write_"))
def test_no_room_for_a_file(write: Callable[[Path], None], tmp_path: Path, limit_files: Callable[[int], None]) -> None:
    """However a library reports it: an OSError that names the file; what was there stays, and nothing else is left."""
    path = tmp_path / "file"
    path.write_text("before")
    limit_files(100_000)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - its parts are looked at
        write(path)
    limit_files(-1)
    assert caught.value.errno in NO_ROOM
    assert caught.value.filename == str(path)
    assert caught.value.strerror == os.strerror(caught.value.errno)
    assert (path.read_text(), list(tmp_path.iterdir())) == ("before", [path])
    write(path)
    assert path.stat().st_size > 100_000
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")
@pytest.mark.parametrize("write", [np.save, torch.save, pickle.dump], ids=["numpy", "torch", "pickle"])
def test_a_device_without_room(write: Callable[..., None]) -> None:
    content = np.zeros(SIZE) if write is np.save else torch.zeros(SIZE)
    with pytest.raises(OSError) as caught, writing(Path("/dev/full")), open("/dev/full", "wb") as file:  # noqa: PT011
        write(*((file, content) if write is np.save else (content, file)))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/dev/full")


def test_no_room_for_a_directory(tmp_path: Path, limit_files: Callable[[int], None]) -> None:
    """The file is named as it would be in the directory; one that is copied by its new name."""
    with replacing_directory(tmp_path / "out") as folder:
        (folder / "file").write_text("before")
    source = tmp_path / "source"
    source.write_bytes(bytes(SIZE))
    limit_files(100_000)

    def fill(folder: Path) -> None:
        (folder / "small").touch()
        shutil.copyfile(source, folder / "large")

    with pytest.raises(OSError) as caught, replacing_directory(tmp_path / "out") as folder:  # noqa: PT011
        fill(folder)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / "out" / "large"))
    with pytest.raises(OSError) as caught, replacing_directory(tmp_path / "out") as folder:  # noqa: PT011
        (folder / "unnamed").write_bytes(bytes(SIZE))
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / "out"))
    assert (tmp_path / "out" / "file").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    for error in (ValueError("28"), OSError("unknown"), OSError(errno.EIO, "broken", "other"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, writing(tmp_path):
            raise error
        assert caught.value is error

    def explain() -> None:
        try:
            raise OSError(errno.ENOSPC, "full")
        except OSError:
            raise CheckpointError("has said it already") from None

    with pytest.raises(CheckpointError), writing(tmp_path):
        explain()
