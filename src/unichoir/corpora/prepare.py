"""Preparation of a corpus: `SPLIT.jsonl`, lists of left-out utterances, and `prepared.json` with the counts."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from unichoir.bundle.replacing import replace_text, replacing, writing
from unichoir.corpora.catalog import CORPORA
from unichoir.corpora.corpus import Corpus, LeftOut, Progress, Request, find_root
from unichoir.data.utterance import Utterance
from unichoir.errors import UnichoirError

RECORD = "prepared.json"
_FIELDS = ("key", "wav", "txt", "start", "end", "duration", "speaker", "lang")


@dataclass(frozen=True)
class Split:
    """The account of one manifest."""

    utterances: int
    seconds: float
    left_out: int
    """Number of utterances of the corpus that are not in the manifest; `SPLIT.left_out.txt` lists them."""
    parts: tuple[str, ...] = ()
    """Splits that it combines."""


Report = Callable[[Path, Split, bool], None]
"""A function that is called with a complete manifest, its account, and whether it already existed."""


def download(name: str, folder: Path, splits: Sequence[str], mirror: str | None) -> None:
    """Download a corpus and unpack it in `folder`. Complete archives and parts are not downloaded again.

    splits: the splits to download, if the corpus has an archive for each; none: all. mirror: address to use instead of
    the corpus' own, with the same files below it. Raises UnichoirError for a corpus that requires an application.
    """
    corpus = CORPORA[name]
    if corpus.download is None:
        raise UnichoirError(f"{corpus.title} cannot be downloaded automatically: get it from {corpus.source}")
    corpus.download(folder, splits, mirror)


def prepare(
    name: str,
    folder: Path,
    output: Path | None = None,
    *,
    splits: Sequence[str] = (),
    language: str = "",
    force: bool = False,
    progress: Progress | None = None,
    report: Report | None = None,
) -> Path:
    """Write the manifests of a corpus and return their folder.

    Args:
        name: a name in CORPORA.
        folder: the corpus' own folder, or the one that holds it.
        output: folder for the manifests; by default the corpus' own folder. Paths of audio below it are relative.
        splits: the splits to prepare; by default all that exist.
        language: the language, for a corpus with several.
        force: whether to write existing manifests again.
        progress: reports bytes, for corpora whose metadata are one large file.
        report: called with each manifest as soon as it is complete.

    Raises:
        UnichoirError: the folder doesn't have the corpus' layout, lhotse can't read a file, or the output folder holds
            other manifests. Manifests completed before stay.
    """
    corpus = CORPORA[name]
    root = find_root(corpus, folder, language)
    wanted = _wanted(corpus, root, splits)
    output = output or root
    output.mkdir(parents=True, exist_ok=True)
    record = _Record(output, name, root, language)
    tell = report or (lambda *_: None)
    todo = []
    for split in wanted:
        if split in record.splits and _manifest(output, split).exists() and not force:
            tell(_manifest(output, split), record.splits[split], True)
        else:
            todo.append(split)
    for group in [[split] for split in todo] if corpus.any_splits else [todo] if todo else []:
        record.forget(group)
        request = Request(root=root, splits=group, lang=corpus.lang or language, progress=progress)
        for split, account in _write(corpus, request, output).items():
            record.add(split, account)
            tell(_manifest(output, split), account, False)
    for combined, members in corpus.combined.items():
        parts = tuple(part for part in members if part in record.splits)
        made = combined in record.splits and record.splits[combined].parts == parts
        if parts and not (made and _manifest(output, combined).exists()):
            record.add(combined, _combine(output, combined, parts, record.splits))
            tell(_manifest(output, combined), record.splits[combined], False)
    return output


def _wanted(corpus: Corpus, root: Path, splits: Sequence[str]) -> list[str]:
    for split in splits:
        if split not in corpus.splits:
            raise UnichoirError(f"{corpus.title} has no split '{split}' (it has: {', '.join(corpus.splits)})")
        if not (root / corpus.splits[split]).exists():
            raise UnichoirError(f"{root}: no {corpus.splits[split]}, which the split {split} needs")
    return list(splits) or [split for split, path in corpus.splits.items() if (root / path).exists()]


def _manifest(output: Path, split: str) -> Path:
    return output / f"{split}.jsonl"


def _write(corpus: Corpus, request: Request, output: Path) -> dict[str, Split]:
    """Write the manifests of those splits that have utterances. They get their names when all are complete."""
    with contextlib.ExitStack() as stack:
        writers = {split: stack.enter_context(_Writer.open(output, split)) for split in request.splits}
        for split, item in corpus.read(request):
            writers[split].add(item)
        if not any(writer.utterances for writer in writers.values()):
            raise UnichoirError(f"{request.root}: no utterances of {', '.join(request.splits)}")
    accounts = {}
    for split, writer in writers.items():
        if writer.utterances:
            writer.keep()
            accounts[split] = Split(writer.utterances, round(writer.seconds, 3), writer.left_out)
        else:
            writer.discard()
    return accounts


class _Writer:
    """A manifest in progress, and the list of left-out utterances."""

    def __init__(self, output: Path, split: str) -> None:
        self.output = output
        self.targets = [_manifest(output, split), output / f"{split}.left_out.txt"]
        self.partial = [path.with_name(f".{path.name}.partial") for path in self.targets]
        self.utterances = self.left_out = 0
        self.seconds = 0.0
        self.files: list[IO[str]] = []

    @classmethod
    @contextlib.contextmanager
    def open(cls, output: Path, split: str) -> Iterator["_Writer"]:
        writer = cls(output, split)
        try:
            with writing(writer.targets[0]), contextlib.ExitStack() as stack:
                for path in writer.partial:
                    writer.files.append(stack.enter_context(path.open("w", encoding="utf-8", newline="\n")))
                yield writer
        except BaseException:
            writer.discard()
            raise

    def add(self, item: Utterance | LeftOut) -> None:
        manifest, list_of_left_out = self.files
        if isinstance(item, LeftOut):
            self.left_out += 1
            list_of_left_out.write(f"{item.key}\t{' '.join(item.reason.split())}\n")
            return
        self.utterances += 1
        self.seconds += item.duration or 0.0
        values = {**vars(item), "wav": _named(Path(item.wav), self.output)}
        line = {name: values[name] for name in _FIELDS if values[name] not in (None, "") or name == "txt"}
        manifest.write(json.dumps(line, ensure_ascii=False) + "\n")

    def keep(self) -> None:
        for partial, target in zip(self.partial, self.targets, strict=True):
            os.replace(partial, target)
        if not self.left_out:
            self.targets[1].unlink()

    def discard(self) -> None:
        for path in self.partial:
            path.unlink(missing_ok=True)


def _combine(output: Path, name: str, parts: Sequence[str], splits: dict[str, Split]) -> Split:
    with replacing(_manifest(output, name)) as file:
        for part in parts:
            with _manifest(output, part).open("rb") as manifest:
                shutil.copyfileobj(manifest, file)
    members = [splits[part] for part in parts]
    return Split(
        utterances=sum(member.utterances for member in members),
        seconds=round(sum(member.seconds for member in members), 3),
        left_out=sum(member.left_out for member in members),
        parts=tuple(parts),
    )


class _Record:
    """`prepared.json`: the source of the manifests, and the accounts of the complete ones."""

    def __init__(self, output: Path, name: str, root: Path, language: str) -> None:
        self.path = output / RECORD
        self.origin = {"corpus": name, "folder": _named(root.absolute(), output), "language": language}
        self.splits: dict[str, Split] = {}
        if not self.path.exists():
            return
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            self.splits = {
                split: Split(**{**account, "parts": tuple(account["parts"])})
                for split, account in content.pop("splits").items()
            }
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UnichoirError(f"{self.path}: damaged ({error}); delete it to prepare everything anew") from None
        if content != self.origin:
            was = " ".join(filter(None, map(str, content.values())))
            raise UnichoirError(f"{output} holds manifests of {was}; choose another folder with --output")

    def forget(self, splits: Sequence[str]) -> None:
        """Remove these manifests and their combinations from the record before writing them again."""
        kept = {
            name: split
            for name, split in self.splits.items()
            if name not in splits and set(split.parts).isdisjoint(splits)
        }
        if kept != self.splits:
            self.splits = kept
            self._save()

    def add(self, split: str, account: Split) -> None:
        self.splits[split] = account
        self._save()

    def _save(self) -> None:
        content = {**self.origin, "splits": {name: asdict(split) for name, split in self.splits.items()}}
        replace_text(self.path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _named(path: Path, output: Path) -> str:
    """Return a relative path below the manifests, so both can be moved together; otherwise an absolute path."""
    folder = output.absolute()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
