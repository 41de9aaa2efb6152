"""lhotse's cuts as utterances: JSON lines, or a Shar folder with the recordings in tars. This doesn't need lhotse.

Cuts must have one recording with one channel: `MonoCut` with a source of type `file`, `url` or `shar`. Cuts that would
have to be mixed, computed or executed first are rejected, naming the cut: `MixedCut`, `MultiCut`, cuts of features
without a recording, commands, and transforms that change the audio, such as its speed. `Resample` is accepted, because
every recording is resampled when it is read.

As in lhotse, relative paths of recordings start at the current directory.
"""

import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unichoir.data.records import count_of, seconds_of, text_of
from unichoir.data.storage import is_url, open_binary
from unichoir.data.tars import read_pairs
from unichoir.data.utterance import Utterance
from unichoir.errors import ManifestError

_NAME = re.compile(r"(.*[._-])?cuts([._-].*)?\.jsonl(\.gz)?|.*\.jsonl\.gz")
_SHAR = re.compile(r"cuts\.(\d+)\.jsonl(\.gz)?")
_HARMLESS_TRANSFORMS = frozenset({"Resample"})

_Places = Mapping[str, tuple[int, int]]


def is_cuts(location: str) -> bool:
    """Return whether the name is one of cuts (`cuts.jsonl`, `dev_cuts_x.jsonl.gz`), or of a Shar folder."""
    if not is_url(location) and os.path.isdir(location):
        return any(_SHAR.fullmatch(name) for name in os.listdir(location))
    return _NAME.fullmatch(location.rsplit("/", 1)[-1]) is not None


def read_cuts(location: str) -> Iterator[tuple[str, Utterance]]:
    """Yield (file:line, utterance) for every cut. The texts of several supervisions are joined in order of time.

    Args:
        location: path or URL of a file of cuts, optionally compressed by gzip, or the path of a Shar folder.

    Raises:
        ManifestError: a line is not a cut, a cut is rejected, or a file is damaged. The error names file and line.
    """
    if is_url(location) or not os.path.isdir(location):
        yield from _read_file(location, "", {})
        return
    folder = Path(location)
    shards = {match[1]: name for name in sorted(os.listdir(folder)) if (match := _SHAR.fullmatch(name))}
    for number, name in shards.items():
        tar = str(folder / f"recording.{number}.tar")
        places = {pair.key: pair.place for pair in read_pairs(tar) if pair.place is not None}
        yield from _read_file(str(folder / name), tar, places)


def _read_file(location: str, tar: str, places: _Places) -> Iterator[tuple[str, Utterance]]:
    for where, line in _lines(location):
        try:
            cut = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{where}: not JSON ({error})") from None
        if not isinstance(cut, dict) or not str(cut.get("type", "")).endswith("Cut"):
            raise ManifestError(f"{where}: not a cut of lhotse: {line[:40]}")
        try:
            yield where, _utterance(cut, f"{where}: cut '{cut.get('id')}'", tar, places)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ManifestError(f"{where}: cut '{cut.get('id')}': malformed ({error!r})") from None


def _lines(location: str) -> Iterator[tuple[str, str]]:
    try:
        with open_binary(location) as file, gzip.open(file) if location.endswith(".gz") else file as lines:
            for number, raw in enumerate(lines, start=1):
                if raw.strip():
                    yield f"{location}:{number}", raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ManifestError(f"{location}:{number}: not UTF-8") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ManifestError(f"{location}: truncated or not compressed by gzip ({error})") from None
    except OSError as error:
        raise ManifestError(f"{location}: {error.strerror or error}") from None


def _utterance(cut: Mapping[str, Any], where: str, tar: str, places: _Places) -> Utterance:
    if cut["type"] != "MonoCut":
        raise ManifestError(f"{where}: a {cut['type']} is not one recording of one channel")
    recording = cut.get("recording")
    if recording is None:
        raise ManifestError(f"{where}: has no recording, only features")
    transforms = {transform["name"] for transform in recording.get("transforms") or ()} - _HARMLESS_TRANSFORMS
    if transforms:
        raise ManifestError(f"{where}: its recording is transformed by {min(transforms)}; write it to a file first")
    start, duration = seconds_of(cut, "start", where) or 0.0, seconds_of(cut, "duration", where)
    if not duration:
        raise ManifestError(f"{where}: has no duration")
    rate, samples = (count_of(recording, name, where, 1) for name in ("sampling_rate", "num_samples"))
    whole = start == 0 and abs(duration * rate - samples) < 1
    key = text_of(cut, "id", where)
    wav, place = _audio(recording, where, key, tar, places)
    spoken = sorted(cut.get("supervisions") or (), key=lambda supervision: supervision["start"])
    return Utterance(
        key=key,
        wav=wav,
        txt=" ".join(filter(None, (_text(part, "text", where) for part in spoken))),
        start=None if whole else start,
        end=None if whole else start + duration,
        speaker=_shared(spoken, "speaker", where),
        lang=_shared(spoken, "language", where),
        duration=duration,
        byte_range=place,
    )


def _audio(
    recording: Mapping[str, Any], where: str, key: str, tar: str, places: _Places
) -> tuple[str, tuple[int, int] | None]:
    """Return the path or URL of the recording, and its place if that is a tar."""
    (source, *more) = recording["sources"]
    if more or len(source["channels"]) != 1:
        raise ManifestError(f"{where}: its recording has several channels")
    kind = source["type"]
    if kind == "shar" and tar:
        if key not in places:
            raise ManifestError(f"{where}: its recording is not in {tar}")
        return tar, places[key]
    if kind not in ("file", "url"):
        raise ManifestError(f"{where}: a source of type '{kind}' is neither a file nor a URL")
    return text_of(source, "source", where), None


def _text(supervision: Mapping[str, Any], name: str, where: str) -> str:
    return text_of({name: supervision.get(name) or ""}, name, where)


def _shared(supervisions: list[Mapping[str, Any]], name: str, where: str) -> str:
    """Return the value that all supervisions share; "" if they differ."""
    values = {_text(supervision, name, where) for supervision in supervisions}
    return values.pop() if len(values) == 1 else ""
