"""Pulling from a real server: conversion, names, checksums, and what stays after a failure."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.bundle.archive_server import ArchiveServer, make_archive

from unichoir import api
from unichoir.bundle import download
from unichoir.bundle.pulled import Record, find_checkpoint, find_pulled, pulled_models
from unichoir.bundle.sums import check_sums
from unichoir.errors import CheckpointError, DownloadError, UnichoirError
from unichoir.export import pull as pulling
from unichoir.export.pull import pull

AISHELL = "aishell_u2pp_conformer_exp.tar.gz"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, fixtures: Path) -> Iterator[ArchiveServer]:
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.0)
    server = ArchiveServer()
    server.archives[AISHELL] = make_archive(fixtures / "wenet_moe_tiny")
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    with server.running():
        yield server


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNICHOIR_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    """Tests of names and failures don't need the graphs of the model, which take seconds."""

    def copy(checkpoint: Path, output: Path, **_: Any) -> None:
        shutil.copytree(tiny_model, output)
        shutil.copyfile(checkpoint / "README.md", output / "README.md")

    monkeypatch.setattr(pulling, "export_onnx", copy)


def left(cache: Path) -> list[str]:
    """Return the files in the cache, apart from locks."""
    return sorted(str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file() and path.name != "lock")


def requests(server: ArchiveServer) -> list[tuple[str, int]]:
    return [(path.partition("/")[2].partition("/")[0].partition("?")[0], status) for path, _, status in server.log]


@pytest.mark.usefixtures("quick")
def test_a_model_and_its_checkpoint_with_a_card(
    server: ArchiveServer, cache: Path, capsys: pytest.CaptureFixture[str], fixtures: Path
) -> None:
    from unichoir.network.checkpoint import load_checkpoint

    pulled = pull("wenet/aishell")
    assert (pulled.name, pulled.directory, pulled.is_new) == ("wenet/aishell", cache / "models/wenet/aishell", True)
    check_sums(pulled.directory)
    assert (pulled.directory / "encoder.onnx").stat().st_size > 1000
    model, _ = load_checkpoint(pulled.directory / "checkpoint")
    from unichoir.formats.wenet.checkpoint import load_wenet

    original = load_wenet(fixtures / "wenet_moe_tiny").model.state_dict()
    assert all(original[name].equal(tensor) for name, tensor in model.state_dict().items())
    card = (pulled.directory / "README.md").read_text()
    for stated in ("# wenet/aishell", "license: apache-2.0", "AISHELL-1, 151 hours", "CER % test 4.63 / 5.05", "- zh"):
        assert stated in card
    digest = hashlib.sha256(server.archives[AISHELL]).hexdigest()
    assert Record.read(pulled.directory).sha256 == digest
    assert str(cache) not in (pulled.directory / "pulled.json").read_text()
    assert not (cache / "downloads/wenet/aishell/archive").exists(), "deleted after the conversion"
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"wenet/aishell: downloading {server.url}/listed/{AISHELL} (")
    assert said[-1].startswith("wenet/aishell: ")
    assert "of model (int8)" in said[-1]

    assert not pull("wenet/aishell").is_new
    assert len(server.log) == 1
    assert api.portable_name("wenet/aishell") == f"wenet/aishell@{digest}"
    assert api.find_model(f"wenet/aishell@{digest}") == pulled.directory
    assert api.model_name(f"wenet/aishell@{digest}") == api.model_name("wenet/aishell") == "wenet/aishell"
    assert api.find_checkpoint("wenet/aishell") == pulled.directory / "checkpoint"
    with pytest.raises(CheckpointError, match="the cache has another version"):
        api.find_model(f"wenet/aishell@{digest[::-1]}")


