"""Pulling: a published WeNet model, or another WeNet checkpoint, becomes a model directory with its checkpoint.

The original is fetched, unpacked and converted once, for which PyTorch is needed. What results needs none
(`bundle.pulled` describes the cache).
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from unichoir.bundle.archive import unpack_wenet
from unichoir.bundle.card import DATA, NOT_STATED, RESULTS, Card
from unichoir.bundle.download import discard, download, is_web, shown
from unichoir.bundle.hub import fetch_wenet, is_on_hub
from unichoir.bundle.messages import megabytes, say
from unichoir.bundle.published import PUBLISHED, PublishedModel, is_published, split_pinned
from unichoir.bundle.pulled import (
    CHECKPOINT,
    LOCAL,
    RECORD_FILE,
    Record,
    checkpoint_of,
    download_folder,
    model_folder,
)
from unichoir.bundle.replacing import replace_text, replacing_directory
from unichoir.bundle.sources import ARCHIVES_VARIABLE, archive_sources
from unichoir.bundle.sums import CARD_FILE, sha256
from unichoir.errors import CheckpointError, ConfigError, DownloadError, UnichoirError
from unichoir.export.onnx import export_onnx
from unichoir.export.wenet import import_wenet

ARCHIVE_FILE = "archive"
DIGEST_FILE = "sha256"
_ARCHIVE_NAME = re.compile(r"([\w.+-]+?)\.(?:tar\.gz|tgz|tar\.bz2|tar\.xz|tar)(?![\w.])")


@dataclass(frozen=True)
class Pulled:
    """What was pulled: what `--model` takes, and the folder; is_new: it wasn't in the cache."""

    name: str
    directory: Path
    is_new: bool = True


@dataclass(frozen=True)
class _Original:
    """An unpacked original."""

    folder: Path
    source: str
    sha256: str = ""

    def named(self, message: str) -> str:
        """Return a message about files that were unpacked with the name of their archive."""
        return message.replace(str(self.folder), self.source) if self.sha256 else message


def pull(source: str, output: Path | None = None, *, force: bool = False) -> Pulled:
    """Convert a WeNet model, after fetching it, to a model directory in int8 with its float32 checkpoint in it.

    source: the name of a published model (`PUBLISHED`), a folder, an archive, the URL of an archive, or
    `organisation/name[@revision]` on the Hugging Face hub. A folder or archive with this name counts first.
    output: the folder to write; None: the cache, under the name itself or, for folders, archives and URLs,
    `local/NAME`.
    force: fetch and convert again what is there.

    Only one process pulls a model at a time; others wait for it, and take its result. Raises DownloadError and OSError
    for a download that fails (the next call goes on with it), CheckpointError or ConfigError for an archive or
    checkpoint that is refused, CheckpointError for an `output` that holds something else. Nothing is then left in
    `output` or among the models.
    """
    name = _name(source)
    if output is not None and output.exists() and not _may_replace(output, force):
        raise CheckpointError(f"{output}: exists and is not an empty folder")
    plain = split_pinned(name)[0]
    folder, target = download_folder(plain), model_folder(plain) if output is None else output
    with _alone(folder, name):
        if output is None and not force and (target / RECORD_FILE).is_file():
            return _known(name, source, target)
        with _original(source, name, folder) as original:
            _convert(original, target, Record(plain, original.source, original.sha256))
    return Pulled(name if output is None else str(output), target)


def _name(source: str) -> str:
    """Return the name in the cache. Raises CheckpointError for a source of no kind."""
    if os.path.exists(source):
        if not (os.path.isdir(source) or os.path.isfile(source)):  # opening a named pipe would block
            raise CheckpointError(f"{source}: neither a folder nor a file")
        stem = Path(os.path.abspath(source)).name
        match = None if os.path.isdir(source) else _ARCHIVE_NAME.fullmatch(stem)
        return f"{LOCAL}/{_plain(match[1] if match else stem)}"
    if is_published(source):
        return source
    if is_web(source):
        names = _ARCHIVE_NAME.findall(source) or [source.partition("?")[0].rstrip("/").rpartition("/")[2]]
        return f"{LOCAL}/{_plain(names[-1])}"
    if is_on_hub(source) and not source.startswith(f"{LOCAL}/"):
        return source
    published = ", ".join(PUBLISHED)
    raise CheckpointError(f"{source}: no such folder or archive, and no published model ({published})")


def _plain(text: str) -> str:
    return re.sub(r"[^\w.-]", "-", text).strip(".-") or "model"


def _may_replace(output: Path, force: bool) -> bool:
    if not output.is_dir():
        return False
    return not any(output.iterdir()) or (force and (output / RECORD_FILE).is_file())


def _known(name: str, source: str, target: Path) -> Pulled:
    """Return what is in the cache already. Raises CheckpointError if the name is taken by something else."""
    record = Record.read(target)
    if name.startswith(f"{LOCAL}/") and record.source != (shown(source) if is_web(source) else Path(source).name):
        raise CheckpointError(f"{name}: is in the cache already, from {record.source}: use --force to replace it")
    if split_pinned(name)[1] not in (None, record.sha256):
        raise CheckpointError(f"{name}: the cache has another version, with the SHA-256 {record.sha256}")
    return Pulled(name, target, is_new=False)


