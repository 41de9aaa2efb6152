"""`unichoir models`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unichoir.cli._shared.common import note, size_of
from unichoir.errors import UnichoirError

if TYPE_CHECKING:
    from unichoir.network.config import FeedForwardConfig, ModelConfig
    from unichoir.network.sizes import Sizes


def models(
    vocab_size: Annotated[
        int,
        typer.Option(min=4, metavar="N", help="Vocabulary of configurations that leave it to the tokenizer."),
    ] = 500,
) -> None:
    """List the included models, those to pull by name, fetched models, and the named configurations with their sizes.

    Licences are those of the training data. Error rates are WeNet's, not measured here: for whole recordings / chunks.
    Downloads have about the size given; the server's is said when a model is pulled.

    Blocks are those of the encoder and of the two decoders. Active parameters compute one frame or token: of the
    experts, only the chosen ones.
    """
    from unichoir.api import included_models
    from unichoir.bundle.hub import cached_models
    from unichoir.bundle.published import PUBLISHED
    from unichoir.bundle.pulled import pulled_models
    from unichoir.network.config import NAMED_CONFIGS

    console = Console()
    console.print(_included(included_models()))
    pulled = pulled_models()
    console.print(_published(pulled))
    if others := {name: folder for name, folder in pulled.items() if name not in PUBLISHED}:
        console.print(_pulled(others))
    if cached := cached_models():
        console.print(_fetched(cached))
    table = _table("Named configurations", "name", "blocks", "width", "experts", "tokens", "parameters", "active")
    missing: UnichoirError | None = None
    for name, config in NAMED_CONFIGS.items():
        config = config if config.vocab_size else config.with_vocab_size(vocab_size)
        try:
            sizes = count_parameters(config)
            counted = (f"{sizes.total / 1e6:.1f}M", f"{sizes.active / 1e6:.1f}M")
        except UnichoirError as error:
            missing, counted = error, ("", "")
        encoder, decoder = config.encoder, config.decoder
        table.add_row(
            name,
            f"{encoder.num_blocks} + {decoder.num_blocks} + {decoder.num_reverse_blocks}",
            str(encoder.dim),
            _experts(encoder.feed_forward),
            str(config.vocab_size),
            *counted,
        )
    console.print(table)
    if missing is not None:
        note(str(missing))


def _included(names: list[str]) -> Table:
    from unichoir.api import DEFAULT_MODEL, MODELS
    from unichoir.configuration import from_mapping
    from unichoir.engine.onnx_backend import CONFIG_FILE, ModelDirectoryConfig

    table = _table("Included models", "name", "parameters", "size", "tokens")
    for name in names:
        path = MODELS / name / CONFIG_FILE
        config = from_mapping(ModelDirectoryConfig, json.loads(path.read_text(encoding="utf-8")), str(path))
        shown = f"{name} (default)" if name == DEFAULT_MODEL else name
        table.add_row(shown, f"{config.parameters / 1e6:.1f}M", size_of(MODELS / name), str(config.model.vocab_size))
    return table


def _published(pulled: Mapping[str, Path]) -> Table:
    from unichoir.bundle.published import PUBLISHED

    table = _table("To pull by name, as in `unichoir pull wenet/librispeech`", "name", "download", "in the cache")
    table.add_column("language, data, licence of the data, published error rates", overflow="fold")
    conditions: dict[str, list[str]] = {}
    for name, model in PUBLISHED.items():
        cached = size_of(pulled[name]) if name in pulled else "-"
        about = f"{model.language}, {model.data}\n{model.licence}\n{model.scores}"
        table.add_row(name, f"{model.megabytes} MB", cached, Text(about))
        conditions.setdefault(model.conditions, []).append(name)
    usual, *others = sorted(conditions, key=lambda each: -len(conditions[each]))
    said = [usual, *(f"{' and '.join(conditions[each])}: {each}" for each in others)]
    table.caption, table.caption_justify = Text("Error rates: " + "\n".join(said)), "left"
    return table


def _pulled(directories: Mapping[str, Path]) -> Table:
    from unichoir.bundle.pulled import Record

    table = _table("Pulled models", "name", "size")
    table.add_column("from", overflow="fold")
    for name, directory in directories.items():
        table.add_row(name, size_of(directory), Text(Record.read(directory).source))
    return table


def _fetched(directories: Mapping[str, Path]) -> Table:
    table = _table("From the Hugging Face hub, in its cache", "name", "size")
    for name, directory in directories.items():
        table.add_row(name, size_of(directory))
    return table


def _table(title: str, name: str, *numbers: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column(name, no_wrap=True)
    for column in numbers:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _experts(feed_forward: "FeedForwardConfig") -> str:
    return f"{feed_forward.num_experts}, top {feed_forward.top_k}" if feed_forward.num_experts else "-"


def count_parameters(config: "ModelConfig") -> "Sizes":
    """Count parameters without allocating them. Raises UnichoirError without torch."""
    from unichoir.api import training_extras

    with training_extras("counting parameters"):
        from unichoir.network import sizes
    return sizes.count_parameters(config)
