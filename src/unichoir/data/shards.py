"""Corpora of any size as shards: tars of about a thousand utterances, each with a small index.

A corpus is a folder, on disk or by URL, with

- `shards.jsonl`, a line for each shard: `{"version": 1, "shard": "000000.tar", "index": "000000.jsonl", "utterances":
  1000, "seconds": 3600.5, "bytes": 62914560}`. `version` is the version of the index format, 1 by default; `bytes` is
  the size of the tar.
- the tars in WeNet's format: uncompressed, KEY.txt followed by KEY.flac (or wav, mp3, ogg, opus, m4a).
- the indexes, a line for each utterance in the tar's order: `{"key": "a", "offset": 1536, "size": 31402, "txt": "...",
  "duration": 3.52}`, and `speaker` and `lang` if known. `offset` and `size` locate the bytes of the audio file in the
  tar; `duration` is in seconds.

Paths are relative to the folder of `shards.jsonl`. The utterances of a shard are therefore known without reading its
tar, and each can be read individually as a range of bytes.
"""

import os
from dataclasses import dataclass

from unichoir.data.records import count_of, read_json_lines, seconds_of, text_of
from unichoir.data.storage import exists, is_url, join, parent, suffix
from unichoir.data.utterance import Utterance
from unichoir.errors import ManifestError

SHARD_LIST = "shards.jsonl"
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A tar of utterances and its index."""

    name: str
    """Name of the tar in the list. It doesn't change if the folder moves."""
    location: str
    """Path or URL of the tar."""
    index: str
    """Path or URL of its index."""
    utterances: int
    seconds: float
    """Seconds of all its utterances."""


def is_shard_list(location: str | os.PathLike[str]) -> bool:
    """Return whether this is a list of shards: a name that ends in `shards.jsonl`, or a folder that holds one."""
    location = os.fspath(location)
    if location.endswith(SHARD_LIST):
        return True
    could_be_folder = not suffix(location) if is_url(location) else os.path.isdir(location)
    try:
        return could_be_folder and exists(join(location, SHARD_LIST))
    except OSError as error:
        raise ManifestError(f"{location}: {error.strerror or error}") from None


def read_shard_list(location: str | os.PathLike[str]) -> list[Shard]:
    """Read the shards of a corpus, in order, without their indexes.

    Args:
        location: path or URL of `shards.jsonl` or of the folder that holds it.

    Raises:
        ManifestError: a line is invalid, a tar is listed twice, there are no shards, or the version is newer. The error
            names file and line.
    """
    location = os.fspath(location)
    if not location.endswith(SHARD_LIST):
        location = join(location, SHARD_LIST)
    folder = parent(location)
    shards: list[Shard] = []
    seen: dict[str, str] = {}
    for where, entry in read_json_lines(location, required=("shard", "index", "utterances", "seconds")):
        version = entry.get("version", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            raise ManifestError(f"{where}: format version {version!r}; this release reads version {FORMAT_VERSION}")
        name, index = text_of(entry, "shard", where), text_of(entry, "index", where)
        if not name or not index:
            raise ManifestError(f"{where}: 'shard' and 'index' must not be empty")
        if name in seen:
            raise ManifestError(f"{where}: shard '{name}' was already listed at {seen[name]}")
        seen[name] = where
        shard = Shard(
            name=name,
            location=join(folder, name),
            index=join(folder, index),
            utterances=count_of(entry, "utterances", where, at_least=1),
            seconds=seconds_of(entry, "seconds", where) or 0.0,
        )
        shards.append(shard)
    if not shards:
        raise ManifestError(f"{location}: no shards")
    return shards


def read_shard(shard: Shard) -> list[Utterance]:
    """Read the utterances of a shard from its index, in the order of its tar.

    Raises:
        ManifestError: the index is missing or invalid, or its number of utterances differs from the list of shards. The
            error names the index and the line.
    """
    utterances: list[Utterance] = []
    seen: dict[str, str] = {}
    for where, entry in read_json_lines(shard.index, required=("key", "offset", "size", "txt", "duration")):
        key = text_of(entry, "key", where)
        if not key:
            raise ManifestError(f"{where}: 'key' must not be empty")
        if key in seen:
            raise ManifestError(f"{where}: key '{key}' was already used at {seen[key]}")
        seen[key] = where
        utterance = Utterance(
            key=key,
            wav=shard.location,
            txt=text_of(entry, "txt", where),
            speaker=text_of(entry, "speaker", where),
            lang=text_of(entry, "lang", where),
            duration=seconds_of(entry, "duration", where),
            byte_range=(count_of(entry, "offset", where), count_of(entry, "size", where, at_least=1)),
        )
        utterances.append(utterance)
    if len(utterances) != shard.utterances:
        raise ManifestError(
            f"{shard.index}: {len(utterances)} utterances, but the list of shards has {shard.utterances}"
        )
    return utterances
