"""Translation of Whisper's weights to our names and configuration."""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unichoir.errors import ConfigError
from unichoir.formats.whisper.tokens import TokenMapping, mean_rows
from unichoir.formats.whisper.weights import WhisperDims, WhisperModel
from unichoir.network.config import DecoderConfig, EncoderConfig, FeedForwardConfig, ModelConfig
from unichoir.text.tokenizer import Tokenizer

NEW_DECODER_BLOCKS = 2
REVERSE_BLOCKS = 2
TOP_GAIN = 1.0
"""Initial gain of the last norm. The frames that it is added to have a deviation of about 1.4."""

_ATTENTION = {"query": "linear_q", "key": "linear_k", "value": "linear_v", "out": "linear_out"}
_ENCODER_BLOCK = {"attn_ln": "norm_mha", "attn": "self_attn", "mlp_ln": "norm_ff", "mlp": "feed_forward"}
_DECODER_BLOCK = {
    "attn_ln": "norm1",
    "attn": "self_attn",
    "cross_attn_ln": "norm2",
    "cross_attn": "src_attn",
    "mlp_ln": "norm3",
    "mlp": "feed_forward",
}
_FEED_FORWARD = {"0": "w_1", "2": "w_2"}


@dataclass(frozen=True, kw_only=True)
class WhisperOptions:
    """Options for importing a Whisper model."""

    top_blocks: int = 2
    """Number of new Conformer blocks on top of Whisper's encoder, on merged pairs of frames. 0 adds none and merges
    nothing."""
    whisper_decoder: bool = True
    """Whether the decoders start from Whisper's decoder."""
    decoder_blocks: int | None = None
    """Blocks of the left-to-right decoder. None takes all of Whisper's, or 2 new ones."""
    reverse_blocks: int = REVERSE_BLOCKS
    """Blocks of the right-to-left decoder. 0 removes this decoder."""
    seed: int = 0
    """Seed of new weights."""


def our_config(dims: WhisperDims, tokenizer: Tokenizer | None, options: WhisperOptions) -> ModelConfig:
    """Return our configuration of a Whisper model.

    tokenizer: None leaves the size of the vocabulary open. Raises ConfigError for more decoder blocks than Whisper has.
    """
    blocks = options.decoder_blocks or (dims.num_decoder_blocks if options.whisper_decoder else NEW_DECODER_BLOCKS)
    if options.whisper_decoder:
        for name, number in (("--decoder-blocks", blocks), ("--reverse-blocks", options.reverse_blocks)):
            if number > dims.num_decoder_blocks:
                raise ConfigError(f"{name} {number}: Whisper's decoder has {dims.num_decoder_blocks} blocks")
    # Whisper was trained without dropout. It fails if its few large activations are dropped.
    dropout = 0.0
    special = {} if tokenizer is None else {f"{n}_id": getattr(tokenizer, f"{n}_id") for n in ("blank", "sos", "eos")}
    decoder = DecoderConfig(
        num_blocks=blocks,
        num_reverse_blocks=options.reverse_blocks,
        num_heads=dims.num_decoder_heads,
        feed_forward=FeedForwardConfig(hidden_dim=dims.decoder_hidden_dim, activation="gelu"),
        dropout=dropout,
    )
    if options.whisper_decoder:
        decoder = dataclasses.replace(decoder, position="learned", num_positions=dims.num_text_positions)
    return ModelConfig(
        vocab_size=0 if tokenizer is None else tokenizer.vocab_size,
        encoder=EncoderConfig(
            input_dim=dims.num_mel_bins,
            dim=dims.dim,
            num_blocks=dims.num_encoder_blocks,
            num_heads=dims.num_encoder_heads,
            feed_forward=FeedForwardConfig(hidden_dim=dims.encoder_hidden_dim, activation="gelu"),
            front="conv1d",
            block="transformer",
            position="sinusoidal",
            num_top_blocks=options.top_blocks,
            dropout=dropout,
        ),
        decoder=decoder,
        reverse_weight=ModelConfig().reverse_weight if options.reverse_blocks else 0.0,
        **special,
    )


def encoder_weights(whisper: WhisperModel, merged: bool) -> dict[str, Tensor]:
    """Return Whisper's encoder under our names. merged: whether its last norm precedes the merging of frames."""
    weights = whisper.weights
    last = "encoder.merge.norm" if merged else "encoder.after_norm"
    ours = {f"{last}.{each}": weights[f"encoder.ln_post.{each}"] for each in ("weight", "bias")}
    if merged:
        # The output of the new blocks is added to the merged frames. It starts small enough for Whisper's decoder to
        # work, and large enough for the blocks to learn.
        ours["encoder.after_norm.weight"] = torch.full((whisper.dims.dim,), TOP_GAIN)
        ours["encoder.after_norm.bias"] = torch.zeros(whisper.dims.dim)
    for conv in ("1", "2"):
        for each in ("weight", "bias"):
            ours[f"encoder.subsampling.conv_{conv}.{each}"] = weights[f"encoder.conv{conv}.{each}"]
    for i in range(whisper.dims.num_encoder_blocks):
        ours |= _block(weights, f"encoder.blocks.{i}.", f"encoder.blocks.{i}.", _ENCODER_BLOCK)
    return ours


def decoder_weights(whisper: WhisperModel, name: str, num_blocks: int, tokens: TokenMapping) -> dict[str, Tensor]:
    """Return Whisper's decoder under our names, reduced to `num_blocks` evenly spaced blocks including the last.

    name: name of our decoder.
    """
    weights, dims = whisper.weights, whisper.dims
    table = weights["decoder.token_embedding.weight"]
    outputs = mean_rows(table, tokens.outputs, tokens.text)
    ours = {
        # Our decoders multiply by this square root, Whisper's don't.
        f"{name}.embedding.weight": mean_rows(table, tokens.inputs, tokens.text) / dims.dim**0.5,
        f"{name}.position_embedding.weight": weights["decoder.positional_embedding"],
        f"{name}.output_layer.weight": outputs,
        f"{name}.output_layer.bias": torch.zeros(len(outputs)),
        f"{name}.after_norm.weight": weights["decoder.ln.weight"],
        f"{name}.after_norm.bias": weights["decoder.ln.bias"],
    }
    for i, block in enumerate(evenly_spaced(dims.num_decoder_blocks, num_blocks)):
        ours |= _block(weights, f"decoder.blocks.{block}.", f"{name}.blocks.{i}.", _DECODER_BLOCK)
    return ours


def evenly_spaced(total: int, wanted: int) -> Sequence[int]:
    """Return which of `total` blocks to keep, always including the last one."""
    return [(i + 1) * total // wanted - 1 for i in range(wanted)]


def _block(weights: dict[str, Tensor], theirs: str, ours: str, parts: dict[str, str]) -> dict[str, Tensor]:
    result: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if not name.startswith(theirs):
            continue
        part, *layer, kind = name.removeprefix(theirs).split(".")
        renamed = [{**_ATTENTION, **_FEED_FORWARD}[each] for each in layer]
        result[".".join([ours + parts[part], *renamed, kind])] = tensor
    for name in [name for name in result if re.search(r"\.linear_k\.weight$", name)]:
        # Whisper's keys have no bias, because it would cancel in the softmax.
        bias = name.replace(".weight", ".bias")
        result.setdefault(bias, torch.zeros(result[name].shape[0]))
    return result
