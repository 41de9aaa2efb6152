"""Whisper's weights under our names and in our configuration."""

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
"""Of the last norm at the start; the frames that it is added to have a deviation of about 1.4."""

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
    """What is made of a Whisper model."""

    top_blocks: int = 2
    """New Conformer blocks on top of Whisper's encoder, on pairs of frames merged into one; 0: none, nothing merged."""
    whisper_decoder: bool = True
    """Whether the decoders start as Whisper's."""
    decoder_blocks: int | None = None
    """Of the left-to-right decoder; None: all of Whisper's, or 2 new ones."""
    reverse_blocks: int = REVERSE_BLOCKS
    """Of the right-to-left decoder; 0: no such decoder."""
    seed: int = 0
    """What new weights are drawn from."""


def our_config(dims: WhisperDims, tokenizer: Tokenizer | None, options: WhisperOptions) -> ModelConfig:
    """Our configuration of a Whisper model.

    tokenizer: None: the size of the vocabulary is left open. Raises ConfigError for more blocks of a decoder
    than Whisper has.
    """
    blocks = options.decoder_blocks or (dims.num_decoder_blocks if options.whisper_decoder else NEW_DECODER_BLOCKS)
    if options.whisper_decoder:
        for name, number in (("--decoder-blocks", blocks), ("--reverse-blocks", options.reverse_blocks)):
            if number > dims.num_decoder_blocks:
                raise ConfigError(f"{name} {number}: Whisper's decoder has {dims.num_decoder_blocks} blocks")
    # Whisper was trained without dropout: where its few large activations are dropped, it hears nothing.
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
    """Whisper's encoder under our names. merged: whether its last norm stands before the merging of frames."""
    weights = whisper.weights
    last = "encoder.merge.norm" if merged else "encoder.after_norm"
    ours = {f"{last}.{each}": weights[f"encoder.ln_post.{each}"] for each in ("weight", "bias")}
    if merged:
        # What the new blocks find is added to the merged frames: at first so little that Whisper's decoder hears what
        # it knows, and enough for them to learn.
        ours["encoder.after_norm.weight"] = torch.full((whisper.dims.dim,), TOP_GAIN)
        ours["encoder.after_norm.bias"] = torch.zeros(whisper.dims.dim)
    for conv in ("1", "2"):
        for each in ("weight", "bias"):
            ours[f"encoder.subsampling.conv_{conv}.{each}"] = weights[f"encoder.conv{conv}.{each}"]
    for i in range(whisper.dims.num_encoder_blocks):
        ours |= _block(weights, f"encoder.blocks.{i}.", f"encoder.blocks.{i}.", _ENCODER_BLOCK)
    return ours


def decoder_weights(whisper: WhisperModel, name: str, num_blocks: int, tokens: TokenMapping) -> dict[str, Tensor]:
    """Whisper's decoder, or so many of its blocks evenly spaced with the last among them, under the names of ours.

    name: of our decoder.
    """
    weights, dims = whisper.weights, whisper.dims
    table = weights["decoder.token_embedding.weight"]
    outputs = mean_rows(table, tokens.outputs, tokens.text)
    ours = {
        # Our decoders multiply by this square root, which Whisper's does not.
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
    """Which of `total` blocks to keep, the last one always."""
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
        # Whisper's keys have no bias, because softmax would not see it.
        bias = name.replace(".weight", ".bias")
        result.setdefault(bias, torch.zeros(result[name].shape[0]))
    return result