@contextmanager
def _alone(folder: Path, name: str) -> Iterator[None]:
    """Keep other processes from pulling the same model. The system frees the lock of a killed process."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"{name}: another process is pulling it; waiting for that")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _original(source: str, name: str, folder: Path) -> Iterator[_Original]:
    """Yield the original in a folder; what was unpacked is deleted at the end, and a fetched archive if it was used."""
    if os.path.isdir(source):
        yield _Original(Path(source), Path(os.path.abspath(source)).name)
    elif os.path.exists(source):
        with _unpacked(Path(source), folder, source) as unpacked:
            yield _Original(unpacked, Path(source).name, sha256(Path(source)))
    elif is_web(source) or is_published(source):
        with _fetched(source, name, folder) as original:
            yield original
    else:
        snapshot = fetch_wenet(source)
        yield _Original(snapshot, f"{source.partition('@')[0]}@{snapshot.name}")


@contextmanager
def _fetched(source: str, name: str, folder: Path) -> Iterator[_Original]:
    archive, known = folder / ARCHIVE_FILE, folder / DIGEST_FILE
    published, pinned = split_pinned(source)
    url = source
    if is_web(source):
        download(source, archive, name=name)
    else:
        url = _download_published(PUBLISHED[published].archive, archive, name)
    digest = sha256(archive)
    expected = pinned or _recorded(known, shown(source) if is_web(source) else None)
    if expected and digest != expected:
        discard(archive)
        since = f"it should be {expected}" if pinned else f"at the first download it was {expected}"
        advice = "" if pinned else f"; if the archive was replaced on purpose, delete {known} and pull again"
        raise DownloadError(f"{name}: the SHA-256 of {shown(url)} is {digest}, {since}{advice}")
    try:
        with _unpacked(archive, folder, shown(url)) as unpacked:
            if not expected:
                replace_text(known, f"{digest}  {shown(url)}\n")
            yield _Original(unpacked, shown(url), digest)
    except UnichoirError:
        discard(archive)  # the next try would fail in the same way
        raise
    discard(archive)


def _download_published(archive: str, target: Path, name: str) -> str:
    """Download an archive from the first source that has it, and return the URL. Raises DownloadError."""
    sources, problem = archive_sources(archive)
    problems = [problem] if problem else []
    for source in sources:
        if problems:
            say(f"{name}: {problems[-1]}; trying {shown(source.url)}")
        try:
            download(source.url, target, name=name, size=source.size)
            return source.url
        except DownloadError as error:
            problems.append(str(error))
    raise DownloadError(f"{name}: {'; '.join(problems)}; {ARCHIVES_VARIABLE} can name a mirror")


def _recorded(known: Path, url: str | None) -> str:
    """Return the SHA-256 of the first download, "" if there was none. url: None for any, because mirrors differ."""
    if not known.exists():
        return ""
    digest, _, where = known.read_text(encoding="utf-8").strip().partition("  ")
    return digest if url in (None, where) else ""


@contextmanager
def _unpacked(archive: Path, folder: Path, name: str) -> Iterator[Path]:
    place = folder / "unpacked"
    shutil.rmtree(place, ignore_errors=True)  # of a process that was killed
    place.mkdir()
    try:
        yield unpack_wenet(archive, place, name)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _convert(original: _Original, target: Path, record: Record) -> None:
    """Write the model directory, at once or not at all, and say what results."""
    say(f"{record.name}: converting {record.source}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing_directory(target) as folder:
        checkpoint, exported = folder / CHECKPOINT, folder / "exported"
        try:
            notes = [original.named(note) for note in import_wenet(original.folder, checkpoint)]
        except (CheckpointError, ConfigError) as error:
            raise type(error)(original.named(str(error))) from None
        _describe(checkpoint, record, PUBLISHED.get(record.name), (original.folder / CARD_FILE).is_file())
        export_onnx(checkpoint, exported, quantize="int8")
        for path in list(exported.iterdir()):
            path.rename(folder / path.name)
        exported.rmdir()
        record.write(folder)
    for line in notes:
        say(f"{record.name}: note: {line}")
    sizes = (megabytes(sum(each.stat().st_size for each in path.iterdir())) for path in (target, checkpoint_of(target)))
    say(f"{record.name}: {' of model (int8), '.join(sizes)} of checkpoint (float32)")


def _describe(checkpoint: Path, record: Record, published: PublishedModel | None, has_card: bool) -> None:
    """Complete the model card, which the model inherits."""
    card = Card.read(checkpoint, record.name)
    if not has_card:
        card.sections[""] = Card.new(record.name).sections[""]
    if published is not None:
        card.state_languages([published.language])
        card.state_licence(published.licence)
        card.sections[DATA] = f"{published.data}, {published.hours} hours; as WeNet states it."
        if card.sections[RESULTS] == NOT_STATED:
            card.sections[RESULTS] = f"Published by WeNet: {published.scores} ({published.conditions})."
    card.write(checkpoint)
