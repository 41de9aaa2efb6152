"""Export for sherpa-onnx's `from_wenet_ctc`: a streaming graph, an offline graph and tokens.txt.

Both graphs come from the same model definition and include CTC. sherpa-onnx passes inputs by position and reads sizes
from the metadata; it ends the process if one is missing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim

from unichoir.audio.fbank import FbankConfig
from unichoir.bundle.replacing import replace_text
from unichoir.errors import CheckpointError
from unichoir.export import graph
from unichoir.export.checkpoint import check_parts_fit, load_any_checkpoint, new_directory
from unichoir.export.quantize import LARGEST_ANYWHERE, quantize_model
from unichoir.export.sherpa_parity import check_offline, check_streaming, kernel_size
from unichoir.export.tracing import frames_dim, to_onnx
from unichoir.network.asr_model import AsrModel
from unichoir.network.config import convolved_size
from unichoir.network.encoder import EncoderState
from unichoir.network.subsampling import subsampled_length
from unichoir.text.tokenizer import load_tokenizer

STREAMING_FILE = "model-streaming.onnx"
OFFLINE_FILE = "model.onnx"
TOKENS_FILE = "tokens.txt"
SHERPA_FBANK = FbankConfig(high_freq=-400.0, snip_edges=False)
"""sherpa-onnx's features. Sample rate and mel bins are arguments of `from_wenet_ctc`, the rest is fixed."""


@dataclass(frozen=True)
class SherpaExport:
    """The exported files, and notes about them."""

    differences: dict[str, float]
    """The largest difference between ONNX and torch by file: of log-probabilities, for int8 of probabilities."""
    notes: list[str]


def export_sherpa(source: Path, output: Path, *, quantize: Literal["int8"] | None = None) -> SherpaExport:
    """Write the files that sherpa-onnx loads from a checkpoint, ours or WeNet's (`train.yaml`).

    Chunk size and left chunks are not fixed in the graph: they are arguments of sherpa-onnx. quantize: int8 as in
    `export_onnx`. A model with a non-causal convolution gets no streaming file. Raises CheckpointError or ConfigError
    if the checkpoint can't be read or has features that sherpa-onnx doesn't compute, CheckpointError if graph and model
    differ by more than `parity.TOLERANCE` or `output` holds something; nothing is then written.
    """
    model, fbank = load_any_checkpoint(source)
    tokenizer = load_tokenizer(source)
    check_parts_fit(model, tokenizer, fbank, source)
    for name, value in (("front", "conv2d"), ("num_top_blocks", 0)):
        found = getattr(model.config.encoder, name)
        if found != value:
            only = f"sherpa-onnx streams WeNet's encoders only ({name}: {value})"
            raise CheckpointError(f"{source}: model.encoder.{name} is {found}: {only}")
    notes = frontend_notes(fbank)
    for name in ("kind", "lead_frames", "trail_frames", "frame_length_ms", "frame_shift_ms", "low_freq"):
        if getattr(fbank, name) != getattr(SHERPA_FBANK, name):
            only = f"sherpa-onnx computes features with {getattr(SHERPA_FBANK, name)} only"
            raise CheckpointError(f"{source}: fbank.{name} is {getattr(fbank, name)}: {only}")
    fused = quantize == "int8"
    if fused:
        quantize_model(model, LARGEST_ANYWHERE)
    differences = {}
    with new_directory(output) as folder:
        graph.save(offline_graph(model, fused), folder / OFFLINE_FILE)
        differences[OFFLINE_FILE] = check_offline(model, folder / OFFLINE_FILE, fused)
        if model.config.encoder.conv_causal:
            graph.save(streaming_graph(model, fused), folder / STREAMING_FILE)
            differences[STREAMING_FILE] = check_streaming(model, folder / STREAMING_FILE, fused)
        else:
            notes.append("no streaming file: the model's convolution is not causal")
        lines = "".join(f"{token} {index}\n" for index, token in enumerate(tokenizer.tokens))
        replace_text(folder / TOKENS_FILE, lines)
    return SherpaExport(differences, notes)


def frontend_notes(fbank: FbankConfig) -> list[str]:
    """Return notes about differences between the model's filterbank and sherpa-onnx's, and about required arguments."""
    notes = []
    for name in ("high_freq", "snip_edges"):
        own, theirs = getattr(fbank, name), getattr(SHERPA_FBANK, name)
        if own != theirs:
            notes.append(
                f"this model was trained with fbank.{name} {own}, sherpa-onnx computes {theirs}: expect different "
                f"errors. Models trained with {theirs} have the same errors in both (docs/deploy/sherpa-onnx.md)"
            )
    for name, argument in (("num_mel_bins", "feature_dim"), ("sample_rate", "sample_rate")):
        if getattr(fbank, name) != getattr(SHERPA_FBANK, name):
            notes.append(f"pass from_wenet_ctc {argument}={getattr(fbank, name)}")
    return notes


