"""Comparison of the sizes in WeNet's `train.yaml` with the weights."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from unichoir.errors import CheckpointError
from unichoir.formats.wenet.weights import front_output
from unichoir.network.config import ModelConfig, convolved_size


def check_sizes(config: ModelConfig, weights: Mapping[str, Tensor], path: Path, checkpoint: Path) -> None:
    """Raise CheckpointError, naming the key of train.yaml (`path`) whose size differs from the weights (`checkpoint`).

    Call this before building the model: a valid model needs no more memory than the weights.
    """
    for key, asked, name, axis in _sizes(config):
        if axis is None:
            found = len({each[len(name) :].partition(".")[0] for each in weights if each.startswith(name)})
        elif name not in weights:
            raise CheckpointError(f"{checkpoint}: weight '{name}' is missing")
        elif axis >= weights[name].dim():
            raise CheckpointError(f"{checkpoint}: weight '{name}' has shape {tuple(weights[name].shape)}")
        else:
            found = weights[name].shape[axis]
        if asked != found:
            raise CheckpointError(f"{path}: {key}: asks for {asked} where {checkpoint.name} has {found} ('{name}')")


def _sizes(config: ModelConfig) -> Iterator[tuple[str, int, str, int | None]]:
    """Yield each key, its size, and where to find the size.

    The place is a weight and its axis, or the name prefix of a stack's blocks and None.
    """
    encoder, decoder = config.encoder, config.decoder
    blocks, bidirectional = "encoder.encoders.", bool(decoder.num_reverse_blocks)
    left = "decoder.left_decoder.decoders." if bidirectional else "decoder.decoders."
    yield "encoder_conf: num_blocks", encoder.num_blocks, blocks, None
    yield "decoder_conf: num_blocks", decoder.num_blocks, left, None
    if bidirectional:
        yield "decoder_conf: r_num_blocks", decoder.num_reverse_blocks, "decoder.right_decoder.decoders.", None
    yield "output_dim", config.vocab_size, "ctc.ctc_lo.weight", 0
    yield "encoder_conf: output_size", encoder.dim, "encoder.after_norm.weight", 0
    values = encoder.dim * convolved_size(encoder.input_dim, encoder.convolutions)
    yield f"input_dim {encoder.input_dim}", values, f"{front_output(encoder)}.weight", 1
    if encoder.block == "conformer":
        kernel = f"{blocks}0.conv_module.depthwise_conv.weight"
        yield "encoder_conf: cnn_module_kernel", encoder.conv_kernel, kernel, 2
    for section, layer, stack in (("encoder", encoder.feed_forward, blocks), ("decoder", decoder.feed_forward, left)):
        name = f"{stack}0.feed_forward"
        if layer.num_experts:
            yield f"{section}_conf: n_expert", layer.num_experts, f"{name}.gate.weight", 0
            name = f"{name}.experts.0"
        yield f"{section}_conf: linear_units", layer.hidden_dim, f"{name}.w_1.weight", 0
