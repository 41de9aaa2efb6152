"""Files and directories take the place of others by renames, whole or not at all; a full disk names what it cut off."""

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
    """Around all that writes `path`: where there is no room for it, an OSError says so and names it.

    Libraries tell of a full disk in ways of their own, most without a name. None: what is written is not known.
    """
    try:
        yield
    except (UnichoirError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # torch's CheckpointException is no Exception
        number = _no_room(error)
        # The second name is what was copied to.
        name = getattr(error, "filename2", None) or getattr(error, "filename", None) or path
        if number is None or (isinstance(error, OSError) and name == error.filename):
            raise
        raise OSError(number, os.strerror(number), None if name is None else str(name)) from error


def _no_room(error: BaseException | None) -> int | None:
    """The number of NO_ROOM that is behind an error, if any."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return error.errno
        text = str(error)
        # safetensors and torch.distributed.checkpoint say it in words only; NumPy does not even know the reason.
        for number in map(int, _NUMBER.findall(text)):
            if number in NO_ROOM:
                return number
        if isinstance(error, OSError) and _NUMPY.fullmatch(text):
            return errno.ENOSPC
        # torch.save notices that something is wrong, and that something has raised the reason before.
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


@contextlib.contextmanager
def replacing_path(path: Path) -> Iterator[Path]:
    """A name for a file that gets its own name when all is written, or vanishes.

    That holds when several processes write the same file, or one is killed; it then leaves `NAME.*.tmp` behind. Raises
    OSError; it names `path`.
    """
    # A name that is nearly too long can still be taken.
    temporary = path.with_name(f"{path.name[:40]}.{uuid.uuid4().hex}.tmp")
    try:
        with writing(path):
            yield temporary
            temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename and str(error.filename) == str(temporary):
            error.filename = str(path)  # the name that whoever reads it knows
        raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name when it is complete, or not at all; otherwise as `replacing_path`."""
    with replacing_path(path) as temporary, temporary.open("xb") as file:
        yield file


@contextlib.contextmanager
def replacing_text(path: Path, errors: str = "strict") -> Iterator[TextIO]:
    """The same for text, as UTF-8 with the line ends that are written."""
    with replacing(path) as file, TextIOWrapper(file, encoding="utf-8", errors=errors, newline="\n") as text:
        yield text


def replace_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all, as `replacing_text`."""
    with replacing_text(path) as file:
        file.write(text)


@contextlib.contextmanager
def replacing_directory(directory: Path) -> Iterator[Path]:
    """A folder to be filled that takes the place of `directory` when all in it is on disk, or vanishes.

    Killed in between, it leaves `.NAME.tmp` behind, which the next call removes. Raises OSError; where there is no
    room, it names the file as it would be in `directory`.
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
    """Put `new`, in the same parent, in the place of `directory`, which may be missing.

    Should the process be killed in between, `.NAME.old` is the old one, and the next call begins by putting it back.
    """
    old = directory.with_name(f".{directory.name}.old")
    restore_directory(directory)
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        os.replace(directory, old)
    os.replace(new, directory)
    shutil.rmtree(old, ignore_errors=True)


def restore_directory(directory: Path) -> None:
    """Put the old directory back if a process was killed before the new one was in its place."""
    old = directory.with_name(f".{directory.name}.old")
    if old.is_dir() and not directory.exists():
        os.replace(old, directory)


def sync_directory(directory: Path) -> None:
    """A rename is durable only once the folder that lists it is on disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
