"""Indexes for existing tars, such as WeNet's, which stay in place."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from unichoir.audio.io import audio_duration
from unichoir.data.records import read_lines
from unichoir.data.shard_jobs import Progress, ShardReport, ShardResult, run_shards, write_index
from unichoir.data.shard_writer import index_line
from unichoir.data.shards import FORMAT_VERSION
from unichoir.data.storage import is_url, join, open_binary, parent, suffix
from unichoir.data.tars import read_pairs
from unichoir.data.utterance import Utterance
from unichoir.errors import AudioError, ConfigError, ManifestError

SCAN_BYTES = 1 << 20


def list_tars(lists: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return the tars listed in WeNet's `data.list` files, one path or URL per line. A tar stands for itself.

    Raises ManifestError, also for a tar that occurs twice.
    """
    tars: dict[str, str] = {}
    for location in [os.fspath(name) for name in lists]:
        if suffix(location) == ".tar":
            named = [(location, location)]
        else:
            named = [(where, join(parent(location), line)) for where, line in read_lines(location)]
        for where, tar in named:
            if tar in tars:
                raise ManifestError(f"{where}: {tar} was already named at {tars[tar]}")
            tars[tar] = where
    return list(tars)


def index_shards(
    tars: Sequence[str], output: Path, *, workers: int = 1, progress: Progress | None = None
) -> ShardReport:
    """Write `shards.jsonl` and the indexes of tars into `output`. Each tar is read once, from front to back.

    Tars within `output` are named relative to it, others as given. Unreadable tars and utterances are left out and
    listed in the report and in `output/skipped.jsonl`. The same call tries such tars again, and continues an
    interrupted run.

    Raises:
        ManifestError: no utterance is usable.
        ConfigError: `output` holds another corpus.
        OSError: `output` can't be written.
    """
    if workers < 1:
        raise ConfigError("workers must be at least 1")
    places = [tar if is_url(tar) else os.path.abspath(tar) for tar in tars]
    digest = hashlib.sha256("\n".join(places).encode()).hexdigest()
    plan = {"version": FORMAT_VERSION, "tars": len(tars), "sha256": digest}
    parts = [functools.partial(str, place) for place in places]
    return run_shards(output, plan, functools.partial(_index_shard, output), parts, workers=workers, progress=progress)


def _index_shard(output: Path, number: int, tar: str) -> ShardResult:
    index = f"{number:06d}.jsonl"
    result = ShardResult(shard=_name(output, tar), index=index, utterances=0, seconds=0.0, bytes=0, index_bytes=0)
    lines: dict[str, dict[str, object]] = {}
    skipped: dict[str, str] = {}
    seconds, end = 0.0, 0
    try:
        for pair in read_pairs(tar, with_audio=True):
            if pair.place is None or pair.txt is None:
                skipped[pair.key] = f"{tar}: {pair.missing}"
                continue
            if pair.key in lines:
                raise ManifestError(f"{tar}: '{pair.key}' occurs twice")
            end = sum(pair.place)
            try:
                duration = audio_duration(pair.audio, name=f"{tar}: {pair.key}")
            except AudioError as error:
                skipped[pair.key] = str(error)
                continue
            lines[pair.key] = index_line(Utterance(key=pair.key, wav=tar, txt=pair.txt), pair.place, duration)
            seconds += duration
        size = _size(tar, end)
    except (ManifestError, OSError) as error:
        return dataclasses.replace(result, skipped={tar: str(error)}, failed=True)
    index_bytes = write_index(output / index, list(lines.values()))
    return dataclasses.replace(
        result, utterances=len(lines), seconds=round(seconds, 3), bytes=size, index_bytes=index_bytes, skipped=skipped
    )


def _name(output: Path, tar: str) -> str:
    """Return a name relative to the folder if the tar is within it, so they can be moved together."""
    folder = os.path.abspath(output)
    inside = not is_url(tar) and os.path.commonpath([folder, tar]) == folder
    return os.path.relpath(tar, folder) if inside else tar


def _size(tar: str, end: int) -> int:
    """Return the bytes of a tar whose members end at `end`."""
    if not is_url(tar):
        return os.path.getsize(tar)
    with open_binary(tar) as file:
        file.seek(end)
        while file.read(SCAN_BYTES):
            pass
        return file.tell()
