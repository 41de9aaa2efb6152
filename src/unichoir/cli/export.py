"""`unichoir export`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from unichoir.cli._shared.common import note, size_of


def export(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT",
            help="Checkpoint folder (unichoir's or WeNet's), published model, or ORG/NAME.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Model directory to write.", show_default=False)],
    quantize: Annotated[
        Literal["float16", "int8"] | None,
        typer.Option(
            show_default=False,
            help="int8: a quarter of the size, and the fastest on CPUs. float16: half the size, computed in float32. "
            "Else float32.",
        ),
    ] = None,
    target: Annotated[
        Literal["unichoir", "sherpa-onnx"],
        typer.Option(
            help="What loads the model: unichoir, or sherpa-onnx with from_wenet_ctc (model-streaming.onnx, "
            "model.onnx, tokens.txt; sherpa-onnx sets the chunk size)."
        ),
    ] = "unichoir",
    ctc_weight: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="X",
            show_default=False,
            help="The model's default weight of CTC in rescoring. Else 0.5.",
        ),
    ] = None,
    attention_beam: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            show_default=False,
            help="The model's default beam of the decoder's own search in rescoring. Else 0.",
        ),
    ] = None,
    reencode: Annotated[
        bool,
        typer.Option(
            "--reencode",
            help="By default, streams encode each utterance once more as a whole for its final result.",
        ),
    ] = False,
    trail_frames: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=1000,
            metavar="N",
            show_default=False,
            help="Silent feature frames that follow each recording. Else as in training (`fbank.trail_frames`).",
        ),
    ] = None,
) -> None:
    """Turn a training checkpoint into an ONNX model directory, which needs no PyTorch, and check that they agree.

    Example:

        unichoir export exp/average my-model --quantize int8

        unichoir export exp/average for-sherpa --target sherpa-onnx
    """
    from unichoir.api import find_checkpoint, training_extras

    if target == "sherpa-onnx":
        if quantize == "float16":
            raise typer.BadParameter(
                "float16 is not for sherpa-onnx: use int8, or leave it out", param_hint="--quantize"
            )
        own = {"--ctc-weight": ctc_weight, "--attention-beam": attention_beam, "--reencode": reencode or None}
        for flag, value in own.items():
            if value is not None:
                raise typer.BadParameter("sherpa-onnx does not rescore: leave it out", param_hint=flag)
        if trail_frames is not None:
            raise typer.BadParameter("sherpa-onnx adds no silence: leave it out", param_hint="--trail-frames")
        export_for_sherpa(checkpoint, output, quantize)
        return
    with training_extras("unichoir export"):
        from unichoir.export.onnx import export_onnx
    differences = export_onnx(
        find_checkpoint(checkpoint),
        output,
        quantize=quantize,
        ctc_weight=ctc_weight,
        attention_beam=attention_beam,
        reencode=reencode,
        trail_frames=trail_frames,
    )
    for part, difference in differences.items():
        note(f"{part}: ONNX differs from torch by at most {difference:.1e}")
    note(f"{output}: {size_of(output)}")


def export_for_sherpa(checkpoint: str, output: Path, quantize: Literal["int8"] | None) -> None:
    """Write the files for sherpa-onnx, and print notes about them."""
    from unichoir.api import find_checkpoint, training_extras

    with training_extras("unichoir export"):
        from unichoir.export.sherpa import export_sherpa
    done = export_sherpa(find_checkpoint(checkpoint), output, quantize=quantize)
    for name, difference in done.differences.items():
        note(f"{name}: ONNX differs from torch by at most {difference:.1e}")
    for line in done.notes:
        note(f"note: {line}")
    note(f"{output}: {size_of(output)}")
