"""Corpora in folders of recordings, read by the lhotse recipes of the same names."""

import csv
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from unichoir.corpora import transcripts
from unichoir.corpora.corpus import Download, Entry, Request
from unichoir.corpora.lhotse import entries, lhotse_module, quietly, with_missing
from unichoir.errors import UnichoirError

COMMON_VOICE_COLUMNS = ("client_id", "path", "sentence", "gender", "age", "accents", "variant")
"""Columns that lhotse's recipe requires."""


def read_librispeech(request: Request) -> Iterator[Entry]:
    """Yield the recordings of LibriSpeech and Mini LibriSpeech. Those without a file are left out."""
    recipe = lhotse_module("recipes.librispeech")
    for split in request.splits:
        with quietly(f"reading {request.root / split}"):
            sets = recipe.prepare_librispeech(request.root, dataset_parts=split, num_jobs=_jobs())[split]
        lists = sorted((request.root / split).rglob("*.trans.txt"))
        listed = (line.split(maxsplit=1)[0] for path in lists for line in _lines(path))
        found = entries(split, sets["recordings"], sets["supervisions"], request.lang, transcripts.as_published)
        yield from with_missing(found, split, listed, "no such recording")


def read_common_voice(request: Request) -> Iterator[Entry]:
    """Yield the clips of one language of Common Voice. Those without a file are left out."""
    recipe = lhotse_module("recipes.commonvoice")
    for split in request.splits:
        listed = _common_voice_clips(request.root / f"{split}.tsv")
        language = request.root.name
        with quietly(f"reading {request.root / split}.tsv"), tempfile.TemporaryDirectory() as scratch:
            sets = recipe.prepare_commonvoice(
                request.root.parent, scratch, languages=language, splits=[split], num_jobs=_jobs()
            )[language][split]
        found = entries(split, sets["recordings"], sets["supervisions"], request.lang, transcripts.without_punctuation)
        yield from with_missing(found, split, listed, "no such clip")


def _common_voice_clips(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = [name for name in COMMON_VOICE_COLUMNS if name not in (rows.fieldnames or ())]
        if missing:
            raise UnichoirError(f"{path}: no column '{missing[0]}': releases of Common Voice from 13.0 on are read")
        return [Path(row["path"]).stem for row in rows]


def aishell(request: Request) -> Iterator[Entry]:
    """Yield the recordings of AISHELL-1. Those without a transcript are left out."""
    recipe = lhotse_module("recipes.aishell")
    with quietly(f"reading {request.root}"):
        sets = recipe.prepare_aishell(request.root)
    return _mandarin(request, sets, {split: f"data_aishell/wav/{split}" for split in request.splits})


def aishell2(request: Request) -> Iterator[Entry]:
    """Yield the iPhone recordings of AISHELL-2. Those without a transcript are left out."""
    recipe = lhotse_module("recipes.aishell2")
    with quietly(f"reading {request.root}"):
        sets = recipe.prepare_aishell2(request.root, num_jobs=_jobs())
    folders = {"train": "data", "dev": "dev", "test": "test"}
    return _mandarin(request, sets, {split: f"AISHELL-2/iOS/{folders[split]}/wav" for split in request.splits})


def thchs30(request: Request) -> Iterator[Entry]:
    """Yield the recordings of THCHS-30. Those without a transcript are left out."""
    recipe = lhotse_module("recipes.thchs_30")
    with quietly(f"reading {request.root}"):
        sets = recipe.prepare_thchs_30(request.root)
    return _mandarin(request, sets, {split: f"data_thchs30/{split}" for split in request.splits})


def _mandarin(request: Request, sets: Any, folders: dict[str, str]) -> Iterator[Entry]:
    for split, folder in folders.items():
        recordings = (path.stem for path in sorted((request.root / folder).rglob("*.wav")))
        both = sets[split]
        found = entries(split, both["recordings"], both["supervisions"], request.lang, transcripts.mandarin)
        yield from with_missing(found, split, recordings, "no transcript")


def download_librispeech(folder: Path, splits: Sequence[str], mirror: str | None) -> None:
    """Download the archives of the splits from OpenSLR and unpack them in `folder`."""
    parts = list(splits) or list(lhotse_module("recipes.librispeech").LIBRISPEECH)
    _download("librispeech", folder, mirror, dataset_parts=parts)


def openslr(recipe: str) -> Download:
    """Return the download function of a corpus that is one archive at OpenSLR."""

    def download(folder: Path, splits: Sequence[str], mirror: str | None) -> None:
        _download(recipe, folder, mirror)

    return download


def _download(recipe: str, folder: Path, mirror: str | None, **options: Any) -> None:
    if mirror is not None:
        options["base_url"] = mirror.rstrip("/")
    fetch: Callable[..., Any] = getattr(lhotse_module(f"recipes.{recipe}"), f"download_{recipe}")
    with quietly(f"downloading into {folder} from {mirror or 'OpenSLR'}"):
        fetch(folder, **options)


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _jobs() -> int:
    """Return the number of concurrent readers; more would only wait for the disk."""
    return min(8, os.cpu_count() or 1)
