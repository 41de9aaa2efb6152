"""`unichoir card`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unichoir.cli._shared.common import note
from unichoir.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from unichoir.bundle.card import Card


def card(
    model: Annotated[
        Path, typer.Argument(metavar="DIR", help="Model directory or checkpoint.", exists=True, file_okay=False)
    ],
    licence: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Licence of the weights: an SPDX name such as Apache-2.0, or another name.",
            show_default=False,
        ),
    ] = None,
    language: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CODE", help="Language that the model recognises (en, zh, ...). Repeatable.", show_default=False
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Training data, and its terms.", show_default=False),
    ] = None,
    results: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="results.json of `unichoir evaluate --output`. Replaces earlier results. Repeatable.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write or fill in the model card, README.md: data, licence and measured error rates.

    Missing fields read "Not stated." Other sections stay as they are. The front matter follows the Hugging Face hub.
    Training, export and upcycling write cards with what they know. Needs `pip install 'unichoir[hub]'`.

    Example:

        unichoir card my-model --licence Apache-2.0 --language en --data "AN4 (CMU, free for any use)"

        unichoir card my-model --results results/results.json
    """
    from unichoir.bundle.card import DATA, MODEL, NOT_STATED, Card
    from unichoir.bundle.sums import CARD_FILE

    content = Card.read(model, model.resolve().name)
    if content.sections[MODEL] == NOT_STATED:
        content.state_model(model_facts(model))
    if licence is not None:
        content.state_licence(licence)
    if language:
        content.state_languages(language)
    if data is not None:
        content.sections[DATA] = data
    if results:
        content.state_results([_read_json(path) for path in results], [str(path) for path in results])
    content.write(model)
    note(f"{model / CARD_FILE}: {_summary(content)}")


def model_facts(directory: Path) -> dict[str, str]:
    """Return facts from the configuration of a model directory or checkpoint. Raises CheckpointError or ConfigError."""
    from unichoir.api import training_extras
    from unichoir.engine.onnx_backend import CONFIG_FILE, read_config

    if (directory / CONFIG_FILE).exists():
        config = read_config(directory)
        return {
            "parameters": f"{config.parameters / 1e6:.1f}M",
            "weights": config.weights,
            "encoder": f"{config.num_blocks} blocks, {config.model.encoder_dim} wide",
            "experts of a frame": str(config.model.top_k or "none"),
            "tokens": str(config.model.vocab_size),
            "streaming": "yes" if config.streaming else "no",
        }
    with training_extras(f"{directory}: not an ONNX model, and reading a checkpoint's configuration"):
        from unichoir.configuration import from_mapping
        from unichoir.network import facts
        from unichoir.network.checkpoint import read_yaml
        from unichoir.network.config import ModelConfig
    path = directory / "config.yaml"
    if not path.exists():
        raise CheckpointError(f"{directory}: neither a model ({CONFIG_FILE}) nor a checkpoint ({path.name})")
    return facts.model_facts(from_mapping(ModelConfig, read_yaml(path).get("model"), f"{path}: model"))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON ({error})") from None


def _summary(content: "Card") -> str:
    from unichoir.bundle.card import NOT_STATED, TITLES

    missing: Sequence[str] = [title.lower() for title in TITLES if content.sections[title] == NOT_STATED]
    return f"not stated: {', '.join(missing)}" if missing else "complete"
