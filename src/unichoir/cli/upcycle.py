"""`unichoir upcycle`."""

from pathlib import Path
from typing import Annotated

import typer

from unichoir.cli.common import note


def upcycle(
    dense: Annotated[
        str,
        typer.Argument(
            metavar="DENSE", help="A dense checkpoint: folder, ours or WeNet's, or ORG/NAME.", show_default=False
        ),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Checkpoint folder to write.", show_default=False)],
    experts: Annotated[int, typer.Option(min=2, metavar="N", help="Experts of each layer.")] = 8,
    top_k: Annotated[int, typer.Option(min=1, metavar="N", help="Experts a frame goes to.")] = 2,
    seed: Annotated[int, typer.Option(metavar="N", help="What the routers are drawn from.")] = 0,
    softmax_first: Annotated[
        bool, typer.Option("--softmax-first", help="Gates from a softmax over all experts, before the choice.")
    ] = False,
    shared_router: Annotated[
        bool, typer.Option("--shared-router", help="One router for all layers of the encoder, one for each decoder.")
    ] = False,
    balance_rate: Annotated[
        float, typer.Option(min=0, metavar="X", help="Loss-free balancing, by so much in each update; 0: none.")
    ] = 0.0,
) -> None:
    """Turn a dense checkpoint into a Mixture of Experts that computes the same, ready to train.

    Every expert starts as the dense layer. The checkpoint is what `init` in a training configuration takes, whose
    `model` must be that of OUT/config.yaml in all that shapes weights.

    Example:

        unichoir upcycle exp/dense/average exp/upcycled --experts 8
    """
    from unichoir.api import training_extras

    with training_extras("unichoir upcycle"):
        from unichoir.configuration import to_mapping
        from unichoir.directory.hub import find_directory
        from unichoir.errors import CheckpointError, ConfigError
        from unichoir.export.card import derived_card
        from unichoir.export.checkpoint import load_any_checkpoint
        from unichoir.model.checkpoint import save_checkpoint
        from unichoir.model.upcycle import upcycle as run
        from unichoir.text.tokenizer import load_tokenizer
        from unichoir.training.checkpointing import write_directory
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CheckpointError(f"{output}: exists and is not an empty folder")
    source = find_directory(dense)
    model, fbank = load_any_checkpoint(source)
    tokenizer = load_tokenizer(source)
    try:
        sparse = run(
            model,
            experts,
            top_k,
            seed,
            softmax_first=softmax_first,
            shared_router=shared_router,
            balance_rate=balance_rate,
        )
    except ConfigError as error:
        raise ConfigError(f"{dense}: {error}") from None

    def write(folder: Path) -> None:
        tokenizer.save(folder)
        save_checkpoint(folder, sparse, {"fbank": to_mapping(fbank)})
        how = f"upcycling {dense} to {experts} experts, top {top_k}"
        derived_card(source, output, sparse.config, how).write(folder)

    write_directory(output, write)
    before, after = (sum(each.numel() for each in model.parameters()) / 1e6 for model in (model, sparse))
    note(f"{output}: {experts} experts, top {top_k}: {before:.1f}M parameters became {after:.1f}M")
