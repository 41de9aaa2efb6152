"""`unichoir upcycle`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unichoir.cli._shared.common import make_progress, note, refuse

if TYPE_CHECKING:
    from unichoir.audio.fbank import FbankConfig
    from unichoir.network.asr_model import AsrModel
    from unichoir.network.split import SplitOptions
    from unichoir.text.tokenizer import Tokenizer

_UTTERANCES = 300
_SHARED_SHARE = 0.5


def upcycle(
    dense: Annotated[
        str,
        typer.Argument(
            metavar="DENSE",
            help="A dense checkpoint: folder, ours or WeNet's, published model, or ORG/NAME.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Checkpoint folder to write.", show_default=False)],
    experts: Annotated[int, typer.Option(min=2, metavar="N", help="Experts of each layer.")] = 8,
    top_k: Annotated[int, typer.Option(min=1, metavar="N", help="Experts a frame goes to.")] = 2,
    seed: Annotated[
        int, typer.Option(metavar="N", help="What is drawn from it: routers, or with --split the utterances.")
    ] = 0,
    softmax_first: Annotated[
        bool, typer.Option("--softmax-first", help="Gates from a softmax over all experts, before the choice.")
    ] = False,
    shared_router: Annotated[
        bool, typer.Option("--shared-router", help="One router for all layers of the encoder, one for each decoder.")
    ] = False,
    balance_rate: Annotated[
        float, typer.Option(min=0, metavar="X", help="Loss-free balancing, by so much in each update; 0: none.")
    ] = 0.0,
    split: Annotated[
        bool, typer.Option("--split", help="Divide each layer's units among the experts instead of copying the layer.")
    ] = False,
    manifest: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="MANIFEST",
            help="With --split: transcribed speech that shows what each unit does; a part of the training speech. "
            "Path or URL.",
            show_default=False,
        ),
    ] = None,
    shared_share: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=0.99,
            metavar="X",
            help=f"With --split: share of a layer's units that all frames use. 0: none.  [default: {_SHARED_SHARE}]",
            show_default=False,
        ),
    ] = None,
    utterances: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help=f"With --split: number of utterances of MANIFEST, drawn by --seed.  [default: {_UTTERANCES}]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Turn a dense checkpoint into a Mixture of Experts, ready to train.

    There are two ways. Copying (the default) makes every expert a copy of the dense layer. The new model computes the
    same at first, has many more parameters, and TOP_K times the work in these layers. Splitting (--split) divides the
    units of the dense layer. The number of parameters stays the same, and each frame needs less work. The units that
    matter most for the speech of MANIFEST become an expert for all frames. Units that are active together become one of
    the other experts. At first, the model lacks the output of experts that are not chosen. Training makes up for it.
    Copy for a better model, split for a faster one.

    Use the checkpoint as `init` in a training configuration, with the `model` of OUT/config.yaml.

    Examples:

        unichoir upcycle exp/dense/average exp/upcycled --experts 8

        unichoir upcycle exp/dense/average exp/split --split --on train.jsonl --experts 8 --top-k 2
    """
    from unichoir.api import find_checkpoint, training_extras

    with training_extras("unichoir upcycle"):
        from unichoir.configuration import to_mapping
        from unichoir.errors import CheckpointError, ConfigError
        from unichoir.export.card import derived_card
        from unichoir.export.checkpoint import check_parts_fit, load_any_checkpoint, new_directory
        from unichoir.network.checkpoint import save_checkpoint
        from unichoir.network.split import SplitOptions
        from unichoir.network.upcycle import upcycle as run
        from unichoir.text.tokenizer import load_tokenizer
    if split:
        copied = "is for copying and cannot be used with --split"
        refuse({"--softmax-first": softmax_first, "--shared-router": shared_router}, copied)
        if manifest is None:
            raise typer.BadParameter("needs --on MANIFEST, the speech to split by", param_hint="--split")
    else:
        refuse({"--on": manifest, "--shared-share": shared_share, "--utterances": utterances}, "needs --split")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CheckpointError(f"{output}: exists and is not an empty folder")
    source = find_checkpoint(dense)
    model, fbank = load_any_checkpoint(source)
    tokenizer = load_tokenizer(source)
    how = f"upcycling {dense} to {experts} experts, top {top_k}"
    try:
        if manifest is not None:
            share = _SHARED_SHARE if shared_share is None else shared_share
            options = SplitOptions(num_experts=experts, top_k=top_k, shared_share=share, balance_rate=balance_rate)
            check_parts_fit(model, tokenizer, fbank, source)
            sparse, heard = _split(model, fbank, tokenizer, manifest, options, utterances or _UTTERANCES, seed)
            how = f"splitting {dense} into {experts} experts, top {top_k}, {share:.0%} shared, by {heard}"
        else:
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

    with new_directory(output) as folder:
        tokenizer.save(folder)
        save_checkpoint(folder, sparse, {"fbank": to_mapping(fbank)})
        derived_card(source, output, sparse.config, how).write(folder)
    before, after = (sum(each.numel() for each in model.parameters()) / 1e6 for model in (model, sparse))
    note(f"{output}: {experts} experts, top {top_k}: {before:.1f}M parameters became {after:.1f}M")


def _split(
    model: "AsrModel",
    fbank: "FbankConfig",
    tokenizer: "Tokenizer",
    manifest: str,
    options: "SplitOptions",
    num_utterances: int,
    seed: int,
) -> "tuple[AsrModel, str]":
    """Return the new model, and a description of the utterances that it was split by."""
    from unichoir.training.splitting import split_on_speech

    with make_progress("utterances") as progress:
        speech = progress.add_task("hearing speech", total=None)
        layers = progress.add_task("splitting", total=None, unit="layers")
        result = split_on_speech(
            model,
            fbank,
            tokenizer,
            manifest,
            options,
            num_utterances=num_utterances,
            seed=seed,
            heard=lambda done, total: progress.update(speech, completed=done, total=total),
            split=lambda done, total: progress.update(layers, completed=done, total=total),
        )
    for key, reason in result.skipped.items():
        note(f"{manifest}: {key} left out: {reason}")
    return result.model, f"{result.num_utterances} utterances of {manifest}"
