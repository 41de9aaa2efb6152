"""`SHA256SUMS`: the SHA-256 of every file of a model, in the format of coreutils' `sha256sum`.

The model card is not listed, because people edit it. A directory without sums, from an earlier release, is not checked.
Sums detect damage and mistakes, but not attacks: who can change the files can change the sums too.
"""

import hashlib
import mmap
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from unichoir.bundle.replacing import replace_text
from unichoir.errors import CheckpointError

SUMS_FILE = "SHA256SUMS"
CARD_FILE = "README.md"
MODEL_FILES = (
    *("config.json", "*.onnx", "*.onnx.data", "config.yaml", "model.safetensors", "units.txt", "bpe.model"),
    *("lm.bin", "lm.bin.json"),
)
"""Patterns of a model's files, all in the directory itself."""

_LOCATION = b"\x0a\x08location\x12"
"""A key and the start of its value, for values of less than 128 bytes, like file names. Other lengths give other names,
which no list has."""
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_BLOCK_SIZE = 1 << 18
_READERS = 4
"""The files that are read at a time, because hashing uses all cores."""


def write_sums(directory: Path) -> None:
    """List the model's files in SHA256SUMS, written atomically. Call this when all of them are written."""
    lines = "".join(f"{sha256(path)}  {path.name}\n" for path in _model_files(directory))
    replace_text(directory / SUMS_FILE, lines)


def check_sums(directory: Path) -> None:
    """Compare the files with SHA256SUMS, if there is one. This takes as long as reading the files.

    Raises CheckpointError, naming a file that is missing, changed, used by the model but not listed, or listed but not
    in the directory itself.
    """
    listed = _read_sums(directory / SUMS_FILE)
    if listed is None:
        return
    for path in _model_files(directory):
        if path.name not in listed:
            raise CheckpointError(f"{path}: not listed in {SUMS_FILE}: it does not belong to this model")
    with ThreadPoolExecutor(_READERS) as pool:
        # The order of the list decides which error is raised, and after it no further file is begun.
        for _ in pool.map(partial(_check_file, directory, listed), listed):
            pass


def _check_file(directory: Path, listed: Mapping[str, str], name: str) -> None:
    """Compare one file of a list."""
    path = directory / name
    try:
        found = sha256(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file, but {SUMS_FILE} lists it: get the model again") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    if found != listed[name]:
        reason = f"truncated, damaged or changed (its SHA-256 differs from {SUMS_FILE})"
        raise CheckpointError(f"{path}: {reason}: get the model again")
    others = _external_files(path) - listed.keys() if path.suffix == ".onnx" else set()
    if others:
        raise CheckpointError(f"{path}: has weights in '{min(others)}', which {SUMS_FILE} does not list")


def _external_files(graph: Path) -> set[str]:
    """Return the external weight files of an ONNX graph: values of the key `location` in its protocol buffers."""
    names: set[str] = set()
    if not graph.stat().st_size:  # mmap rejects an empty file
        return names
    with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place = content.find(_LOCATION)
        while place >= 0:
            begin = place + len(_LOCATION) + 1
            names.add(content[begin : begin + content[begin - 1]].decode("utf-8", "replace"))
            place = content.find(_LOCATION, begin)
    return names


def _model_files(directory: Path) -> list[Path]:
    return sorted({path for pattern in MODEL_FILES for path in directory.glob(pattern)})


def _read_sums(path: Path) -> dict[str, str] | None:
    """Read the SHA-256 by file name; None if there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
    listed: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        where, match = f"{path}, line {number}", _LINE.fullmatch(line)
        if match is None:
            raise CheckpointError(f"{where}: expected a SHA-256, two spaces and the name of a file")
        digest, name = match.groups()
        # A list must not cause other files to be read.
        if name in (".", "..") or re.search(r"[/\\\0]", name):
            raise CheckpointError(f"{where}: '{name}' is not the name of a file in this directory")
        if name in listed:
            raise CheckpointError(f"{where}: '{name}' is listed twice")
        listed[name] = digest
    return listed


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_SIZE):
            digest.update(block)
    return digest.hexdigest()
