"""`unichoir import-whisper`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from unichoir.cli._shared.common import note, refuse


def import_whisper(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="WHISPER",
            help="Whisper of any size: Hugging Face folder (config.json, model.safetensors), OpenAI's .pt, or "
            "CTranslate2's model.bin or its folder.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Checkpoint folder to write.", show_default=False)],
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of `unichoir tokenizer`: the new model's vocabulary. Without it, OUT has the encoder only.",
            show_default=False,
        ),
    ] = None,
    top_blocks: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="New Conformer blocks on top of Whisper's encoder. They see its 20 ms frames merged into 40 ms "
            "frames.  [default: 2]",
            show_default=False,
        ),
    ] = None,
    no_merge: Annotated[
        bool, typer.Option("--no-merge", help="Keep Whisper's encoder unchanged: frames of 20 ms, no blocks on top.")
    ] = False,
    decoder: Annotated[
        Literal["whisper", "new"] | None,
        typer.Option(
            help="whisper: start the decoders from Whisper's, with its embeddings of each piece. Its vocabulary must "
            "be beside the weights (tokenizer.json, vocab.json, vocabulary.txt, *.tiktoken). new: start from random "
            "weights.  [default: whisper with --tokenizer]",
            show_default=False,
        ),
    ] = None,
    decoder_blocks: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Blocks of the left-to-right decoder, evenly spaced among Whisper's.  [default: all of Whisper's, or "
            "2 new ones]",
            show_default=False,
        ),
    ] = None,
    reverse_blocks: Annotated[
        int, typer.Option(min=0, metavar="N", help="Blocks of the right-to-left decoder, chosen likewise. 0: none.")
    ] = 2,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of new weights.")] = 0,
) -> None:
    """Turn a Whisper checkpoint into a starting point for training a streaming model.

    Train with `init: OUT` in the configuration, and with the `model` and `fbank` of OUT/config.yaml. Without
    --tokenizer, use `init_encoder: OUT`, which takes the encoder only. The decoders are then new, and their sizes in
    OUT/config.yaml are a suggestion. docs/training/whisper.md shows all steps.

    Code in files is never run. Pickled weights (pytorch_model.bin) are refused.

    Example:

        unichoir import-whisper whisper-base exp/imported --tokenizer exp/bpe
    """
    from unichoir.api import training_extras

    with training_extras("unichoir import-whisper"):
        from unichoir.export.whisper import import_whisper as run
        from unichoir.formats.whisper.to_network import WhisperOptions
    if no_merge:
        refuse({"--top-blocks": top_blocks}, "cannot be used with --no-merge: these blocks see merged frames")
    if tokenizer is None and decoder == "whisper":
        raise typer.BadParameter("needs --tokenizer, whose pieces Whisper's embeddings are for", param_hint="--decoder")
    options = WhisperOptions(
        top_blocks=0 if no_merge else 2 if top_blocks is None else top_blocks,
        whisper_decoder=decoder != "new",
        decoder_blocks=decoder_blocks,
        reverse_blocks=reverse_blocks,
        seed=seed,
    )
    for line in run(source, output, tokenizer, options):
        note(f"note: {line}")
    note(f"{output}: written")
