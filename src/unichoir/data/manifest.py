"""Lists of utterances: JSON lines, Kaldi folders and WeNet's tar shards."""

import dataclasses
import json
import math
import sys
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from unichoir.audio.io import Samples, audio_duration, load_audio
from unichoir.errors import AudioError, ManifestError

AUDIO_SUFFIXES = frozenset({"wav", "flac", "mp3", "ogg", "opus", "m4a"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Utterance:
    """Where a stretch of speech is to be found, and what is said in it."""

    key: str
    """Unique within its manifest."""
    wav: str
    """Path of the audio file, or of the tar that holds it."""
    txt: str
    """Transcript; may be empty where none is needed."""
    start: float | None = None
    """Seconds into the audio file; None means its beginning."""
    end: float | None = None
    speaker: str = ""
    lang: str = ""
    duration: float | None = None
    """Seconds of this utterance, where known."""
    byte_range: tuple[int, int] | None = None
    """(offset, size) of the audio file inside `wav`, when that is a tar."""


def load_utterance(utterance: Utterance, sample_rate: int = 16000) -> Samples:
    """(N,) samples of the utterance. Raises AudioError, naming the file, as `load_audio` does."""
    source, name = _source(utterance)
    return load_audio(source, sample_rate=sample_rate, start=utterance.start, end=utterance.end, name=name)


def utterance_duration(utterance: Utterance) -> float:
    """Seconds: as the manifest says, else from the headers of the audio. Raises AudioError."""
    if utterance.duration is not None:
        return utterance.duration
    start = utterance.start or 0.0
    if utterance.end is not None:
        return utterance.end - start
    source, name = _source(utterance)
    return audio_duration(source, name=name) - start


def _source(utterance: Utterance) -> tuple[str | bytes, str]:
    if utterance.byte_range is None:
        return utterance.wav, utterance.wav
    name = f"{utterance.wav}: {utterance.key}"
    offset, size = utterance.byte_range
    try:
        with Path(utterance.wav).open("rb") as archive:
            archive.seek(offset)
            content = archive.read(size)
    except OSError as error:
        raise AudioError(f"{name}: {error.strerror or error}") from None
    if len(content) < size:
        raise AudioError(f"{name}: truncated: {size - len(content)} more bytes should follow")
    return content, name


def read_manifest(path: str | Path) -> list[Utterance]:
    """All utterances of a manifest, in its order.

    Args:
        path: one of
            - JSON lines with `key`, `wav`, `txt`, and optionally `start`, `end`, `duration` (in seconds), `speaker`,
              `lang`; other keys are ignored;
            - a Kaldi folder with `wav.scp` and `text`, and optionally `segments` and `utt2spk`;
            - a WeNet shard (a tar of KEY.txt, KEY.wav pairs) or a list of shards, one path a line.
            Relative paths are relative to the folder of the file that names them.

    Raises:
        ManifestError: naming file and line; also for a key that occurs twice and for a manifest without utterances.
    """
    path = Path(path)
    if path.is_dir():
        located = _read_kaldi(path)
    elif path.suffix == ".tar":
        located = _read_shard(path)
    elif path.suffix in (".json", ".jsonl") or _first_character(path) == "{":
        located = _read_json_lines(path)
    else:
        located = _read_shard_list(path)
    utterances: list[Utterance] = []
    seen: dict[str, str] = {}
    for where, utterance in located:
        if utterance.key in seen:
            raise ManifestError(f"{where}: key '{utterance.key}' was already used at {seen[utterance.key]}")
        seen[utterance.key] = where
        utterances.append(utterance)
    if not utterances:
        raise ManifestError(f"{path}: no utterances")
    return utterances


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """(file:line, text) of every line that is not blank."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror or error}") from None
    for number, raw in enumerate(content.split(b"\n"), start=1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError:
            raise ManifestError(f"{path}:{number}: not UTF-8") from None
        if line:
            yield f"{path}:{number}", line


def _first_character(path: Path) -> str:
    return next((line[0] for _, line in _lines(path)), "")


def _read_json_lines(path: Path) -> Iterator[tuple[str, Utterance]]:
    for where, line in _lines(path):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{where}: not JSON ({error})") from None
        if not isinstance(entry, dict):
            raise ManifestError(f"{where}: expected a JSON object, found {line[:40]}")
        for name in ("key", "wav", "txt"):
            if name not in entry:
                raise ManifestError(f"{where}: missing '{name}'")
        texts = {name: _text(entry, name, where) for name in ("key", "wav", "txt", "speaker", "lang")}
        if not texts["key"] or not texts["wav"]:
            raise ManifestError(f"{where}: 'key' and 'wav' must not be empty")
        utterance = Utterance(
            key=texts["key"],
            wav=str(path.parent / texts["wav"]),
            txt=texts["txt"],
            start=_seconds(entry.get("start"), "start", where),
            end=_seconds(entry.get("end"), "end", where),
            speaker=texts["speaker"],
            lang=texts["lang"],
            duration=_seconds(entry.get("duration"), "duration", where),
        )
        yield where, _checked(utterance, where)


def _text(entry: dict[str, object], name: str, where: str) -> str:
    value = entry.get(name, "")
    # JSON can also spell null characters and half surrogate pairs, which neither a path nor UTF-8 can hold.
    if not isinstance(value, str) or "\0" in value or value != value.encode("utf-8", "replace").decode("utf-8"):
        raise ManifestError(f"{where}: '{name}' must be text, found {value!r}")
    return value


def _seconds(value: object, name: str, where: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise ManifestError(f"{where}: '{name}' must be a number of seconds, found {value!r}")
    return float(min(value, sys.maxsize))


def _checked(utterance: Utterance, where: str) -> Utterance:
    if utterance.end is not None and utterance.end <= (utterance.start or 0):
        raise ManifestError(f"{where}: ends at {utterance.end} s, before it starts")
    return utterance


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
        wav = str(folder / utterance.wav)
        yield where, dataclasses.replace(utterance, wav=wav, txt=texts[utterance.key][1], speaker=speaker)
    for key, (where, _) in texts.items():
        if key not in used:
            raise ManifestError(f"{where}: there is no audio for '{key}'")


def _table(path: Path) -> dict[str, tuple[str, str]]:
    """Lines 'key rest' as key -> (file:line, rest)."""
    table: dict[str, tuple[str, str]] = {}
    for where, line in _lines(path):
        key, *rest = line.split(maxsplit=1)
        if key in table:
            raise ManifestError(f"{where}: key '{key}' was already used at {table[key][0]}")
        table[key] = where, rest[0] if rest else ""
    return table


def _whole_recordings(recordings: dict[str, tuple[str, str]]) -> Iterator[tuple[str, Utterance]]:
    for key, (where, location) in recordings.items():
        yield where, Utterance(key=key, wav=location, txt="")


def _kaldi_segments(path: Path, recordings: dict[str, tuple[str, str]]) -> Iterator[tuple[str, Utterance]]:
    for where, line in _lines(path):
        try:
            key, recording, start, end = line.split()
            begin, finish = float(start), float(end)
        except ValueError:
            raise ManifestError(f"{where}: expected 'key recording start end', found '{line[:80]}'") from None
        if recording not in recordings:
            raise ManifestError(f"{where}: recording '{recording}' is not in wav.scp")
        # Kaldi writes -1 for "to the end".
        last = None if finish == -1 else _seconds(finish, "end", where)
        utterance = Utterance(
            key=key, wav=recordings[recording][1], txt="", start=_seconds(begin, "start", where), end=last
        )
        yield where, _checked(utterance, where)


def _read_shard_list(path: Path) -> Iterator[tuple[str, Utterance]]:
    for where, line in _lines(path):
        shard = path.parent / line
        if not shard.is_file():
            raise ManifestError(f"{where}: no such shard: {line[:200]}")
        yield from _read_shard(shard)


def _read_shard(path: Path) -> Iterator[tuple[str, Utterance]]:
    """Transcripts are read now; of the audio only its place in the tar is kept."""
    try:
        # "r:" refuses compressed archives, in which audio has no place of its own.
        with tarfile.open(path, "r:") as archive:
            yield from _pairs(path, archive)
    except (tarfile.TarError, EOFError) as error:
        raise ManifestError(f"{path}: not an uncompressed tar, or damaged ({error})") from None
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror or error}") from None


def _pairs(path: Path, archive: tarfile.TarFile) -> Iterator[tuple[str, Utterance]]:
    key, txt, place = "", None, None
    for member in _members(archive):
        stem, _, suffix = member.name.rpartition(".")
        if stem != key:
            yield from _pair(path, key, txt, place)
            key, txt, place = stem, None, None
        if suffix == "txt":
            content = archive.extractfile(member)
            try:
                txt = content.read().decode("utf-8").strip() if content else ""
            except UnicodeDecodeError:
                raise ManifestError(f"{path}: {member.name}: not UTF-8") from None
        elif suffix.lower() in AUDIO_SUFFIXES:
            place = (member.offset_data, member.size)
    yield from _pair(path, key, txt, place)


def _members(archive: tarfile.TarFile) -> Iterable[tarfile.TarInfo]:
    return (member for member in archive if member.isfile())


def _pair(path: Path, key: str, txt: str | None, place: tuple[int, int] | None) -> Iterator[tuple[str, Utterance]]:
    if txt is None and place is None:  # before the first member, or files of no concern here
        return
    if txt is None or place is None:
        missing = "transcript (.txt)" if txt is None else "audio"
        raise ManifestError(f"{path}: '{key}' has no {missing} beside it")
    yield f"{path}: {key}", Utterance(key=key, wav=str(path), txt=txt, byte_range=place)
