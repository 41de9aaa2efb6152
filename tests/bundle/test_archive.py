"""Archives from anyone: only what is needed is unpacked, and what is hostile or damaged is refused in one line."""

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.bundle.archive_server import make_archive

from unichoir.bundle import archive as archives
from unichoir.bundle.archive import unpack_wenet
from unichoir.errors import CheckpointError

FILES = ("final.pt", "global_cmvn", "train.yaml", "units.txt")
Change = Callable[[tarfile.TarFile], object]


@pytest.fixture
def source(fixtures: Path) -> Path:
    return fixtures / "wenet_moe_tiny"


def unpack(tmp_path: Path, content: bytes) -> Path:
    path, folder = tmp_path / "x.tar.gz", tmp_path / "out"
    path.write_bytes(content)
    folder.mkdir()
    return unpack_wenet(path, folder, "x.tar.gz")


def made(*members: tuple[str, bytes] | tarfile.TarInfo, mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


def special(name: str, kind: bytes, target: str = "/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


MODEL = (("train.yaml", b"{}"), ("final.pt", b"weights"))


@pytest.mark.parametrize("top", ["20210601_u2++_conformer_exp/", "", "./", "exp/conformer/"])
@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w:bz2", "w"])
def test_the_needed_files_wherever_they_lie(tmp_path: Path, source: Path, top: str, mode: str) -> None:
    found = unpack(tmp_path, make_archive(source, top, mode))
    assert sorted(path.name for path in found.iterdir()) == sorted(FILES)
    for name in FILES:
        assert (found / name).read_bytes() == (source / name).read_bytes()
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.parent != found] == []


def test_links_that_nobody_needs_are_passed_over(tmp_path: Path) -> None:
    found = unpack(tmp_path, made(special("exp/latest", tarfile.SYMTYPE), special("pipe", tarfile.FIFOTYPE), *MODEL))
    assert sorted(path.name for path in found.iterdir()) == ["final.pt", "train.yaml"]


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ((("/etc/units.txt", b""), *MODEL), "'/etc/units.txt' leaves the folder"),
        ((("../units.txt", b""), *MODEL), "'../units.txt' leaves the folder"),
        ((("exp/../../x", b""), *MODEL), "leaves the folder"),
        (((r"exp\..\units.txt", b""), *MODEL), "leaves the folder"),
        ((special("units.txt", tarfile.SYMTYPE), *MODEL), "'units.txt' is a link or a device"),
        ((special("final.pt", tarfile.LNKTYPE), MODEL[0]), "'final.pt' is a link or a device"),
        ((special("final.pt", tarfile.CHRTYPE), MODEL[0]), "'final.pt' is a link or a device"),
        ((special("final.pt", tarfile.FIFOTYPE), MODEL[0]), "'final.pt' is a link or a device"),
        ((*MODEL, MODEL[1]), "'final.pt' is there twice"),
        ((("a/train.yaml", b""), ("a/final.pt", b""), ("b/train.yaml", b""), ("b/final.pt", b"")), "2 models (a, b)"),
        ((("a/train.yaml", b""), ("b/final.pt", b"")), "train.yaml and final.pt are in different folders"),
        ((("a/train.yaml", b""),), "it has no final.pt"),
        ((("notes", b""),), "it has no train.yaml and no final.pt"),
        ((), "it has no train.yaml and no final.pt"),
    ],
)
def test_refused(tmp_path: Path, members: tuple[tarfile.TarInfo, ...], reason: str) -> None:
    with pytest.raises(CheckpointError) as error:
        unpack(tmp_path, made(*members))
    assert str(error.value).startswith("x.tar.gz: ")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("units.txt"))


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = made(*((f"{n}.log", b"") for n in range(20)), *MODEL)
    (tmp_path / "many").mkdir()
    monkeypatch.setattr(archives, "MAX_MEMBERS", 20)
    with pytest.raises(CheckpointError, match="more than 20 files"):
        unpack(tmp_path / "many", many)
    monkeypatch.undo()
    for name, limit in (("units.txt", archives.MAX_FILE_BYTES), ("final.pt", archives.MAX_WEIGHTS_BYTES)):
        (tmp_path / name).mkdir()
        with pytest.raises(CheckpointError, match=rf"'{name}' has {limit + 1} bytes, more than the limit"):
            unpack(tmp_path / name, announcing(name, limit + 1))
    for name in ("other", "units.txt2"):
        (tmp_path / name).mkdir()
        with pytest.raises(CheckpointError, match="more than 64 GiB unpacked"):
            unpack(tmp_path / name, announcing(name, archives.MAX_TOTAL_BYTES + 1))


def announcing(name: str, size: int) -> bytes:
    """Return an archive whose only member announces a size that it doesn't have."""
    info = tarfile.TarInfo(name)
    info.size = size
    return gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))


def test_a_bomb_of_zeros_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gigabyte would come out of a megabyte; the limit is lowered for the test."""
    monkeypatch.setattr(archives, "MAX_TOTAL_BYTES", 1 << 20)
    with pytest.raises(CheckpointError, match="unpacked"):
        unpack(tmp_path, made(*MODEL, ("more", bytes(2 << 20))))
    (tmp_path / "end").mkdir()
    with pytest.raises(CheckpointError, match="unpacked"):
        unpack(tmp_path / "end", gzip.compress(made(*MODEL, mode="w") + bytes(4 << 20)))


def test_a_header_is_never_read_into_memory_as_a_whole(tmp_path: Path) -> None:
    """The size of an extended header is the archive's claim, and tarfile would read all of it."""
    info = tarfile.TarInfo("header")
    info.type, info.size = tarfile.XHDTYPE, 1 << 33
    with pytest.raises(CheckpointError, match="a header of 8589934592 bytes"):
        unpack(tmp_path, gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096)))


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w:bz2", "w"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated(tmp_path: Path, source: Path, mode: str, share: float) -> None:
    content = make_archive(source, mode=mode)
    with pytest.raises(CheckpointError, match=r"^x\.tar\.gz: (truncated|.*it has no)"):
        unpack(tmp_path, content[: int(share * len(content))])


def test_a_damaged_byte_is_found(tmp_path: Path, source: Path) -> None:
    content = bytearray(make_archive(source))
    content[len(content) // 2] ^= 1
    with pytest.raises(CheckpointError, match=r"x\.tar\.gz: (damaged \(|truncated)"):
        unpack(tmp_path, bytes(content))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<!DOCTYPE html><html>not here</html>", "not an archive, but a text such as a web page"),
        (b'{"Code": 404}', "not an archive, but a text such as a web page"),
        (b"PK\x03\x04" + bytes(1000), "a zip archive"),
        (b"", "not a tar archive"),
        (b"\xff" * 10_000, "not a tar archive"),
        (gzip.compress(b"just text", mtime=0), "damaged"),
    ],
    ids=["page", "json", "zip", "empty", "bytes", "gzip of a text"],  # all processes must collect the same names
)
def test_no_tar(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(CheckpointError) as error:
        unpack(tmp_path, content)
    assert str(error.value).startswith(f"x.tar.gz: {reason}")
