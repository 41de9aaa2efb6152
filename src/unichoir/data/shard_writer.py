"""From utterances of any manifest to shards (see `unichoir.data.shards`), in parallel and resumable."""

import dataclasses
import functools
import hashlib
import os
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from unichoir.audio.io import audio_duration, read_audio
from unichoir.bundle.replacing import replacing
from unichoir.data.encoding import SUFFIXES, Codec, audio_suffix, check_codec, encode_audio
from unichoir.data.shard_jobs import Progress, ShardReport, ShardResult, run_shards, write_index
from unichoir.data.shards import FORMAT_VERSION
from unichoir.data.storage import is_url
from unichoir.data.tars import BLOCK
from unichoir.data.utterance import Utterance, utterance_bytes, utterance_source
from unichoir.errors import AudioError, ConfigError, ManifestError

# Separates this use of a seed as a source of randomness from others.
PURPOSE = 4


def write_shards(
    utterances: Sequence[Utterance],
    output: Path,
    *,
    per_shard: int = 1000,
    codec: Codec | Literal["keep"] = "flac",
    workers: int = 1,
    seed: int | None = 0,
    progress: Progress | None = None,
) -> ShardReport:
    """Write a corpus of shards. The same call continues an interrupted one.

    The files only depend on the utterances, `per_shard`, `codec` and `seed`, not on the number of workers. An utterance
    that can't be read, or whose key can't be a file name, is left out and listed in the report and in
    `output/skipped.jsonl`. A deleted shard is written again by the next call.

    Args:
        codec: keep copies files byte by byte; utterances that are a part of a file, and files in formats that shards
            don't support, become FLAC. The other codecs write mono at the file's own rate.
        seed: seeds the order of the utterances, because training only mixes neighbours; None keeps the order.
        progress: called with (finished shards, all shards).

    Raises:
        ManifestError: a key occurs twice, or no utterance is usable.
        ConfigError: libsndfile can't write the codec, or `output` holds another corpus.
        OSError: `output` can't be written.
    """
    if per_shard < 1 or workers < 1:
        raise ConfigError("per_shard and workers must be at least 1")
    if codec != "keep":
        check_codec(codec)
    plan = {
        "version": FORMAT_VERSION,
        "per_shard": per_shard,
        "codec": codec,
        "seed": seed,
        "utterances": len(utterances),
        "sha256": _fingerprint(utterances),
    }
    count = len(utterances)
    order = np.arange(count) if seed is None else np.random.default_rng([seed, PURPOSE]).permutation(count)

    def part(start: int) -> list[Utterance]:
        return [utterances[place] for place in order[start : start + per_shard]]

    parts = [functools.partial(part, start) for start in range(0, count, per_shard)]
    return run_shards(
        output, plan, functools.partial(_write_shard, output, codec), parts, workers=workers, progress=progress
    )


def _fingerprint(utterances: Iterable[Utterance]) -> str:
    digest = hashlib.sha256()
    seen: dict[str, str] = {}
    for utterance in utterances:
        if utterance.key in seen:
            raise ManifestError(f"key '{utterance.key}' occurs twice: {seen[utterance.key]} and {utterance.wav}")
        seen[utterance.key] = utterance.wav
        wav = utterance.wav if is_url(utterance.wav) else os.path.abspath(utterance.wav)
        digest.update(repr(dataclasses.astuple(dataclasses.replace(utterance, wav=wav))).encode())
    return digest.hexdigest()


def _write_shard(
    output: Path, codec: Codec | Literal["keep"], number: int, utterances: Sequence[Utterance]
) -> ShardResult:
    tar, index = f"{number:06d}.tar", f"{number:06d}.jsonl"
    lines: list[dict[str, object]] = []
    skipped: dict[str, str] = {}
    seconds = 0.0
    with replacing(output / tar) as file:
        for utterance in utterances:
            try:
                _check_key(utterance.key)
                audio, suffix, duration = _audio_of(utterance, codec)
            except (AudioError, ManifestError) as error:
                skipped[utterance.key] = str(error)
                continue
            add_member(file, f"{utterance.key}.txt", utterance.txt.encode())
            offset = add_member(file, f"{utterance.key}.{suffix}", audio)
            lines.append(index_line(utterance, (offset, len(audio)), duration))
            seconds += duration
        _end_tar(file)
        size = file.tell()
        file.flush()
        os.fsync(file.fileno())
    index_bytes = write_index(output / index, lines)
    return ShardResult(
        shard=tar,
        index=index,
        utterances=len(lines),
        seconds=round(seconds, 3),
        bytes=size,
        index_bytes=index_bytes,
        skipped=skipped,
    )


def index_line(utterance: Utterance, place: tuple[int, int], duration: float) -> dict[str, object]:
    """Return the line of an utterance in its shard's index. `place` is (offset, size) in the tar."""
    line = {"key": utterance.key, "offset": place[0], "size": place[1], "txt": utterance.txt}
    known = {name: getattr(utterance, name) for name in ("speaker", "lang") if getattr(utterance, name)}
    return {**line, "duration": round(duration, 6), **known}


def _audio_of(utterance: Utterance, codec: Codec | Literal["keep"]) -> tuple[bytes, str, float]:
    """Return (bytes of an audio file, its suffix, seconds)."""
    if codec == "keep" and utterance.start is None and utterance.end is None:
        content, name = utterance_bytes(utterance)
        suffix = audio_suffix(content)
        if suffix:
            return content, suffix, audio_duration(content, name=name)
    source, name = utterance_source(utterance)
    samples, rate = read_audio(source, start=utterance.start, end=utterance.end, name=name)
    wanted: Codec = "flac" if codec == "keep" else codec
    content = encode_audio(samples, rate, wanted, name)
    return content, SUFFIXES[wanted], len(samples) / rate


def _check_key(key: str) -> None:
    """Check a key, because keys become file names when a shard is unpacked."""
    unsafe = "\\" in key or any(ord(character) < 32 or ord(character) == 127 for character in key)
    if unsafe or any(part in ("", ".", "..") for part in key.split("/")):
        raise ManifestError(f"key {key!r} cannot be the name of a file within a folder")


def add_member(file: BinaryIO, name: str, content: bytes) -> int:
    """Append a file to a tar, without time and owner. Returns the offset of its content."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    file.write(member.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict"))
    offset = file.tell()
    file.write(content)
    file.write(bytes(-len(content) % BLOCK))
    return offset


def _end_tar(file: BinaryIO) -> None:
    file.write(bytes(2 * BLOCK))
    file.write(bytes(-file.tell() % tarfile.RECORDSIZE))