class _Streaming(nn.Module):
    """One chunk: translates WeNet's arguments to our state and back."""

    def __init__(self, model: AsrModel) -> None:
        super().__init__()
        self.encoder, self.ctc = model.encoder, model.ctc
        self.has_convolutions = model.config.encoder.block == "conformer"

    def forward(
        self,
        x: Tensor,
        offset: Tensor,
        required_cache_size: Tensor,
        attn_cache: Tensor,
        conv_cache: Tensor,
        attn_mask: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encode the next chunk of a stream.

        x: (1, T, M); offset: (1,) frames seen plus W; attn_cache: (L, H, W, 2 head_dim); conv_cache: (L, 1, D, K - 1);
        attn_mask: (1, 1, W + T') bool, True for the filled places and all new ones. K is 1 for Transformer blocks.

        required_cache_size (1,) repeats W.
        """
        places, new = attn_cache.shape[2], subsampled_length(torch.full((1,), x.shape[1]), self.encoder.config)
        num_new = convolved_size(x.shape[1], self.encoder.config.convolutions)
        state = EncoderState(
            att_cache=attn_cache.unsqueeze(1).unbind(0),
            cnn_cache=conv_cache.transpose(2, 3).unbind(0) if self.has_convolutions else (),
            att_cache_lens=attn_mask[0].sum(dim=1) - new,
            # Positions count from the first frame, as everywhere else, not from W.
            offset=offset - places,
        )
        frames = torch.full((1,), x.shape[1])
        kept = torch.arange(num_new, num_new + places)
        encoder_out, _, following = self.encoder(x, frames, state, kept=kept)
        # A graph's output can't be its input.
        conv = torch.stack(following.cnn_cache).transpose(2, 3) if self.has_convolutions else conv_cache.clone()
        return self.ctc.log_probs(encoder_out), torch.cat(following.att_cache), conv


class _Offline(nn.Module):
    """Complete utterances."""

    def __init__(self, model: AsrModel) -> None:
        super().__init__()
        self.encoder, self.ctc = model.encoder, model.ctc

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        """x: (N, T, M); x_lens: (N,). Returns log-probabilities (N, T', V) and their lengths (N,)."""
        encoder_out, lens, _ = self.encoder(x, x_lens)
        return self.ctc.log_probs(encoder_out), lens


def streaming_graph(model: AsrModel, fused: bool = False) -> ir.Model:
    """Return the graph for one chunk of one stream, of any size and with any number of left frames.

    fused: whether to use operators of ONNX Runtime, for a model in int8.
    """
    config = model.config.encoder
    frames, places = config.subsampling_rate * 5 + config.right_context + 1, 9
    shape = (config.num_blocks, config.num_heads, places, 2 * config.dim // config.num_heads)
    inputs = [
        torch.zeros(1, frames, config.input_dim),
        torch.tensor([places]),
        torch.tensor([places]),
        torch.zeros(shape),
        torch.zeros(config.num_blocks, 1, config.dim, kernel_size(config) - 1),
        torch.ones(1, 1, places + int(subsampled_length(torch.tensor(frames), config)), dtype=torch.bool),
    ]
    shapes: list[dict[int, Any]] = [{1: frames_dim(config)}, {}, {}, {2: Dim("places")}, {}, {2: Dim("in_view")}]
    names = ("x", "offset", "required_cache_size", "attn_cache", "conv_cache", "attn_mask")
    outputs = ("log_probs", "next_att_cache", "next_conv_cache")
    made = to_onnx(_Streaming(model), inputs, shapes, names, outputs, num_fixed=6, fused=fused)
    made.metadata_props.update(_metadata(model, "streaming"))
    return made


def offline_graph(model: AsrModel, fused: bool = False) -> ir.Model:
    """Return the graph for complete utterances; fused as in `streaming_graph`."""
    frames, batch = 67, Dim("batch")
    inputs = [torch.zeros(2, frames, model.config.encoder.input_dim), torch.tensor([frames, frames - 9])]
    shapes: list[dict[int, Any]] = [{0: batch, 1: frames_dim(model.config.encoder)}, {0: batch}]
    outputs = ("log_probs", "log_probs_lens")
    made = to_onnx(_Offline(model), inputs, shapes, ("x", "x_lens"), outputs, num_fixed=2, fused=fused)
    made.metadata_props.update(_metadata(model, "non-streaming"))
    return made


def _metadata(model: AsrModel, comment: str) -> dict[str, str]:
    config = model.config.encoder
    values = {
        "model_type": "wenet_ctc",
        "version": 1,
        "comment": comment,
        "head": config.num_heads,
        "num_blocks": config.num_blocks,
        "output_size": config.dim,
        "cnn_module_kernel": kernel_size(config),
        "right_context": config.right_context,
        "subsampling_factor": config.subsampling_rate,
        "subsampling_rate": config.subsampling_rate,  # WeNet's name for the same
        "vocab_size": model.config.vocab_size,
    }
    return {key: str(value) for key, value in values.items()}
