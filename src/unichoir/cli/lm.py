"""`unichoir lm`: n-gram language models."""

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal, cast

import typer

from unichoir.cli._shared.arguments import DeviceOption, HotwordArguments, ThreadsOption
from unichoir.cli._shared.common import (
    ManifestsArgument,
    make_progress,
    note,
    parse_chunk_sizes,
    progress_bar,
    write_line,
)
from unichoir.cli._shared.grouping import grouped
from unichoir.cli._shared.options import Chosen, Only
from unichoir.errors import CheckpointError, ManifestError, TrainingError
from unichoir.recognition.options import DecodingOptions
from unichoir.search.options import DEFAULT_LM, SEARCH, STREAMING_MODES, StreamingMode

if TYPE_CHECKING:
    from unichoir.evaluation.tuning import Errors
    from unichoir.text.ngram import NgramModel
    from unichoir.text.tokenizer import Tokenizer

app = typer.Typer(help="Train an n-gram language model, and choose its weights.", no_args_is_help=True)
Level = Literal["word", "token"]
MANIFEST_SUFFIXES = (".json", ".jsonl", ".jsonl.gz", ".tar")


@app.command("train")
def train(
    texts: Annotated[
        list[str],
        typer.Argument(
            metavar="TEXT",
            help="Text with one sentence per line (also .gz), or manifests (.jsonl, .tar, a folder).",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Output: packed for .bin (small, needs no extra), else ARPA, compressed for .gz.",
            show_default=False,
        ),
    ],
    order: Annotated[int, typer.Option(min=2, max=6, metavar="N", help="Length of the longest n-grams.")] = 3,
    level: Annotated[
        Level,
        typer.Option(
            metavar="word|token", help="Unit of the n-grams. Tokens need --model, and only that model can use them."
        ),
    ] = "word",
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME|DIR", help="Model whose case, characters and tokens to use.", show_default=False),
    ] = None,
    min_count: Annotated[int, typer.Option(min=1, metavar="N", help="Rarer words become <unk>.")] = 1,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Remove punctuation and use upper case, as for WER.")
    ] = False,
    mix: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WEIGHT:TEXT",
            help="Separate text, such as 0.05:orders.txt. Its model is mixed in with this weight. Repeatable.",
            show_default=False,
        ),
    ] = None,
    prune: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="X",
            help="Drop n-grams whose loss raises the perplexity by less than this share, such as 1e-7.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Train an n-gram model with interpolated modified Kneser-Ney smoothing, as KenLM's lmplz does.

    All n-grams are in memory: for trigrams, up to 200 bytes per word of the text.

    Examples:

        unichoir lm train an4/train.jsonl --output an4.arpa.gz

        unichoir lm train books.txt.gz an4/train.jsonl --normalize --min-count 2 --order 4 --output lm.arpa.gz

        unichoir lm train books.txt --mix 0.05:orders.txt --min-count 2 --prune 1e-7 --output lm.bin
    """
    from unichoir.bundle.replacing import replacing
    from unichoir.text.mixing import mix_ngrams
    from unichoir.text.pruning import prune_ngrams

    if level == "token" and model is None:
        raise typer.BadParameter("tokens need a model", param_hint="--model")
    split = _splitter(level, model, normalize)
    weights, others = _parse_mix(mix or [])
    with replacing(output) as file:  # before the work, to fail early if the folder is missing
        made = _train(texts, split, order, min_count)
        if others:
            parts = [made, *(_train([text], split, order, 1) for text in others)]  # in a small text, rare words matter
            made = mix_ngrams(parts, [1 - sum(weights), *weights])
        if prune is not None:
            made = prune_ngrams(made, prune)
        if others or prune is not None:
            note("kept: " + ", ".join(f"{n}-grams: {len(level.word)}" for n, level in enumerate(made.grams, start=1)))
        _write(made, file, output.suffix)
    note(f"{output}: written, {output.stat().st_size / 1e6:.2f} MB")


@app.command("add")
def add(
    directory: Annotated[
        Path,
        typer.Argument(metavar="DIR", exists=True, file_okay=False, help="Model directory.", show_default=False),
    ],
    lm: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Packed language model (`unichoir lm train --output lm.bin`).", show_default=False
        ),
    ],
) -> None:
    """Put a packed language model into a model directory. It is then the default (`--lm none` turns it off).

    Its weights file is copied, too, and SHA256SUMS lists both. Tune the weights afterwards.

    Example:

        unichoir lm add exp/export lm.bin && unichoir lm tune exp/export dev.jsonl --chunk-size full,16
    """
    from unichoir.bundle.replacing import replacing
    from unichoir.bundle.sums import check_sums, write_sums
    from unichoir.loading import LM_FILE
    from unichoir.search.language_model import NgramLanguageModel, weights_file
    from unichoir.text.packed_ngram import is_packed

    check_sums(directory)
    if lm.is_file() and not is_packed(lm):
        raise CheckpointError(f"{lm}: not a packed language model: `unichoir lm train --output lm.bin` makes one")
    NgramLanguageModel(lm, _tokenizer(str(directory)))
    own = directory / LM_FILE
    for source, target in ((lm, own), (weights_file(lm), weights_file(own))):
        content = source.read_bytes() if source.exists() else None
        target.unlink(missing_ok=True)
        if content is not None:
            with replacing(target) as file:
                file.write(content)
    write_sums(directory)
    note(f"{own}: written, {own.stat().st_size / 1e6:.2f} MB")


@app.command("tune")
@grouped
def tune(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Included model, model directory or checkpoint.", show_default=False)
    ],
    manifests: ManifestsArgument,
    search: Annotated[Chosen[DecodingOptions], Only(SEARCH)],
    hotwords: HotwordArguments,
    lm: Annotated[
        str,
        typer.Option(
            "--lm",
            metavar="FILE|default",
            help="Language model: packed, ARPA or KenLM binary. default: the model's own.",
        ),
    ] = DEFAULT_LM,
    decoding: Annotated[
        StreamingMode, typer.Option(metavar="MODE", help=f"{' or '.join(STREAMING_MODES)}.")
    ] = "attention_rescoring",
    chunk_size: Annotated[
        str,
        typer.Option(
            metavar="SIZES",
            help="Encoder frames per chunk, separated by commas. full: the whole utterance. Errors of "
            "several sizes are summed.",
        ),
    ] = "full",
    jobs: Annotated[int, typer.Option(min=1, metavar="N", help="Processes. Each loads the model.")] = 1,
    threads: ThreadsOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Tune the weights of a language model for a mode on dev manifests, and write them to FILE.json.

    Tries weights of the log-probability and bonuses for each word (or token): first a coarse grid, then a fine one
    around the best, then penalties for unknown words. The best weights become the default of the mode wherever FILE is
    used. A mode that has not been tuned uses the weights of the other. Never tune on a test set.

    Examples:

        unichoir lm tune my-model an4/dev.jsonl --lm an4.arpa.gz

        unichoir lm tune exp/export an4/dev.jsonl librispeech/dev.jsonl --chunk-size full,16
    """
    from unichoir.api import find_language_model, find_model, load_recognizer
    from unichoir.bundle.sums import write_sums
    from unichoir.cli.evaluate import read_sets
    from unichoir.evaluation.tuning import tune as measure
    from unichoir.evaluation.tuning import write_weights

    sizes = parse_chunk_sizes(chunk_size)
    phrases = hotwords.read()
    options = [search.make(mode=decoding, chunk_size=size, hotwords=phrases) for size in sizes]
    file = find_language_model(lm, find_model(model))
    if file is None:
        raise CheckpointError(f"{model}: no language model to tune: give one with --lm, or `unichoir lm add`")
    load = partial(load_recognizer, model, threads or (1 if jobs > 1 else None), None, device, file)
    with progress_bar("tuning", "utterances") as progress:
        errors = measure(load() if jobs == 1 else load, read_sets(manifests), options, jobs=jobs, progress=progress)
    write_line(_table(errors))
    best, (words, _) = next(iter(errors.items()))
    without = next(words for weights, (words, _) in errors.items() if not weights.lm_weight)
    note(
        f"without it {without.rate:.2%} word errors; lm_weight {best.lm_weight:g}, "
        f"length_bonus {best.length_bonus:g}, oov_penalty {best.oov_penalty:g}: {words.rate:.2%}"
    )
    how = {
        "model": model,
        "manifests": manifests,
        "chunk_sizes": sizes,
        "word_errors": words.errors,
        "word_errors_without": without.errors,
        "words": words.reference,
    }
    written = write_weights(str(file), decoding, best, how)
    if lm == DEFAULT_LM:
        write_sums(file.parent)
    note(f"{written}: written")


