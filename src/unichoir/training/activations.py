"""The memory that the forward pass keeps for the backward pass, in bytes, derived from the model's sizes.

Autograd keeps the inputs of products and norms, the results of softmax and ReLU, the inputs of swish and GLU, and one
byte for each element that dropout may drop. These are counted, each storage once. Masks, positions and per-frame values
below one percent are ignored. `tests/training/test_planning.py` compares the result with the tensors that autograd
actually keeps.
"""

from dataclasses import dataclass
from typing import Literal

from unichoir.errors import ConfigError
from unichoir.network.config import EncoderConfig, FeedForwardConfig, ModelConfig, convolved_size
from unichoir.network.dispatch import TRAINING_ALIGNMENT

FP32, INT64 = 4, 8
STATISTICS = 2 * FP32
"""Mean and deviation that a norm keeps for each frame, in bytes."""


@dataclass(frozen=True, kw_only=True)
class BatchShape:
    """A batch of utterances of equal length."""

    utterances: float
    feature_frames: int
    """Feature frames of one utterance, 10 ms each."""
    frames: int
    """Encoder frames of one utterance (`EncoderConfig.num_frames`)."""
    tokens: float
    """Tokens of one utterance."""

    @property
    def places(self) -> float:
        """Decoder places for one utterance: its tokens and the end."""
        return self.tokens + 1


@dataclass(frozen=True, kw_only=True)
class Types:
    """Bytes per value for different tensors. Autocast chooses dtypes differently on each kind of device."""

    product: int
    """Inputs and results of products."""
    encoder_norm: int
    """Inputs and results of the encoder's norms, and therefore the residual stream."""
    fused_attention: bool
    """Whether attention keeps its results instead of the scores."""
    cuda: bool

    @classmethod
    def of(cls, precision: Literal["fp32", "bf16"], device: Literal["cpu", "cuda"]) -> "Types":
        """Return the sizes for a precision and device.

        Autocast computes norms in fp32 on CUDA and in the input's dtype on CPUs. Only CUDA has fused attention.
        """
        product = 2 if precision == "bf16" else FP32
        norm = FP32 if device == "cuda" else product
        return cls(product=product, encoder_norm=norm, fused_attention=device == "cuda", cuda=device == "cuda")

    def copies(self, readers: int, norm: int) -> int:
        """Return how many copies of a norm's result its readers keep.

        Each reader casts it if it needs another dtype.
        """
        return 1 if norm == self.product else readers


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Bytes kept for the backward pass of one batch."""

    front: float
    """Subsampling, embeddings, and the norms between stacks."""
    encoder_block: float
    decoder_block: float
    encoder_block_input: float
    decoder_block_input: float
    encoder_blocks: int
    decoder_blocks: int
    logits: float
    """Log-probabilities of all tokens, in fp32, for CTC and the decoders."""
    logits_gradient: float
    """Additional bytes when the backward pass starts: the gradients of CTC's logits."""

    def total(self, checkpointing: bool) -> float:
        """Return the sum without `logits_gradient`.

        Checkpointing keeps the input of every block and one complete block.
        """
        outside = self.front + self.logits
        if not checkpointing:
            return outside + self.encoder_blocks * self.encoder_block + self.decoder_blocks * self.decoder_block
        inputs = self.encoder_blocks * self.encoder_block_input + self.decoder_blocks * self.decoder_block_input
        return outside + inputs + max(self.encoder_block, self.decoder_block)


def activations(config: ModelConfig, batch: BatchShape, types: Types) -> Activations:
    """Derive the bytes of every part for one batch of one process."""
    for name, value in (("front", "conv2d"), ("num_top_blocks", 0)):
        if getattr(config.encoder, name) != value:
            raise ConfigError(f"model.encoder.{name} {getattr(config.encoder, name)}: its memory cannot be planned yet")
    dim, vocab = config.encoder.dim, config.vocab_size
    frames, places = batch.utterances * batch.frames, batch.utterances * batch.places
    reverse = config.decoder.num_reverse_blocks if config.reverse_weight > 0 else 0
    stacks = 1 + (reverse > 0)
    encoder_end = types.encoder_norm * dim + STATISTICS + types.product * dim  # the norm, and CTC's input
    decoder_ends = (FP32 + types.product + bool(config.decoder.dropout)) * dim + STATISTICS + INT64
    front = batch.utterances * _subsampling(config.encoder, batch, types)
    log_alpha = FP32 * (2 * batch.tokens + 1)
    return Activations(
        front=front + frames * encoder_end + stacks * places * decoder_ends,
        encoder_block=_encoder_block(config.encoder, batch, types),
        decoder_block=_decoder_block(config, batch, types),
        encoder_block_input=frames * types.encoder_norm * dim,
        decoder_block_input=places * FP32 * dim,
        encoder_blocks=config.encoder.num_blocks,
        decoder_blocks=config.decoder.num_blocks + reverse,
        logits=frames * (FP32 * vocab + log_alpha) + stacks * places * FP32 * vocab,
        logits_gradient=frames * vocab * (2 * FP32 + (types.product if types.product != FP32 else 0)),
    )


