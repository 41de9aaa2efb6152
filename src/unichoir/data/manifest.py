"""Lists of utterances: JSON lines, Kaldi folders, tar shards; on disk or by URL."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from unichoir.data.cuts import is_cuts, read_cuts
from unichoir.data.records import read_json_lines, read_lines, seconds_of, text_of
from unichoir.data.shards import is_shard_list, read_shard, read_shard_list
from unichoir.data.storage import exists, is_url, join, parent, suffix
from unichoir.data.tars import AUDIO_SUFFIXES as AUDIO_SUFFIXES
from unichoir.data.tars import read_pairs
from unichoir.data.utterance import Utterance as Utterance
from unichoir.data.utterance import load_utterance as load_utterance
from unichoir.data.utterance import utterance_duration as utterance_duration
from unichoir.errors import ManifestError


def read_manifest(path: str | os.PathLike[str]) -> list[Utterance]:
    """Read all utterances of a manifest, in order.

    Args:
        path: path or URL of one of
            - JSON lines with `key`, `wav`, `txt`, and optionally `start`, `end`, `duration` (in seconds), `speaker`,
              `lang`; other keys are ignored;
            - `shards.jsonl` or the folder that holds it, as `unichoir shard` writes them (see `unichoir.data.shards`);
            - a Kaldi folder with `wav.scp` and `text`, and optionally `segments` and `utt2spk` (paths only);
            - a WeNet shard (a tar of KEY.txt, KEY.wav pairs) or a list of shards, one path a line;
            - cuts of lhotse (`cuts.jsonl.gz`) or a Shar folder (see `unichoir.data.cuts`).
            Relative paths start at the folder of the file that contains them.

    Raises:
        ManifestError: a line is invalid, a key occurs twice, or there are no utterances. The error names file and line.
    """
    location = os.fspath(path)
    utterances: list[Utterance] = []
    seen: dict[str, str] = {}
    for where, utterance in _locate(location):
        if utterance.key in seen:
            raise ManifestError(f"{where}: key '{utterance.key}' was already used at {seen[utterance.key]}")
        seen[utterance.key] = where
        utterances.append(utterance)
    if not utterances:
        raise ManifestError(f"{location}: no utterances")
    return utterances


def read_manifests(paths: Sequence[str | os.PathLike[str]]) -> list[Utterance]:
    """Read the utterances of several manifests. Raises ManifestError, also for a key in two of them."""
    utterances: list[Utterance] = []
    seen: dict[str, str] = {}
    for path in paths:
        for utterance in read_manifest(path):
            if utterance.key in seen:
                raise ManifestError(f"{path}: key '{utterance.key}' was already used in {seen[utterance.key]}")
            seen[utterance.key] = os.fspath(path)
            utterances.append(utterance)
    return utterances


def _locate(location: str) -> Iterator[tuple[str, Utterance]]:
    """Yield (place in the manifest, utterance)."""
    if is_shard_list(location):
        return _read_indexes(location)
    if is_cuts(location):
        return read_cuts(location)
    if not is_url(location) and os.path.isdir(location):
        return _read_kaldi(Path(location))
    if suffix(location) == ".tar":
        return _read_tar(location)
    if suffix(location) in (".json", ".jsonl") or _first_character(location) == "{":
        return _read_json_lines(location)
    return _read_tar_list(location)


def _first_character(location: str) -> str:
    return next((line[0] for _, line in read_lines(location)), "")


def _read_json_lines(location: str) -> Iterator[tuple[str, Utterance]]:
    folder = parent(location)
    for where, entry in read_json_lines(location, required=("key", "wav", "txt")):
        texts = {name: text_of(entry, name, where) for name in ("key", "wav", "txt", "speaker", "lang")}
        if not texts["key"] or not texts["wav"]:
            raise ManifestError(f"{where}: 'key' and 'wav' must not be empty")
        utterance = Utterance(
            key=texts["key"],
            wav=join(folder, texts["wav"]),
            txt=texts["txt"],
            start=seconds_of(entry, "start", where),
            end=seconds_of(entry, "end", where),
            speaker=texts["speaker"],
            lang=texts["lang"],
            duration=seconds_of(entry, "duration", where),
        )
        yield where, _checked(utterance, where)


def _checked(utterance: Utterance, where: str) -> Utterance:
    if utterance.end is not None and utterance.end <= (utterance.start or 0):
        raise ManifestError(f"{where}: ends at {utterance.end} s, before it starts")
    return utterance


def _read_indexes(location: str) -> Iterator[tuple[str, Utterance]]:
    for shard in read_shard_list(location):
        for utterance in read_shard(shard):
            yield f"{shard.index}: {utterance.key}", utterance


def _read_tar_list(location: str) -> Iterator[tuple[str, Utterance]]:
    for where, line in read_lines(location):
        tar = join(parent(location), line)
        if not is_url(tar) and not exists(tar):
            raise ManifestError(f"{where}: neither JSON nor the path of an existing shard: {line[:200]}")
        yield from _read_tar(tar)


def _read_tar(location: str) -> Iterator[tuple[str, Utterance]]:
    """Yield the utterances of a tar. Transcripts are read now; for audio only its place is kept."""
    for pair in read_pairs(location):
        if pair.missing:
            raise ManifestError(f"{location}: {pair.missing}")
        utterance = Utterance(key=pair.key, wav=location, txt=pair.txt or "", byte_range=pair.place)
        yield f"{location}: {pair.key}", utterance


def _read_kaldi(folder: Path) -> Iterator[tuple[str, Utterance]]:
    recordings = _table(folder / "wav.scp")
    for where, location in recordings.values():
        if location.endswith("|"):
            raise ManifestError(f"{where}: commands in wav.scp are not run; write the audio to files first")
        if not location:
            raise ManifestError(f"{where}: no path")
    texts = _table(folder / "text")
    speakers = _table(folder / "utt2spk") if (folder / "utt2spk").exists() else {}
    segments = folder / "segments"
    parts = _kaldi_segments(segments, recordings) if segments.exists() else _whole_recordings(recordings)
    used = set()
    for where, utterance in parts:
        if utterance.key not in texts:
            raise ManifestError(f"{where}: '{utterance.key}' has no line in {folder / 'text'}")
        used.add(utterance.key)
        _, speaker = speakers.get(utterance.key, ("", ""))
        wav = join(str(folder), utterance.wav)
        yield where, dataclasses.replace(utterance, wav=wav, txt=texts[utterance.key][1], speaker=speaker)
    for key, (where, _) in texts.items():
        if key not in used:
            raise ManifestError(f"{where}: there is no audio for '{key}'")


def _table(path: Path) -> dict[str, tuple[str, str]]:
    """Read lines 'key rest' as key -> (file:line, rest)."""
    table: dict[str, tuple[str, str]] = {}
    for where, line in read_lines(str(path)):
        key, *rest = line.split(maxsplit=1)
        if key in table:
            raise ManifestError(f"{where}: key '{key}' was already used at {table[key][0]}")
        table[key] = where, rest[0] if rest else ""
    return table


def _whole_recordings(recordings: dict[str, tuple[str, str]]) -> Iterator[tuple[str, Utterance]]:
    for key, (where, location) in recordings.items():
        yield where, Utterance(key=key, wav=location, txt="")


def _kaldi_segments(path: Path, recordings: dict[str, tuple[str, str]]) -> Iterator[tuple[str, Utterance]]:
    for where, line in read_lines(str(path)):
        try:
            key, recording, start, end = line.split()
            begin, finish = float(start), float(end)
        except ValueError:
            raise ManifestError(f"{where}: expected 'key recording start end', found '{line[:80]}'") from None
        if recording not in recordings:
            raise ManifestError(f"{where}: recording '{recording}' is not in wav.scp")
        # Kaldi writes -1 for "to the end".
        last = None if finish == -1 else seconds_of({"end": finish}, "end", where)
        utterance = Utterance(
            key=key, wav=recordings[recording][1], txt="", start=seconds_of({"start": begin}, "start", where), end=last
        )
        yield where, _checked(utterance, where)
