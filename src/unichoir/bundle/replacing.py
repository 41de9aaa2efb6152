"""Atomic writing: files and directories are replaced by renames, and errors of a full disk name the file."""

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO, TextIO

from unichoir.errors import UnichoirError

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""The disk is full, a quota is used up, or a file is larger than the system allows."""
_NUMBER = re.compile(r"(?:\[Errno |\(os error )(\d+)")
_NUMPY = re.compile(r"\d+ requested and \d+ written")


@contextlib.contextmanager
def writing(path: Path | None) -> Iterator[None]:
    """Wrap everything that writes `path`: if the disk is full, raise an OSError that names it.

    Libraries report a full disk in different ways, most without a name. None: the written file is unknown.
    """
    try:
        yield
    except (UnichoirError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # torch's CheckpointException is no Exception
        number = _no_room(error)
        # The second name is the target of a copy.
        name = getattr(error, "filename2", None) or getattr(error, "filename", None) or path
        if number is None or (isinstance(error, OSError) and name == error.filename):
            raise
        raise OSError(number, os.strerror(number), None if name is None else str(name)) from error


def _no_room(error: BaseException | None) -> int | None:
    """Return the number in NO_ROOM that caused an error, if any."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return error.errno
        text = str(error)
        # safetensors and torch.distributed.checkpoint only report it as text; NumPy doesn't report the reason.
        for number in map(int, _NUMBER.findall(text)):
            if number in NO_ROOM:
                return number
        if isinstance(error, OSError) and _NUMPY.fullmatch(text):
            return errno.ENOSPC
        # torch.save raises its own error while handling the original one.
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


@contextlib.contextmanager
def replacing_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path that gets the name `path` at the end, or is deleted on failure.

    This is safe if several processes write the same file. A killed process leaves `NAME.*.tmp` behind. Raises OSError,
    which names `path`.
    """
    # Leave room for the suffix if the name is nearly too long.
    temporary = path.with_name(f"{path.name[:40]}.{uuid.uuid4().hex}.tmp")
    try:
        with writing(path):
            yield temporary
            temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename and str(error.filename) == str(temporary):
            error.filename = str(path)  # the name that the user knows
        raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that appears under its name when it is complete, or not at all; otherwise like `replacing_path`."""
    with replacing_path(path) as temporary, temporary.open("xb") as file:
        yield file


@contextlib.contextmanager
def replacing_text(path: Path, errors: str = "strict") -> Iterator[TextIO]:
    """Like `replacing` for UTF-8 text, with unchanged line ends."""
    with replacing(path) as file, TextIOWrapper(file, encoding="utf-8", errors=errors, newline="\n") as text:
        yield text


def replace_text(path: Path, text: str) -> None:
    """Write a text file atomically, like `replacing_text`."""
    with replacing_text(path) as file:
        file.write(text)


@contextlib.contextmanager
def replacing_directory(directory: Path) -> Iterator[Path]:
    """Yield a folder that replaces `directory` when everything in it is on disk, or is deleted on failure.

    A killed process leaves `.NAME.tmp` behind, which the next call removes. Raises OSError; if the disk is full, it
    names the file as it would be in `directory`.
    """
    directory = Path(os.path.abspath(directory))
    temporary = directory.with_name(f".{directory.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with writing(directory):
            temporary.mkdir(parents=True)
            yield temporary
            for path in temporary.rglob("*"):
                if path.is_file():
                    with path.open("rb") as file:
                        os.fsync(file.fileno())
            sync_directory(temporary)
            replace_directory(temporary, directory)
            sync_directory(directory.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and error.filename and Path(error.filename).is_relative_to(temporary):
            error.filename = str(directory / Path(error.filename).relative_to(temporary))
        raise


def replace_directory(new: Path, directory: Path) -> None:
    """Move `new`, in the same parent, to `directory`, which may be missing.

    If the process is killed in between, `.NAME.old` is the old directory, and the next call first restores it.
    """
    old = directory.with_name(f".{directory.name}.old")
    restore_directory(directory)
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        os.replace(directory, old)
    os.replace(new, directory)
    shutil.rmtree(old, ignore_errors=True)


def restore_directory(directory: Path) -> None:
    """Restore the old directory if a process was killed before the new one was in place."""
    old = directory.with_name(f".{directory.name}.old")
    if old.is_dir() and not directory.exists():
        os.replace(old, directory)


def sync_directory(directory: Path) -> None:
    """Sync a folder, because a rename is only durable when the folder is on disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
