"""What is known about a corpus, and the errors and entries that its readers share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unichoir.data.utterance import Utterance
from unichoir.errors import UnichoirError

Progress = Callable[[int, int], None]
"""Called with the amount done and the whole."""


@dataclass(frozen=True)
class LeftOut:
    """An utterance that the corpus names and that cannot be used."""

    key: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a reader is asked for."""

    root: Path
    """The corpus' own folder, of which the layout has been checked."""
    splits: Sequence[str]
    """As this project names them."""
    lang: str
    progress: Progress | None = None


Entry = tuple[str, Utterance | LeftOut]
"""A split and one utterance of it."""
Read = Callable[[Request], Iterator[Entry]]
Download = Callable[[Path, Sequence[str], str | None], None]
"""(folder, splits, mirror or None): what is there already is not fetched again."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A corpus as published: where its parts lie, and the functions that read it.

    Paths are relative to the corpus' own folder; `{language}` in `folders` stands for the language asked for.
    """

    title: str
    read: Read
    splits: Mapping[str, str]
    """Each split and the path it needs."""
    needed: tuple[str, ...] = ()
    """Paths that every split needs."""
    folders: tuple[str, ...] = ()
    """Where the corpus' own folder may lie inside the one that is given, if it is not that itself."""
    combined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Manifests made of several splits."""
    lang: str = ""
    """Of all utterances; empty: the user says it."""
    any_splits: bool = False
    """Whether it is of use with some of its splits only, and read split by split."""
    streamed: bool = False
    """Whether the reader tells its progress."""
    download: Download | None = None
    source: str
    """Where it can be had, for those who have to fetch it by hand."""


def find_root(corpus: Corpus, folder: Path, language: str) -> Path:
    """The corpus' own folder: `folder` or one that `corpus.folders` names in it.

    Raises UnichoirError naming what is missing where none has the layout as published.
    """
    if not folder.is_dir():
        raise UnichoirError(f"{folder}: no such folder")
    candidates = [folder, *(folder / name.format(language=language) for name in corpus.folders)]
    for root in candidates:
        if not missing_paths(corpus, root):
            return root
    # The one that is most like it tells best what is missing.
    root = min(candidates, key=lambda candidate: len(missing_paths(corpus, candidate)))
    missing = ", ".join(missing_paths(corpus, root)[:5])
    raise UnichoirError(f"{root}: not the layout of {corpus.title}: missing {missing}")


def missing_paths(corpus: Corpus, root: Path) -> list[str]:
    """What the layout lacks at `root`; of splits that can do without each other one is enough."""
    missing = [path for path in corpus.needed if not (root / path).exists()]
    paths = [path for path in dict.fromkeys(corpus.splits.values()) if not (root / path).exists()]
    if not corpus.any_splits or len(paths) == len(set(corpus.splits.values())):
        missing += paths
    return missing