def _table(errors: "Errors") -> str:
    """Return word error rates in Markdown: a row per weight, a column per bonus, then a line per penalty."""
    penalised = {weights: counts for weights, counts in errors.items() if weights.oov_penalty}
    errors = {weights: counts for weights, counts in errors.items() if not weights.oov_penalty}
    bonuses = sorted({weights.length_bonus for weights in errors})
    rates = {(weights.lm_weight, weights.length_bonus): words.rate for weights, (words, _) in errors.items()}
    lines = ["| WER %: weight, bonus | " + " | ".join(f"{bonus:g}" for bonus in bonuses) + " |"]
    lines.append("| ---: |" + " ---: |" * len(bonuses))
    for weight in sorted({weights.lm_weight for weights in errors}):
        cells = (f"{100 * rates[weight, bonus]:.2f}" if (weight, bonus) in rates else "" for bonus in bonuses)
        lines.append(f"| {weight:g} | " + " | ".join(cells) + " |")
    for weights in sorted(penalised, key=lambda each: each.oov_penalty):
        what = f"{weights.lm_weight:g}, {weights.length_bonus:g}, oov_penalty {weights.oov_penalty:g}"
        lines.append(f"\n{what}: {100 * penalised[weights][0].rate:.2f}")
    return "\n".join(lines)


