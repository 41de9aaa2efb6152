"""The description of a corpus, and the errors and entries that its readers share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unichoir.data.utterance import Utterance
from unichoir.errors import UnichoirError

Progress = Callable[[int, int], None]
"""A function that is called with (done, total)."""


@dataclass(frozen=True)
class LeftOut:
    """An utterance of the corpus that can't be used."""

    key: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Request:
    """The input of a reader."""

    root: Path
    """The corpus' own folder, whose layout has been checked."""
    splits: Sequence[str]
    """Names of the splits in this project."""
    lang: str
    progress: Progress | None = None


Entry = tuple[str, Utterance | LeftOut]
"""A split and one of its utterances."""
Read = Callable[[Request], Iterator[Entry]]
Download = Callable[[Path, Sequence[str], str | None], None]
"""A function of (folder, splits, mirror or None). Existing files are not downloaded again."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A published corpus: the places of its parts, and the functions that read it.

    Paths are relative to the corpus' own folder. `{language}` in `folders` is replaced by the requested language.
    """

    title: str
    read: Read
    splits: Mapping[str, str]
    """Each split and its path."""
    needed: tuple[str, ...] = ()
    """Paths that every split needs."""
    folders: tuple[str, ...] = ()
    """Possible places of the corpus' own folder inside the given folder."""
    combined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Manifests that combine several splits."""
    lang: str = ""
    """Language of all utterances; empty: the user sets it."""
    any_splits: bool = False
    """Whether a part of its splits is sufficient. Such a corpus is read split by split."""
    streamed: bool = False
    """Whether the reader reports its progress."""
    download: Download | None = None
    source: str
    """Where to get the corpus, for users who have to download it by hand."""


def find_root(corpus: Corpus, folder: Path, language: str) -> Path:
    """Return the corpus' own folder: `folder` or a folder in it that `corpus.folders` names.

    Raises UnichoirError, naming what is missing, if no folder has the published layout.
    """
    if not folder.is_dir():
        raise UnichoirError(f"{folder}: no such folder")
    candidates = [folder, *(folder / name.format(language=language) for name in corpus.folders)]
    for root in candidates:
        if not missing_paths(corpus, root):
            return root
    # The most similar one gives the most useful error.
    root = min(candidates, key=lambda candidate: len(missing_paths(corpus, candidate)))
    missing = ", ".join(missing_paths(corpus, root)[:5])
    raise UnichoirError(f"{root}: not the layout of {corpus.title}: missing {missing}")


def missing_paths(corpus: Corpus, root: Path) -> list[str]:
    """Return the missing paths at `root`. For independent splits one is enough."""
    missing = [path for path in corpus.needed if not (root / path).exists()]
    paths = [path for path in dict.fromkeys(corpus.splits.values()) if not (root / path).exists()]
    if not corpus.any_splits or len(paths) == len(set(corpus.splits.values())):
        missing += paths
    return missing
