"""`unichoir export` and `unichoir models`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from unichoir.cli.common import note
from unichoir.errors import UnichoirError

if TYPE_CHECKING:
    from unichoir.network.config import FeedForwardConfig, ModelConfig
    from unichoir.network.sizes import Sizes


def export(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT", help="A checkpoint: folder, ours or WeNet's, or ORG/NAME.", show_default=False
        ),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Model directory to write.", show_default=False)],
    quantize: Annotated[
        Literal["float16", "int8"] | None,
        typer.Option(
            show_default=False,
            help="int8: a quarter of the size and products in whole numbers, the fastest on CPUs; float16: half of the "
            "size, computed in float32. Else float32.",
        ),
    ] = None,
    target: Annotated[
        Literal["unichoir", "sherpa-onnx"],
        typer.Option(
            help="Who is to load it: unichoir, or sherpa-onnx with from_wenet_ctc (model-streaming.onnx, model.onnx, "
            "tokens.txt; chunk sizes are its arguments)."
        ),
    ] = "unichoir",
    ctc_weight: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="X",
            show_default=False,
            help="The weight of CTC in rescoring, for all who use the model and choose none. Else 0.5.",
        ),
    ] = None,
    attention_beam: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            show_default=False,
            help="The width of the decoder's own search in rescoring, for all who use the model and choose none. "
            "Else 0.",
        ),
    ] = None,
    reencode: Annotated[
        bool,
        typer.Option(
            "--reencode",
            help="Final results of streams come from the whole utterance, heard once more, for all who use the model "
            "and do not choose.",
        ),
    ] = False,
) -> None:
    """Turn a checkpoint of training into an ONNX model directory, which needs no PyTorch, and check that they agree.

    Example:

        unichoir export exp/average my-model --quantize int8

        unichoir export exp/average for-sherpa --target sherpa-onnx
    """
    from unichoir.api import training_extras

    if target == "sherpa-onnx":
        if quantize == "float16":
            raise typer.BadParameter(
                "float16 is not for sherpa-onnx: use int8, or leave it out", param_hint="--quantize"
            )
        own = {"--ctc-weight": ctc_weight, "--attention-beam": attention_beam, "--reencode": reencode or None}
        for flag, value in own.items():
            if value is not None:
                raise typer.BadParameter("sherpa-onnx does not rescore: leave it out", param_hint=flag)
        export_for_sherpa(checkpoint, output, quantize)
        return
    with training_extras("unichoir export"):
        from unichoir.bundle.hub import find_directory
        from unichoir.export.onnx import export_onnx
    differences = export_onnx(
        find_directory(checkpoint),
        output,
        quantize=quantize,
        ctc_weight=ctc_weight,
        attention_beam=attention_beam,
        reencode=reencode,
    )
    for part, difference in differences.items():
        note(f"{part}: ONNX differs from torch by at most {difference:.1e}")
    note(f"{output}: {sum(path.stat().st_size for path in output.iterdir()) / 1e6:.1f} MB")


def export_for_sherpa(checkpoint: str, output: Path, quantize: Literal["int8"] | None) -> None:
    """Write the files and say what to know about them."""
    from unichoir.api import training_extras

    with training_extras("unichoir export"):
        from unichoir.bundle.hub import find_directory
        from unichoir.export.sherpa import export_sherpa
    done = export_sherpa(find_directory(checkpoint), output, quantize=quantize)
    for name, difference in done.differences.items():
        note(f"{name}: ONNX differs from torch by at most {difference:.1e}")
    for line in done.notes:
        note(f"note: {line}")
    note(f"{output}: {sum(path.stat().st_size for path in output.iterdir()) / 1e6:.1f} MB")


def models(
    vocab_size: Annotated[
        int,
        typer.Option(min=4, metavar="N", help="Counted for configurations that leave the vocabulary to the tokenizer."),
    ] = 500,
) -> None:
    """List the included models, those fetched from the Hugging Face hub, and the named configurations with their sizes.

    Blocks are those of the encoder and of the two decoders. Active parameters are those that compute one frame or
    token: of the experts only the chosen ones.
    """
    from unichoir.api import included_models
    from unichoir.bundle.hub import cached_models
    from unichoir.network.config import NAMED_CONFIGS

    console = Console()
    console.print(_included(included_models()))
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
        size = sum(path.stat().st_size for path in (MODELS / name).iterdir())
        shown = f"{name} (default)" if name == DEFAULT_MODEL else name
        table.add_row(shown, f"{config.parameters / 1e6:.1f}M", f"{size / 1e6:.1f} MB", str(config.model.vocab_size))
    return table


def _fetched(directories: Mapping[str, Path]) -> Table:
    table = _table("From the Hugging Face hub, in its cache", "name", "size")
    for name, directory in directories.items():
        table.add_row(name, f"{sum(path.stat().st_size for path in directory.iterdir()) / 1e6:.1f} MB")
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
    """Count without allocating. Raises UnichoirError where torch is missing."""
    from unichoir.api import training_extras

    with training_extras("counting parameters"):
        from unichoir.network import sizes
    return sizes.count_parameters(config)
