"""The folder of results: one file for each chunk of the utterances, whole or not there, and all of them joined.

A chunk is always the same utterances under the same file name, so that an utterance can have no second result: whoever
computes a chunk anew takes the place of the file.
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
"""Utterances of a chunk: what is lost, at most, when its worker dies."""
MIN_CHUNKS = 64
"""Of small sets: enough for workers that end together."""
MAX_CHUNKS = 100_000
"""Of large sets, whose chunks have more utterances instead."""
MAX_CHUNK_SECONDS = 1800.0
"""Of audio, where durations are known."""
CHUNKS_IN_FOLDER = 1000
JOINED = "results.jsonl"
"""All results, beside the folder of the chunks."""

Result = dict[str, Any]
"""`key`, and either what `Transcript.to_dict` gives or `error`."""


@dataclass(frozen=True)
class Chunk:
    """Some utterances that follow each other."""

    number: int
    utterances: tuple[Utterance, ...]


def make_chunks(utterances: Sequence[Utterance]) -> list[Chunk]:
    """Cut into chunks; how depends on nothing but the utterances."""
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

    job: what decides the results beside the utterances, as JSON values. Raises UnichoirError for a folder that holds
    something else, or results of another job: what differs is named.
    """

    def __init__(self, folder: Path, chunks: Sequence[Chunk], job: Mapping[str, Any]) -> None:
        self.folder = folder
        self.chunks = chunks
        self._parts = folder / "parts"
        for pattern in ("job.json.*.tmp", "results.*.tmp", "parts/*/*.jsonl.*.tmp", "*/*.tmp"):
            for leftover in folder.glob(pattern):  # of a driver that was killed
                leftover.unlink()
        self._check_job({**job, "utterances": _digest(chunks)})

    @property
    def joined(self) -> Path:
        """All results in the order of the utterances, once `join` has written them."""
        return self.folder / JOINED

    def path(self, chunk: Chunk) -> Path:
        """The file of a chunk."""
        return self._parts / f"{chunk.number // CHUNKS_IN_FOLDER:03d}" / f"{chunk.number:06d}.jsonl"

    def read(self, chunk: Chunk) -> list[Result] | None:
        """The results of a chunk; None where they are not there, or damaged."""
        try:
            *lines, rest = self.path(chunk).read_text(encoding="utf-8").split("\n")
            results = [json.loads(line) for line in lines]
            keys = [result["key"] for result in results]
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return None if rest or keys != [utterance.key for utterance in chunk.utterances] else results

    def write(self, chunk: Chunk, results: Sequence[Result]) -> None:
        """Of all utterances of a chunk, in their order."""
        with whole_file(self.path(chunk)) as file:
            file.writelines(json.dumps(result, ensure_ascii=False) + "\n" for result in results)

    def join(self) -> None:
        """Write the results of all chunks, which must be there, into one file."""
        with whole_file(self.joined) as file:
            for chunk in self.chunks:
                file.write(self.path(chunk).read_text(encoding="utf-8"))

    def _check_job(self, job: dict[str, Any]) -> None:
        path = self.folder / "job.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            if any(self.folder.iterdir()):
                raise UnichoirError(f"{self.folder}: not empty, and without a job.json to go on with")
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
                raise UnichoirError(f"{self.folder}: holds results with another '{name}': {was}, now {now}")


def _digest(chunks: Sequence[Chunk]) -> str:
    """Of all that decides which audio is recognised, and how it is cut into chunks."""
    digest = hashlib.sha256()
    for chunk in chunks:
        places = [(each.key, each.wav, each.start, each.end, each.byte_range) for each in chunk.utterances]
        digest.update(json.dumps(places).encode())
    return digest.hexdigest()


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A file that takes its name when it is complete, and otherwise never was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Names of files may hold what is no character: an error that names one is written all the same.
    with replacing_text(path, errors="backslashreplace") as text:
        yield text
