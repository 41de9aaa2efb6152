"""The folder of results: one complete file for each finished chunk of utterances, and one file that joins them.

A chunk always holds the same utterances under the same file name, so no utterance can have two results: recomputing a
chunk replaces its file.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from unichoir.bundle.replacing import replacing_text
from unichoir.data.utterance import Utterance
from unichoir.errors import UnichoirError

MAX_CHUNK = 64
"""Utterances per chunk: the most that is lost when a worker dies."""
MIN_CHUNKS = 64
"""Chunks of a small set: enough for all workers to finish at about the same time."""
MAX_CHUNKS = 100_000
"""Chunks of a large set; beyond this, chunks get more utterances instead."""
MAX_CHUNK_SECONDS = 1800.0
"""Audio per chunk, if durations are known."""
CHUNKS_IN_FOLDER = 1000
JOINED = "results.jsonl"
"""The file with all results, beside the folder of the chunks."""

Result = dict[str, Any]
"""`key`, and either the values of `Transcript.to_dict` or `error`."""


@dataclass(frozen=True)
class Chunk:
    """Some consecutive utterances."""

    number: int
    utterances: tuple[Utterance, ...]


def make_chunks(utterances: Sequence[Utterance]) -> list[Chunk]:
    """Cut the utterances into chunks. The result depends on the utterances alone."""
    most = max(min(MAX_CHUNK, len(utterances) // MIN_CHUNKS), len(utterances) // MAX_CHUNKS, 1)
    chunks: list[Chunk] = []
    current: list[Utterance] = []
    seconds = 0.0
    for utterance in utterances:
        duration = utterance.duration or 0.0
        if current and (len(current) == most or seconds + duration > MAX_CHUNK_SECONDS):
            chunks.append(Chunk(len(chunks), tuple(current)))
            current, seconds = [], 0.0
        current.append(utterance)
        seconds += duration
    if current:
        chunks.append(Chunk(len(chunks), tuple(current)))
    return chunks


class Results:
    """The results of one job, on disk.

    job: everything except the utterances that determines the results, as JSON values. Raises UnichoirError if the
    folder holds something else, or results of another job; the message names the difference.
    """

    def __init__(self, folder: Path, chunks: Sequence[Chunk], job: Mapping[str, Any]) -> None:
        self.folder = folder
        self.chunks = chunks
        self._parts = folder / "parts"
        for pattern in ("job.json.*.tmp", "results.*.tmp", "parts/*/*.jsonl.*.tmp", "*/*.tmp"):
            for leftover in folder.glob(pattern):  # from a driver that was killed
                leftover.unlink()
        self._check_job({**job, "utterances": _digest(chunks)})

    @property
    def joined(self) -> Path:
        """All results in the order of the utterances, once `join` has written them."""
        return self.folder / JOINED

    def path(self, chunk: Chunk) -> Path:
        """Return the path of a chunk's file."""
        return self._parts / f"{chunk.number // CHUNKS_IN_FOLDER:03d}" / f"{chunk.number:06d}.jsonl"

    def read(self, chunk: Chunk) -> list[Result] | None:
        """Read the results of a chunk; None if they are missing or damaged."""
        try:
            *lines, rest = self.path(chunk).read_text(encoding="utf-8").split("\n")
            results = [json.loads(line) for line in lines]
            keys = [result["key"] for result in results]
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return None if rest or keys != [utterance.key for utterance in chunk.utterances] else results

    def write(self, chunk: Chunk, results: Sequence[Result]) -> None:
        """Write the results of all utterances of a chunk, in order."""
        with whole_file(self.path(chunk)) as file:
            file.writelines(json.dumps(result, ensure_ascii=False) + "\n" for result in results)

    def join(self) -> None:
        """Join the results of all chunks, which must exist, into one file."""
        with whole_file(self.joined) as file:
            for chunk in self.chunks:
                file.write(self.path(chunk).read_text(encoding="utf-8"))

    def _check_job(self, job: dict[str, Any]) -> None:
        path = self.folder / "job.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            if any(self.folder.iterdir()):
                raise UnichoirError(f"{self.folder}: not empty, and has no job.json of an earlier run to continue")
            with whole_file(path) as file:
                file.write(json.dumps(job, indent=1) + "\n")
            return
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UnichoirError(f"{path}: not JSON ({error})") from None
        if not isinstance(before, dict):
            raise UnichoirError(f"{path}: expected a JSON object")
        for name in {**before, **job}:
            if before.get(name) != job.get(name):
                was, now = (json.dumps(each.get(name)) for each in (before, job))
                raise UnichoirError(f"{self.folder}: holds results with a different '{name}': {was}, now {now}")


def _digest(chunks: Sequence[Chunk]) -> str:
    """Hash everything that determines which audio is recognised and how it is cut into chunks."""
    digest = hashlib.sha256()
    for chunk in chunks:
        places = [(each.key, each.wav, each.start, each.end, each.byte_range) for each in chunk.utterances]
        digest.update(json.dumps(places).encode())
    return digest.hexdigest()


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """Open a file that gets its name only when it is complete; on an error it is discarded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # File names, and so error messages, may contain bytes that are not valid text.
    with replacing_text(path, errors="backslashreplace") as text:
        yield text