def _splitter(level: Level, model: str | None, normalize: bool) -> Callable[[str], Sequence[str]]:
    """Return the function that splits a sentence into words or tokens."""
    from unichoir.text.normalize import normalize_for_scoring, split_words
    from unichoir.text.tokenizer import SPACE

    def clean(text: str) -> str:
        text = text.replace(SPACE, " ")
        return normalize_for_scoring(text) if normalize else text

    if model is None:
        return lambda text: split_words(clean(text))
    tokenizer = _tokenizer(model)

    def tokens(text: str) -> list[str]:
        return [tokenizer.tokens[index] for index in tokenizer.encode(clean(text))]

    def words(text: str) -> list[str]:
        # A word with a character that the model cannot write is unknown to it.
        found = split_words(tokenizer.decode(tokenizer.encode(clean(text))))
        return ["<unk>" if "<unk>" in word else word for word in found]

    return tokens if level == "token" else words


def _tokenizer(model: str) -> "Tokenizer":
    from unichoir.api import find_model
    from unichoir.text.tokenizer import load_tokenizer

    return load_tokenizer(find_model(model))


def _sentences(paths: Sequence[str]) -> Iterator[str]:
    from unichoir.data.manifest import read_manifest

    for path in paths:
        if path.endswith(MANIFEST_SUFFIXES) or Path(path).is_dir():
            yield from (utterance.txt for utterance in read_manifest(path))
        else:
            yield from _lines(path)


def _lines(path: str) -> Iterator[str]:
    """Yield the lines of a text file, decompressed if needed. Raises ManifestError, and OSError if it is missing."""
    from unichoir.data.storage import open_binary

    number = 0
    with open_binary(path) as file:
        lines: Iterable[bytes] = gzip.GzipFile(fileobj=file) if path.endswith(".gz") else file
        try:
            for number, line in enumerate(lines, start=1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise ManifestError(f"{path}:{number}: not UTF-8") from None
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ManifestError(f"{path}: truncated or damaged ({error})") from None


def _parse_mix(mix: Sequence[str]) -> tuple[list[float], list[str]]:
    """Return weights and texts. Weights that leave nothing to the main text are an error of usage."""
    weights, texts = [], []
    for each in mix:
        number, found, text = each.partition(":")
        try:
            weights.append(float(number))
        except ValueError:
            found = ""
        if not found or not text or not weights[-1] > 0:
            raise typer.BadParameter(f"expected WEIGHT:TEXT, as 0.05:orders.txt, found '{each}'", param_hint="--mix")
        texts.append(text)
    if not sum(weights) < 1:
        raise typer.BadParameter(f"weights of {sum(weights):g} leave nothing to the other texts", param_hint="--mix")
    return weights, texts


def _train(texts: Sequence[str], split: Callable[[str], Sequence[str]], order: int, min_count: int) -> "NgramModel":
    """Train a model of texts and report its size. Raises TrainingError naming the texts."""
    from unichoir.text.ngram import train_ngram

    with make_progress("sentences") as progress:
        try:
            read = progress.track(_sentences(texts), description="reading")
            made = train_ngram(map(split, read), order, min_count)
        except TrainingError as error:
            raise TrainingError(f"{', '.join(texts)}: {error}") from None
    for n, (grams, discounts, estimated) in enumerate(
        zip(made.grams, made.discounts, made.estimated, strict=True), start=1
    ):
        values = ", ".join(f"{discount:.3f}" for discount in discounts)
        why = "" if estimated else " (fallback: too few n-grams to estimate them)"
        note(f"{n}-grams: {len(grams.word)}, discounts {values}{why}")
    return made


def _write(model: "NgramModel", file: BinaryIO, suffix: str) -> None:
    from unichoir.text.ngram import write_arpa
    from unichoir.text.packed_ngram import write_packed

    if suffix == ".bin":
        write_packed(model, file)
        return
    with ExitStack() as stack:
        if suffix == ".gz":  # no name and time: the same text gives the same bytes
            file = cast(BinaryIO, stack.enter_context(gzip.GzipFile("", "wb", 6, file, mtime=0)))
        progress = stack.enter_context(progress_bar("writing", "n-grams"))
        for done, total in write_arpa(model, file):
            progress(done, total)