def _subsampling(config: EncoderConfig, batch: BatchShape, types: Types) -> float:
    """Return the bytes of one utterance: inputs of convolutions, last ReLU, its copy for `out`, dropout."""
    channels = config.subsampling_channels or config.dim
    frames, bins = batch.feature_frames, config.input_dim
    values = frames * bins
    for convolution in config.convolutions:
        frames, bins = (convolved_size(size, [convolution]) for size in (frames, bins))
        values += frames * channels * bins
    values += frames * channels * bins
    return types.product * values + bool(config.dropout) * batch.frames * config.dim


def _encoder_block(config: EncoderConfig, batch: BatchShape, types: Types) -> float:
    dim, norm, product = config.dim, types.encoder_norm, types.product
    frames = batch.utterances * batch.frames
    is_conformer = config.block == "conformer"
    norms = (5 if is_conformer else 2) * (norm * dim + STATISTICS)
    before_conv = 1 + (config.conv_kernel - 1) / max(batch.frames, 1)
    attention: float = product * dim * types.copies(3, norm)
    if config.position == "absolute_key":  # queries again, and scores, which are always in fp32
        attention += product * dim + (0 if product == FP32 else FP32 * config.num_heads * batch.frames)
    attention += _attention(dim, config.num_heads, batch.frames, config.attention_dropout, types) + 2 * product * dim
    # Input, GLU, depthwise convolution, norm, swish, second product.
    convolution = product * dim * (1 + 2 + before_conv + 1) + norm * dim * (before_conv + 1) + STATISTICS
    feed_forward = _feed_forward(dim, config.feed_forward, config.hidden_dropout, frames, types, norm)
    if not is_conformer:
        return frames * (norms + attention + feed_forward + 2 * bool(config.dropout) * dim)
    return frames * (norms + attention + convolution + 2 * feed_forward + 4 * bool(config.dropout) * dim)


def _decoder_block(config: ModelConfig, batch: BatchShape, types: Types) -> float:
    """Return the bytes of one block. The decoders' residual stream is always in fp32, like the embeddings."""
    decoder, dim, product = config.decoder, config.encoder.dim, types.product
    frames, places = batch.utterances * batch.frames, batch.utterances * batch.places
    by_place: float = 3 * (FP32 * dim + STATISTICS + bool(decoder.dropout) * dim)
    # Inputs of queries, keys and values of both attentions; keys and values of the tokens.
    by_place += product * dim * (types.copies(3, FP32) + types.copies(1, FP32) + 2)
    for keys in (batch.places, batch.frames):
        by_place += _attention(dim, decoder.num_heads, keys, decoder.attention_dropout, types)
    by_place += _feed_forward(dim, decoder.feed_forward, decoder.hidden_dropout, places, types, FP32)
    casts = 0 if types.encoder_norm == product else 2
    return places * by_place + frames * product * dim * (2 + casts)


def _attention(dim: int, heads: int, keys: float, dropout: float, types: Types) -> float:
    """Return the bytes of one query: itself, its result, and softmax scores (fused: their sum and the mask)."""
    kept = 2 * types.product * dim
    if types.fused_attention:
        return kept + FP32 * heads + types.product * keys
    return kept + types.product * heads * keys * (3 if dropout else 1)


def _feed_forward(dim: int, config: FeedForwardConfig, dropout: float, frames: float, types: Types, norm: int) -> float:
    """Return the bytes of one frame, without the preceding norm, but with the input of the first product."""
    product = types.product

    def hidden(width: int) -> float:
        two = config.activation == "swish" or dropout > 0  # only the result of ReLU is kept
        return product * width * (1 + two) + bool(dropout) * width

    if not config.num_experts:
        return product * dim + hidden(config.hidden_dim)
    fill = config.num_experts * (TRAINING_ALIGNMENT - 1) / (1 if types.cuda else 2) / max(frames, 1)
    rows = config.top_k + fill
    router = product * dim + config.top_k * (INT64 + FP32)
    experts = rows * (INT64 + product * dim + hidden(config.hidden_dim))
    combined = config.top_k * (INT64 + product + product * dim) + 1
    shared = 0.0
    if config.shared_hidden_dim:
        shared = product * dim * (types.copies(2, norm) - 1) + hidden(config.shared_hidden_dim)
    return router + experts + combined + shared
