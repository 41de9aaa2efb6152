"""The cost of a configuration, computed from its sizes: weights, multiplications, bytes."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unichoir.network.config import (
    DecoderConfig,
    EncoderConfig,
    FeedForwardConfig,
    ModelConfig,
    convolved_size,
    kernels_reach,
)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A matrix that multiplies frames, or `copies` of it of which each frame uses `active`."""

    inputs: int
    outputs: int
    copies: int = 1
    active: int = 1
    times: int = 1
    """How often each frame uses the matrix. A convolution of the front end has many positions per frame."""

    @property
    def weights(self) -> int:
        """Number of weights, without biases."""
        return self.inputs * self.outputs * self.copies


@dataclass(frozen=True, kw_only=True)
class Work:
    """The cost of computing some frames."""

    products: float
    """Multiply-accumulate operations between frames and weights."""
    attention: float
    """Multiply-accumulate operations between frames, which are always in fp32."""
    weights: float
    """Number of weights that have to be read."""


def count_weights(config: ModelConfig) -> int:
    """Count the weights of all matrices and embeddings. Norms and biases, less than 1 % more, are not counted."""
    decoder, dim = config.decoder, config.encoder.dim
    layers = [*encoder_layers(config), Layer(inputs=dim, outputs=config.vocab_size)]
    for blocks in (decoder.num_blocks, decoder.num_reverse_blocks):
        if blocks:
            layers += [Layer(inputs=dim, outputs=config.vocab_size)] * 2  # embedding, output
            if decoder.position == "learned":
                layers.append(Layer(inputs=decoder.num_positions, outputs=dim))
            layers += [each for _ in range(blocks) for each in _decoder_block(dim, decoder)]
    return sum(layer.weights for layer in layers)


def encoder_layers(config: ModelConfig) -> Iterator[Layer]:
    """Yield every matrix of the encoder; convolutions count as products of patches."""
    encoder = config.encoder
    lower = encoder.frames_merged
    for layer in [*_front(encoder), *(each for _ in range(encoder.num_blocks) for each in _encoder_block(encoder))]:
        yield dataclasses.replace(layer, times=layer.times * lower)
    if encoder.num_top_blocks:
        yield Layer(inputs=2 * encoder.dim, outputs=encoder.dim)
    for _ in range(encoder.num_top_blocks):
        yield from _conformer_block(encoder)


def _front(encoder: EncoderConfig) -> Iterator[Layer]:
    """Yield the front end's matrices for one frame of the first block."""
    dim, channels = encoder.dim, encoder.subsampling_channels or encoder.dim
    if encoder.front == "conv1d":
        yield Layer(inputs=3 * encoder.input_dim, outputs=dim, times=2)
        yield Layer(inputs=3 * dim, outputs=dim)
        return
    bins, inputs, frames = encoder.input_dim, 1, kernels_reach(encoder.convolutions)[0]
    for kernel, stride in encoder.convolutions:
        bins, frames = convolved_size(bins, [(kernel, stride)]), frames // stride
        yield Layer(inputs=kernel**2 * inputs, outputs=channels, times=frames * bins)
        inputs = channels
    yield Layer(inputs=channels * bins, outputs=dim)


def _encoder_block(encoder: EncoderConfig) -> Iterator[Layer]:
    if encoder.block == "conformer":
        yield from _conformer_block(encoder)
        return
    yield from [Layer(inputs=encoder.dim, outputs=encoder.dim)] * 4
    yield from _feed_forward(encoder.dim, encoder.feed_forward)


def _conformer_block(encoder: EncoderConfig) -> Iterator[Layer]:
    dim = encoder.dim
    yield from _feed_forward(dim, encoder.feed_forward)
    yield from [Layer(inputs=dim, outputs=dim)] * 4
    yield Layer(inputs=dim, outputs=2 * dim)
    yield Layer(inputs=encoder.conv_kernel, outputs=dim)
    yield Layer(inputs=dim, outputs=dim)
    yield from _feed_forward(dim, encoder.feed_forward)


def _feed_forward(dim: int, config: FeedForwardConfig) -> Iterator[Layer]:
    if config.num_experts:
        yield Layer(inputs=dim, outputs=config.num_experts)
    for inputs, outputs in ((dim, config.hidden_dim), (config.hidden_dim, dim)):
        active = config.top_k if config.num_experts else 1
        yield Layer(inputs=inputs, outputs=outputs, copies=config.num_experts or 1, active=active)
    if config.shared_hidden_dim:
        yield Layer(inputs=dim, outputs=config.shared_hidden_dim)
        yield Layer(inputs=config.shared_hidden_dim, outputs=dim)


def _decoder_block(dim: int, config: DecoderConfig) -> Iterator[Layer]:
    yield from [Layer(inputs=dim, outputs=dim)] * 8
    yield from _feed_forward(dim, config.feed_forward)


def encoder_work(
    config: ModelConfig, frames: int, past: int, shares: Sequence[float], ctc: bool, rows: int = 1
) -> Work:
    """Return the cost of encoding `rows` times `frames` encoder frames; those of a row see each other and `past` more.

    shares: the fraction of frame copies for each expert, which determines how many experts have to be read. A weight is
    read once for all rows.
    """
    layers = list(encoder_layers(config))
    if ctc:
        layers.append(Layer(inputs=config.encoder.dim, outputs=config.vocab_size))
    products = rows * frames * sum(_active_weights(layer) for layer in layers)
    weights = sum(layer.weights * _touched(layer, rows * frames, shares) for layer in layers)
    encoder = config.encoder
    blocks = encoder.num_blocks * encoder.frames_merged**2 + encoder.num_top_blocks
    attention = rows * 2 * blocks * encoder.dim * frames * (past + frames)
    return Work(products=products, attention=attention, weights=weights)


def decoder_products(config: ModelConfig, frames: float, tokens: float) -> float:
    """Return the multiply-accumulate operations of the decoders that have a loss, for one utterance.

    frames: encoder frames; tokens: token places (the tokens and one more). Weights, attention and output layers count.
    """
    dim, decoder = config.encoder.dim, config.decoder
    blocks = decoder.num_blocks + (decoder.num_reverse_blocks if config.reverse_weight > 0 else 0)
    stacks = 1 + (config.reverse_weight > 0)
    by_token = 6 * dim**2 + sum(_active_weights(layer) for layer in _feed_forward(dim, decoder.feed_forward))
    attention = 2 * dim * tokens * (tokens + frames)
    by_frame = 2 * dim**2  # keys and values of the encoder's output
    return blocks * (tokens * by_token + frames * by_frame + attention) + stacks * tokens * dim * config.vocab_size


def _active_weights(layer: Layer) -> int:
    return layer.inputs * layer.outputs * layer.active * layer.times


def _touched(layer: Layer, frames: int, shares: Sequence[float]) -> float:
    """Return the expected number of copies that at least one frame uses, if frames choose independently."""
    if layer.copies == 1:
        return 1.0
    chances = [min(1.0, layer.active * share) for share in shares]
    return sum(1 - (1 - chance) ** frames for chance in chances) / layer.copies
