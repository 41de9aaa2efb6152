"""`unichoir tokenizer`: vocabularies from manifests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from unichoir.cli._shared.common import ManifestsArgument, note

app = typer.Typer(help="Make a vocabulary from the transcripts of manifests.", no_args_is_help=True)
Output = Annotated[Path, typer.Option(metavar="DIR", help="Folder for units.txt (and bpe.model).", show_default=False)]
MinCount = Annotated[
    int, typer.Option(min=1, metavar="N", help="Rarer characters become <unk> or, with --byte-fallback, bytes.")
]
Languages = Annotated[
    str,
    typer.Option(
        metavar="CODES",
        help="Languages with a token each, such as en,ar,zh. Training then needs `lang` in manifests.",
        show_default=False,
    ),
]
ByteFallback = Annotated[
    bool, typer.Option("--byte-fallback", help="Add 256 tokens for bytes. All text can then be written, without <unk>.")
]


@app.command("train-bpe")
def train_bpe(
    manifests: ManifestsArgument,
    output: Output,
    vocab_size: Annotated[int, typer.Option(min=4, metavar="N", help="Number of tokens, special ones included.")] = 500,
    model_type: Annotated[Literal["bpe", "unigram"], typer.Option(help="Sentencepiece's algorithm.")] = "bpe",
    min_count: MinCount = 1,
    languages: Languages = "",
    byte_fallback: ByteFallback = False,
) -> None:
    """Train word pieces (sentencepiece). Chinese and Japanese characters stay single.

    Example:

        unichoir tokenizer train-bpe train.jsonl --vocab-size 500 --output tokenizer

        unichoir tokenizer train-bpe train.jsonl --vocab-size 5000 --languages en,zh --byte-fallback --output tokenizer
    """
    from unichoir.text import tokenizer

    made = tokenizer.train_bpe(
        _transcripts(manifests),
        vocab_size,
        output,
        model_type=model_type,
        min_count=min_count,
        languages=_codes(languages),
        byte_fallback=byte_fallback,
    )
    note(f"{output}: {made.vocab_size} tokens")


@app.command("chars")
def chars(
    manifests: ManifestsArgument,
    output: Output,
    min_count: MinCount = 1,
    languages: Languages = "",
    byte_fallback: ByteFallback = False,
) -> None:
    """Make a token of each character.

    Example:

        unichoir tokenizer chars train.jsonl --output tokenizer
    """
    from unichoir.text.tokenizer import CharTokenizer, build_char_units

    units = build_char_units(
        _transcripts(manifests), min_count=min_count, languages=_codes(languages), byte_fallback=byte_fallback
    )
    made = CharTokenizer(units)
    made.save(output)
    note(f"{output}: {made.vocab_size} tokens")


def _codes(languages: str) -> list[str]:
    return [code.strip() for code in languages.split(",")] if languages else []


def _transcripts(manifests: Sequence[str]) -> list[str]:
    from unichoir.data.manifest import read_manifest

    return [utterance.txt for manifest in manifests for utterance in read_manifest(manifest)]
