"""The common result of all readers of Whisper's checkpoints: weights under OpenAI's names, and the sizes they imply."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from unichoir.errors import CheckpointError

HEAD_DIM = 64
"""Width of an attention head in every Whisper that OpenAI published."""

_KEY_BIAS = re.compile(r"\.(attn|cross_attn)\.key\.bias$")


@dataclass(frozen=True, kw_only=True)
class WhisperDims:
    """The sizes of a Whisper model."""

    num_mel_bins: int
    dim: int
    """Width of encoder and decoder, D."""
    num_encoder_blocks: int
    num_encoder_heads: int
    encoder_hidden_dim: int
    """Hidden width of the encoder's feed-forward networks."""
    num_decoder_blocks: int
    num_decoder_heads: int
    decoder_hidden_dim: int
    vocab_size: int
    num_text_positions: int
    """Number of positions of the decoder (448)."""


@dataclass(frozen=True, kw_only=True)
class WhisperModel:
    """A checkpoint: every weight in float32, under the names of OpenAI's implementation.

    `encoder.positional_embedding`, a fixed table, is not included. A bias of the keys (`attn.key.bias`), which Whisper
    doesn't have, is only present if a file contains one.
    """

    dims: WhisperDims
    weights: dict[str, Tensor]


def build_whisper(weights: Mapping[str, Tensor], heads: tuple[int, int] | None, path: Path) -> WhisperModel:
    """Check that `weights`, under OpenAI's names, are exactly those of one Whisper model, and widen them to float32.

    heads: attention heads of encoder and decoder; None derives them from a head width of 64. Raises CheckpointError,
    naming the weight that is missing, unexpected or of an inconsistent shape, and for positions other than Whisper's.
    """
    left = dict(weights)
    dims = _dims(left, heads, path)
    positions = left.pop("encoder.positional_embedding", None)
    if positions is not None:
        _check_positions(positions, dims, path)
    result = {}
    for name, shape in _shapes(dims).items():
        if name not in left and _KEY_BIAS.search(name):
            continue
        tensor = _take(left, name, path)
        if tuple(tensor.shape) != shape:
            raise CheckpointError(f"{path}: weight '{name}' has shape {tuple(tensor.shape)}, expected {shape}")
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: weight '{name}' holds something other than finite numbers")
        result[name] = tensor.float()
        del left[name]
    if left:
        raise CheckpointError(f"{path}: weight '{min(left)}' is not part of a Whisper model")
    return WhisperModel(dims=dims, weights=result)


def whisper_sinusoids(num_positions: int, dim: int) -> Tensor:
    """Return the encoder's fixed positions (num_positions, dim): sines in the first half of a row, then cosines."""
    half = dim // 2
    rates = torch.exp(-math.log(10000.0) / max(half - 1, 1) * torch.arange(half))
    angles = torch.arange(num_positions).unsqueeze(1) * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _dims(weights: Mapping[str, Tensor], heads: tuple[int, int] | None, path: Path) -> WhisperDims:
    conv = _take(weights, "encoder.conv1.weight", path, rank=3)
    dim, bins = conv.shape[:2]
    encoder_heads, decoder_heads = heads or (dim // HEAD_DIM, dim // HEAD_DIM)
    for each in (encoder_heads, decoder_heads):
        if each < 1 or dim % each:
            raise CheckpointError(f"{path}: {each} attention heads do not divide a width of {dim}")
    vocabulary = _take(weights, "decoder.token_embedding.weight", path, rank=2)
    text_positions = _take(weights, "decoder.positional_embedding", path, rank=2)
    return WhisperDims(
        num_mel_bins=bins,
        dim=dim,
        num_encoder_blocks=_count_blocks(weights, "encoder"),
        num_encoder_heads=encoder_heads,
        encoder_hidden_dim=_take(weights, "encoder.blocks.0.mlp.0.weight", path, rank=2).shape[0],
        num_decoder_blocks=_count_blocks(weights, "decoder"),
        num_decoder_heads=decoder_heads,
        decoder_hidden_dim=_take(weights, "decoder.blocks.0.mlp.0.weight", path, rank=2).shape[0],
        vocab_size=vocabulary.shape[0],
        num_text_positions=text_positions.shape[0],
    )


def _take(weights: Mapping[str, Tensor], name: str, path: Path, rank: int | None = None) -> Tensor:
    if name not in weights:
        raise CheckpointError(f"{path}: weight '{name}' is missing")
    tensor = weights[name]
    if rank is not None and tensor.dim() != rank:
        raise CheckpointError(f"{path}: weight '{name}' has {tensor.dim()} dimensions, expected {rank}")
    return tensor


def _count_blocks(weights: Mapping[str, Tensor], part: str) -> int:
    matches = (re.match(rf"{part}\.blocks\.(\d{{1,4}})\.", name) for name in weights)
    return max((int(match[1]) + 1 for match in matches if match), default=0)


def _shapes(dims: WhisperDims) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight by name, including biases of keys."""
    dim = dims.dim
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.conv1.weight": (dim, dims.num_mel_bins, 3),
        "encoder.conv1.bias": (dim,),
        "encoder.conv2.weight": (dim, dim, 3),
        "encoder.conv2.bias": (dim,),
        "decoder.token_embedding.weight": (dims.vocab_size, dim),
        "decoder.positional_embedding": (dims.num_text_positions, dim),
    }
    parts = (
        ("encoder", "ln_post", dims.num_encoder_blocks, dims.encoder_hidden_dim, ("attn",)),
        ("decoder", "ln", dims.num_decoder_blocks, dims.decoder_hidden_dim, ("attn", "cross_attn")),
    )
    for part, last_norm, blocks, hidden, attentions in parts:
        norms = [f"{part}.{last_norm}"]
        for i in range(blocks):
            block = f"{part}.blocks.{i}"
            norms += [f"{block}.{each}_ln" for each in (*attentions, "mlp")]
            for attention in attentions:
                for linear in ("query", "key", "value", "out"):
                    shapes[f"{block}.{attention}.{linear}.weight"] = (dim, dim)
                    shapes[f"{block}.{attention}.{linear}.bias"] = (dim,)
            shapes[f"{block}.mlp.0.weight"], shapes[f"{block}.mlp.0.bias"] = (hidden, dim), (hidden,)
            shapes[f"{block}.mlp.2.weight"], shapes[f"{block}.mlp.2.bias"] = (dim, hidden), (dim,)
        for norm in norms:
            shapes[f"{norm}.weight"], shapes[f"{norm}.bias"] = (dim,), (dim,)
    return shapes


def _check_positions(positions: Tensor, dims: WhisperDims, path: Path) -> None:
    name = "encoder.positional_embedding"
    if positions.dim() != 2 or positions.shape[1] != dims.dim:
        raise CheckpointError(f"{path}: weight '{name}' has shape {tuple(positions.shape)}, expected (N, {dims.dim})")
    expected = whisper_sinusoids(positions.shape[0], dims.dim)
    # Half precision rounds by 5e-4 near 1, and implementations of sine differ by as much for large angles.
    if not torch.allclose(positions.float(), expected, atol=2e-3):
        raise CheckpointError(f"{path}: weight '{name}' is not Whisper's table of sinusoids")