@pytest.mark.usefixtures("quick")
def test_the_second_address_if_the_list_does_not_help(
    server: ArchiveServer, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.unlisted.add(AISHELL)
    pull("wenet/aishell")
    assert requests(server) == [("get", 200)]
    assert f"does not list {AISHELL}; trying {server.url}/get?version={AISHELL}" in capsys.readouterr().err
    server.log.clear()
    server.unlisted.clear()
    server.missing.add(f"/listed/{AISHELL}")
    pull("wenet/aishell", force=True)
    assert requests(server) == [("get", 200)]
    assert "404" in capsys.readouterr().err
    server.missing.add(f"/get?version={AISHELL}")
    with pytest.raises(DownloadError, match=r"wenet/aishell: .*/listed/.*404.*; .*/get\?version=.*404"):
        pull("wenet/aishell", force=True)
    assert find_pulled("wenet/aishell"), "what was there stays"


@pytest.mark.usefixtures("quick")
def test_an_archive_may_not_change(server: ArchiveServer, cache: Path, fixtures: Path) -> None:
    first = hashlib.sha256(server.archives[AISHELL]).hexdigest()
    pull("wenet/aishell")
    server.archives[AISHELL] = make_archive(fixtures / "wenet_dense")
    second = hashlib.sha256(server.archives[AISHELL]).hexdigest()
    with pytest.raises(DownloadError) as error:
        pull("wenet/aishell", force=True)
    assert f"SHA-256 of {server.url}/listed/{AISHELL} is {second}, at the first download it was {first}" in str(
        error.value
    )
    assert Record.read(cache / "models/wenet/aishell").sha256 == first
    assert not (cache / "downloads/wenet/aishell/archive").exists()
    shutil.rmtree(cache / "models")
    with pytest.raises(DownloadError, match=first):
        pull("wenet/aishell")
    with pytest.raises(DownloadError, match=f"it should be {first}"):
        pull(f"wenet/aishell@{first}")
    (cache / "downloads/wenet/aishell/sha256").unlink()
    pull("wenet/aishell")
    assert Record.read(cache / "models/wenet/aishell").sha256 == second


def test_what_fails_leaves_nothing(server: ArchiveServer, cache: Path) -> None:
    whole = server.archives[AISHELL]
    for content, kind, reason in (
        (b"<html>", "application/gzip", "not an archive, but a text such as a web page"),
        (b"<html>", "text/html", "sends a web page"),
        (whole[: len(whole) // 2], "application/gzip", "truncated"),
    ):
        server.archives[AISHELL], server.kind = content, kind
        with pytest.raises(UnichoirError, match=reason) as error:
            pull("wenet/aishell")
        assert AISHELL in str(error.value)
        assert left(cache) == []
    server.archives[AISHELL], server.kind, server.sizes = whole, "application/gzip", {AISHELL: 5}
    with pytest.raises(DownloadError, match=rf"the server offers {len(whole)} bytes, the list says 5"):
        pull("wenet/aishell")
    assert left(cache) == []


def test_a_model_that_is_refused_leaves_nothing(server: ArchiveServer, cache: Path, fixtures: Path) -> None:
    changed = cache.parent / "changed"
    shutil.copytree(fixtures / "wenet_moe_tiny", changed)
    text = (changed / "train.yaml").read_text()
    (changed / "train.yaml").write_text(text.replace("encoder: conformer", "encoder: branchformer"))
    server.archives[AISHELL] = make_archive(changed)
    # Not the folder it was unpacked to, which is gone.
    with pytest.raises(
        UnichoirError, match=rf"^{server.url}/listed/{AISHELL}/train\.yaml: encoder: 'branchformer' is a"
    ):
        pull("wenet/aishell")
    assert [name for name in left(cache) if not name.endswith("sha256")] == []
    assert list((cache / "models/wenet").iterdir()) == []


def test_a_full_disk_keeps_the_download(
    server: ArchiveServer, cache: Path, limit_files: Callable[[int], None], fixtures: Path
) -> None:
    limit_files(500_000)  # less than the archive
    with pytest.raises(OSError, match="File too large") as error:
        pull("wenet/aishell")
    limit_files(-1)
    archive = cache / "downloads/wenet/aishell/archive"
    assert error.value.filename == str(archive)
    assert archive.stat().st_size > 0
    limit_files(590_000)  # less than the unpacked weights
    with pytest.raises(OSError, match="File too large") as error:
        pull("wenet/aishell")
    limit_files(-1)
    assert str(error.value.filename).endswith("final.pt")
    assert not (cache / "models").exists()
    assert left(cache) == [f"downloads/wenet/aishell/{each}" for each in ("archive", "archive.json")]
    assert archive.stat().st_size == len(server.archives[AISHELL]), "it is not fetched again"


@pytest.mark.usefixtures("quick")
def test_folders_archives_and_addresses_have_names_too(server: ArchiveServer, cache: Path, fixtures: Path) -> None:
    shutil.copytree(fixtures / "wenet_moe_tiny", "exp u2++")
    Path("my_exp.tar.gz").write_bytes(server.archives[AISHELL])
    server.archives["other.tgz"] = server.archives[AISHELL]
    for source, name, origin in (
        ("exp u2++", "local/exp-u2", "exp u2++"),
        ("my_exp.tar.gz", "local/my_exp", "my_exp.tar.gz"),
        (f"{server.url}/listed/other.tgz", "local/other", f"{server.url}/listed/other.tgz"),
        (
            f"{server.url}/get?version={AISHELL}",
            "local/aishell_u2pp_conformer_exp",
            f"{server.url}/get?version={AISHELL}",
        ),
    ):
        pulled = pull(source)
        assert pulled.name == name
        assert api.find_model(name) == pulled.directory == cache / "models" / name
        assert api.portable_name(name) == str(pulled.directory)
        assert api.model_name(name) == name
        assert Record.read(pulled.directory).source == origin
        assert not pull(source).is_new
    assert len(pulled_models()) == 4

    Path("elsewhere").mkdir()
    Path("elsewhere/my_exp.tar.xz").write_bytes(make_archive(fixtures / "wenet_dense", mode="w:xz"))
    with pytest.raises(CheckpointError, match=r"local/my_exp: is in the cache already, from my_exp\.tar\.gz"):
        pull("elsewhere/my_exp.tar.xz")
    assert pull("elsewhere/my_exp.tar.xz", force=True).is_new

    written = pull("my_exp.tar.gz", Path("own"))
    assert (written.name, written.directory) == ("own", Path("own"))
    assert find_checkpoint("own") == Path("own/checkpoint")
    with pytest.raises(CheckpointError, match="own: exists and is not an empty folder"):
        pull("my_exp.tar.gz", Path("own"))
    pull("my_exp.tar.gz", Path("own"), force=True)
    with pytest.raises(CheckpointError, match="elsewhere: exists and is not an empty folder"):
        pull("my_exp.tar.gz", Path("elsewhere"), force=True)


def test_what_is_nothing_of_the_kind(server: ArchiveServer, cache: Path) -> None:
    for source in ("nothing", "missing.tar.gz", "/no/such/folder", "a/b/c", "local/unknown"):
        with pytest.raises(CheckpointError, match=rf"{source}: no such folder or archive"):
            pull(source)
    os.mkfifo("pipe.tar.gz")
    with pytest.raises(CheckpointError, match=r"pipe\.tar\.gz: neither a folder nor a file"):
        pull("pipe.tar.gz")
    Path("empty").mkdir()
    with pytest.raises(UnichoirError, match=r"empty/train\.yaml: no such file"):
        pull("empty")
    Path("notes.txt").write_text("notes")
    with pytest.raises(CheckpointError, match=r"notes\.txt: not a tar archive"):
        pull("notes.txt")
    with pytest.raises(CheckpointError, match="neither a model directory nor an included model"):
        api.find_model("nothing")
    assert left(cache) == []
