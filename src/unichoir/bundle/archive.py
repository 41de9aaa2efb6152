"""Tar archives of WeNet models, from anyone: only the files that conversion needs are unpacked, within limits."""

import bz2
import gzip
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from unichoir.bundle.published import NEEDED, WENET_FILES
from unichoir.bundle.replacing import writing
from unichoir.errors import CheckpointError

MAX_MEMBERS = 10_000
MAX_WEIGHTS_BYTES = 16 << 30
"""Largest `final.pt`."""
MAX_FILE_BYTES = 64 << 20
"""Largest other file that is unpacked."""
MAX_TOTAL_BYTES = 64 << 30
"""Everything in the archive, unpacked, including what is passed over."""
_MAX_READ = 1 << 24
_COPIED = 1 << 20
_MAGIC: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_DAMAGE = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, OverflowError)


def unpack_wenet(archive: Path, folder: Path, name: str) -> Path:
    """Unpack the model in an archive into `folder`, which is empty, and return the folder of its files.

    name: of the archive in messages. The files may lie at the top or in any folder. Raises CheckpointError, naming the
    archive, if it isn't a tar, is truncated or damaged, has a name that leaves the folder, has a needed file that is a
    link or a device, exceeds a limit, or has no model or several.
    """
    try:
        with _decompressed(archive) as plain:
            stream = _Guarded(plain)
            with tarfile.open(fileobj=cast(BinaryIO, stream), mode="r:") as tar:
                homes = _unpack(tar, folder)
                stream.check_end(tar.offset)
    except _Refused as error:
        raise CheckpointError(f"{name}: {error}") from None
    except _DAMAGE as error:
        raise CheckpointError(f"{name}: {_what_it_is(archive, error)}") from None
    except OSError as error:
        # A decompressor reports damage without a file, and without the system's number of the error.
        if error.errno is not None:
            raise
        raise CheckpointError(f"{name}: {_what_it_is(archive, error)}") from None
    return _only_model(homes, name)


class _Refused(Exception):
    """The archive is refused; the message says why."""


class _Guarded:
    """A file that is read from front to back, up to a limit, and never much at once.

    tarfile reads a header of any announced size into memory, and a few bytes of gzip can stand for gigabytes.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_READ:
            raise _Refused(f"a header of {size} bytes")
        return self._file.read(size)

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if offset > MAX_TOTAL_BYTES:
            raise _Refused(f"more than {MAX_TOTAL_BYTES >> 30} GiB unpacked")
        return self._file.seek(offset, whence)

    def check_end(self, offset: int) -> None:
        """Read to the end, where the compression has its checksum, because tarfile takes damage for the end."""
        self._file.seek(offset)
        if self._file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"no header at byte {offset}")
        while self._file.read(_COPIED):
            if self._file.tell() > MAX_TOTAL_BYTES:
                raise _Refused(f"more than {MAX_TOTAL_BYTES >> 30} GiB unpacked")


def _decompressed(archive: Path) -> BinaryIO:
    with archive.open("rb") as file:
        begin = file.read(8)
    opened = next((opened for magic, opened in _MAGIC.items() if begin.startswith(magic)), open)
    return cast(BinaryIO, opened(archive, "rb"))


def _unpack(tar: tarfile.TarFile, folder: Path) -> dict[PurePosixPath, Path]:
    """Unpack the needed files and return where those of each folder in the archive are."""
    homes: dict[PurePosixPath, Path] = {}
    total = 0
    for number, member in enumerate(tar, start=1):
        if number > MAX_MEMBERS:
            raise _Refused(f"more than {MAX_MEMBERS} files")
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or "\\" in member.name:
            raise _Refused(f"'{member.name}' leaves the folder")
        total += member.size
        if member.size < 0 or total > MAX_TOTAL_BYTES:
            raise _Refused(f"more than {MAX_TOTAL_BYTES >> 30} GiB unpacked")
        if member.isdir() or not any(fnmatchcase(path.name, pattern) for pattern in WENET_FILES):
            continue
        if not member.isfile() or member.issparse():
            kind = "a sparse file" if member.issparse() else "a link or a device"
            raise _Refused(f"'{member.name}' is {kind}")
        limit = MAX_WEIGHTS_BYTES if path.name == "final.pt" else MAX_FILE_BYTES
        if member.size > limit:
            raise _Refused(f"'{member.name}' has {member.size} bytes, more than the limit of {limit}")
        home = homes.setdefault(path.parent, folder / str(len(homes)))
        home.mkdir(exist_ok=True)
        _copy(tar, member, home / path.name)
    return homes


def _copy(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    content = tar.extractfile(member)
    if content is None or target.exists():
        raise _Refused(f"'{member.name}' is there twice")
    left = member.size
    with content, writing(target), target.open("xb") as file:
        while left:
            block = content.read(min(left, _COPIED))
            if not block:
                raise tarfile.ReadError("unexpected end of data")
            file.write(block)
            left -= len(block)


def _only_model(homes: dict[PurePosixPath, Path], name: str) -> Path:
    models = {home: path for home, path in homes.items() if all((path / each).is_file() for each in NEEDED)}
    if len(models) == 1:
        return next(iter(models.values()))
    if models:
        listed = ", ".join(sorted(map(str, models)))
        raise CheckpointError(f"{name}: has {len(models)} models ({listed}): unpack it, and pull one of the folders")
    found = {path.name for home in homes.values() for path in home.iterdir()}
    missing = [each for each in NEEDED if each not in found]
    what = f"it has no {' and no '.join(missing)}" if missing else f"{' and '.join(NEEDED)} are in different folders"
    raise CheckpointError(f"{name}: not the archive of a WeNet model: {what}")


def _what_it_is(archive: Path, error: BaseException) -> str:
    """Say why an archive can't be read."""
    with archive.open("rb") as file:
        begin = file.read(tarfile.BLOCKSIZE)
    if begin.lstrip()[:1] in (b"<", b"{"):
        return "not an archive, but a text such as a web page"
    if begin.startswith(b"PK\x03\x04"):
        return "a zip archive: WeNet's runtime models (.zip) cannot be converted, only checkpoints (.tar.gz)"
    if isinstance(error, EOFError) or "unexpected end" in str(error):
        return "truncated"
    is_archive = begin[257:262] == b"ustar" or any(begin.startswith(magic) for magic in _MAGIC)
    return f"{'damaged' if is_archive else 'not a tar archive'} ({' '.join(str(error).split())})"
