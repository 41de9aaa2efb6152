"""`unichoir prepare`: public corpora as manifests."""

import contextlib
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from unichoir.cli._shared.common import note, progress_bar

if TYPE_CHECKING:
    from unichoir.corpora.prepare import Split

# As in `unichoir.corpora.catalog`, which takes too long to import for --help.
Name = Literal["librispeech", "aishell", "aishell2", "wenetspeech", "gigaspeech", "commonvoice", "thchs30", "an4"]
_SHOWN = 3
"""Left-out utterances that are named on the screen. The file beside the manifest names all."""


def prepare(
    name: Annotated[
        Name, typer.Argument(metavar="NAME", help=f"One of {', '.join(get_args(Name))}.", show_default=False)
    ],
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Folder of the corpus as published, or its parent.", show_default=False),
    ],
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for the manifests.", show_default="the corpus' own"),
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Download the corpus into DIR first, or its missing parts.")
    ] = False,
    splits: Annotated[
        list[str] | None,
        typer.Option("--split", metavar="SPLIT", help="Only this split. Repeatable.", show_default="all"),
    ] = None,
    language: Annotated[
        str, typer.Option(metavar="CODE", help="Language of Common Voice, as in its folder: en, zh-CN.")
    ] = "",
    mirror: Annotated[
        str | None,
        typer.Option(metavar="URL", help="With --download: a mirror of the corpus' files.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write existing manifests again.")] = False,
) -> None:
    """Turn a public corpus into manifests: SPLIT.jsonl for each split, with transcripts ready for training.

    Complete manifests are kept, so the same command continues an interrupted run. Unusable utterances are counted, and
    named in SPLIT.left_out.txt. LibriSpeech, AISHELL-1, THCHS-30 and AN4 can be downloaded. For the others, the command
    says where to request them.

    Examples:

        unichoir prepare librispeech data --download --split train-clean-100 --split dev-clean --split test-clean

        unichoir prepare commonvoice cv-corpus-22.0-2025-06-20 --language de --output manifests/de
    """
    from unichoir.corpora import prepare as preparation
    from unichoir.corpora.catalog import CORPORA

    corpus = CORPORA[name]
    if bool(language) == bool(corpus.lang):
        wanted = "is for Common Voice" if language else "is needed: Common Voice has many languages"
        raise typer.BadParameter(wanted, param_hint="--language")
    if mirror is not None and not download:
        raise typer.BadParameter("needs --download", param_hint="--mirror")
    unknown = [split for split in splits or () if split not in corpus.splits]
    if unknown:
        raise typer.BadParameter(f"'{unknown[0]}' is not one of {', '.join(corpus.splits)}", param_hint="--split")
    if download:
        preparation.download(name, folder, splits or (), mirror)
    with progress_bar(name, "bytes") if corpus.streamed else contextlib.nullcontext() as progress:
        preparation.prepare(
            name,
            folder,
            output,
            splits=splits or (),
            language=language,
            force=force,
            progress=progress,
            report=_show,
        )


def _show(manifest: Path, account: "Split", kept: bool) -> None:
    state = " (was there)" if kept else f" (of {', '.join(account.parts)})" if account.parts else ""
    note(f"{manifest}: {account.utterances} utterances, {account.seconds / 3600:.2f} h{state}")
    names = manifest.with_suffix(".left_out.txt")
    if account.left_out and not account.parts and not kept:
        with names.open(encoding="utf-8") as lines:
            for line in islice(lines, _SHOWN):
                key, _, reason = line.rstrip("\n").partition("\t")
                note(f"{key} left out: {reason}")
        note(f"{account.left_out} left out in total, named in {names}")
