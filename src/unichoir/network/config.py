"""The configuration of the model's architecture, and the named configurations."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from unichoir.configuration import FRACTION, check_ranges
from unichoir.errors import ConfigError

LARGEST_CHUNK = 25
"""Largest chunk drawn in training, in encoder frames: one second if a frame takes 40 ms."""
CONVOLUTIONS: dict[int, tuple[tuple[int, int], ...]] = {4: ((3, 2), (3, 2)), 6: ((3, 2), (5, 3)), 8: ((3, 2),) * 3}
"""Kernel size and stride of each convolution of a conv2d front end, by its subsampling."""
MAX_WIDTH, MAX_BLOCKS, MAX_VOCABULARY = 1 << 20, 1000, 1 << 24
DROPOUTS = dict.fromkeys(("dropout", "attention_dropout", "hidden_dropout"), (0.0, 0.999))


@dataclass(frozen=True, kw_only=True)
class FeedForwardConfig:
    """A feed-forward layer. It is dense, or a Mixture of Experts if `num_experts` is at least 1."""

    hidden_dim: int = 2048
    """Hidden units between the two linear layers; in a Mixture of Experts, hidden units of each expert."""
    num_experts: int = 0
    """Number of experts in the layer. 0 makes the layer a single dense network."""
    top_k: int = 2
    """Number of experts that each frame uses, from 1 to `num_experts`."""
    bias: bool = True
    """Whether the two linear layers have biases."""
    activation: Literal["swish", "relu", "gelu"] = "swish"
    """Activation function between the two linear layers."""
    softmax_first: bool = False
    """Whether the softmax covers all experts before `top_k` are chosen. The gates are then not renormalised (arXiv
    2410.07524)."""
    shared_hidden_dim: int = 0
    """Hidden units of an additional shared expert that processes every frame (DeepSeekMoE, arXiv 2401.06066). 0 adds no
    shared expert."""
    shared_router: bool = False
    """Whether all layers of the encoder share one router, as do the layers of each decoder (Omni-router, arXiv
    2507.05724)."""
    balance_rate: float = 0.0
    """Step of loss-free load balancing (arXiv 2408.15664). Each update raises the routing bias of experts below the
    mean load by this amount and lowers that of the others. The bias affects the choice of experts, not their gates. 0
    disables it."""
    load_loss_weight: float = 0.0
    """Weight of the auxiliary load-balancing loss in training (arXiv 2101.03961, equation 4). 0 disables it."""

    def __post_init__(self) -> None:
        if self.num_experts < 0 or (self.num_experts and not 1 <= self.top_k <= self.num_experts):
            raise ConfigError(f"top_k {self.top_k} must lie between 1 and num_experts {self.num_experts}")
        for name in ("softmax_first", "shared_hidden_dim", "shared_router", "balance_rate", "load_loss_weight"):
            if getattr(self, name) and not self.num_experts:
                raise ConfigError(f"{name} needs experts, but num_experts is 0")
        check_ranges(
            self,
            hidden_dim=(1, MAX_WIDTH),
            num_experts=(0, 4096),
            shared_hidden_dim=(0, MAX_WIDTH),
            balance_rate=(0, 1000),
            load_loss_weight=(0, 1000),
        )


def kernels_reach(convolutions: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Return the step between the outputs of stacked convolutions, and the inputs that one output sees.

    convolutions: kernel size and stride of each.
    """
    step, width = 1, 1
    for kernel, stride in convolutions:
        width += (kernel - 1) * step
        step *= stride
    return step, width


def convolved_size(size: int, convolutions: Iterable[tuple[int, int]]) -> int:
    """Return the size of a dimension after convolutions without padding, of the given kernel sizes and strides."""
    for kernel, stride in convolutions:
        size = (size - kernel) // stride + 1
    return size


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The encoder: a convolutional front end, a stack of blocks, optional Conformer blocks at half the frame rate."""

    input_dim: int = 80
    """Number of mel bins per feature frame."""
    dim: int = 256
    """Width of an encoder frame. It must be a multiple of `num_heads`."""
    num_blocks: int = 12
    """Number of blocks, not counting `num_top_blocks`."""
    num_heads: int = 4
    """Number of attention heads in each block."""
    feed_forward: FeedForwardConfig = field(default_factory=FeedForwardConfig)
    """The feed-forward layers of all blocks."""
    front: Literal["conv2d", "conv1d"] = "conv2d"
    """Convolutional front end. conv2d: two or three convolutions over time and mel bins, see `subsampling`. conv1d:
    Whisper's two convolutions over time, one frame every 20 ms; it requires `fbank.lead_frames: 2`."""
    subsampling: Literal[4, 6, 8] = 4
    """Feature frames per frame of a conv2d front end. 4: one frame every 40 ms, by two 3x3 convolutions with stride 2.
    6: every 60 ms, by a 3x3 convolution with stride 2 and a 5x5 convolution with stride 3. 8: every 80 ms, by three 3x3
    convolutions with stride 2. Fewer frames make the blocks cheaper. The front end sees 7, 11 or 15 feature frames."""
    subsampling_channels: int | None = None
    """Channels of the convolutions of a conv2d front end. null uses `dim` channels. Fewer channels make the front end
    much cheaper."""
    block: Literal["conformer", "transformer"] = "conformer"
    """Type of the blocks. transformer: self-attention and one feed-forward layer, each after a norm, as in Whisper,
    without a convolution."""
    conv_kernel: int = 15
    """Kernel size, in frames, of the convolution in a Conformer block."""
    conv_norm: Literal["layer_norm", "batch_norm"] = "layer_norm"
    """Normalisation in the convolution of a Conformer block. Use batch_norm for older WeNet models."""
    conv_causal: bool = True
    """Whether convolutions are causal. Streaming requires causal convolutions."""
    position: Literal["rotary", "absolute_key", "absolute", "sinusoidal", "none"] = "rotary"
    """Position encoding. rotary: depends on distances only, so audio may have any length. absolute_key: WeNet's
    `rel_pos`. absolute: WeNet's `abs_pos`, the sinusoids of the Transformer added to the input of the first block.
    sinusoidal: Whisper's positions, added there too. none: WeNet's `no_pos`."""
    num_positions: int = 1500
    """Number of sinusoidal positions; after the last one, they start again at 0. In training, half of the utterances
    start at a random position, which teaches the model this wrap-around."""
    num_top_blocks: int = 0
    """Number of additional Conformer blocks, with rotary positions, on top of the others. They process pairs of frames
    merged into one, so encoder frames are twice as long. Their output is added to the mean of the pair, so the decoders
    keep receiving familiar input while new blocks learn. 0 adds none and merges nothing."""
    dropout: float = 0.1
    """Dropout probability after each layer of a block."""
    attention_dropout: float = 0.0
    """Dropout probability of attention weights."""
    hidden_dropout: float = 0.0
    """Dropout probability between the two linear layers of a feed-forward network."""

    def __post_init__(self) -> None:
        check_ranges(
            self,
            input_dim=(1, 4096),
            dim=(1, MAX_WIDTH),
            num_blocks=(0, MAX_BLOCKS),
            num_heads=(1, 1024),
            subsampling_channels=(1, MAX_WIDTH),
            conv_kernel=(1, 1001),
            num_top_blocks=(0, MAX_BLOCKS),
            **DROPOUTS,
        )
        if self.dim % self.num_heads:
            raise ConfigError(f"dim {self.dim} is not a multiple of num_heads {self.num_heads}")
        is_rotary = self.position == "rotary" or self.num_top_blocks > 0
        if is_rotary and (self.dim // self.num_heads) % 2:
            raise ConfigError(f"rotary positions need an even head size, not {self.dim // self.num_heads}")
        if self.position in ("absolute_key", "absolute", "sinusoidal") and self.dim % 2:
            raise ConfigError(f"{self.position} positions need an even dim, not {self.dim}")
        if self.position == "sinusoidal" and self.num_positions < 1:
            raise ConfigError(f"sinusoidal positions need num_positions of at least 1, not {self.num_positions}")
        if not self.conv_causal and self.conv_kernel % 2 == 0:
            raise ConfigError(f"conv_kernel {self.conv_kernel} must be odd when conv_causal is false")
        for name, default in (("subsampling_channels", None), ("subsampling", 4)):
            if self.front == "conv1d" and getattr(self, name) != default:
                raise ConfigError(f"{name} belongs to a conv2d front, but front is conv1d")
        least = kernels_reach(self.convolutions)[1] if self.front == "conv2d" else 1
        if self.input_dim < least:
            raise ConfigError(f"input_dim {self.input_dim} must be at least {least} for this front end")

    @property
    def frames_merged(self) -> int:
        """Frames of the lower blocks per encoder frame."""
        return 2 if self.num_top_blocks else 1

    @property
    def frames_of_blocks(self) -> list[int]:
        """Frames per encoder frame for each block, the top blocks last."""
        return [self.frames_merged] * self.num_blocks + [1] * self.num_top_blocks

    @property
    def convolutions(self) -> tuple[tuple[int, int], ...]:
        """Kernel size and stride of each convolution of the front end."""
        return CONVOLUTIONS[self.subsampling] if self.front == "conv2d" else ((3, 1), (3, 2))

    @property
    def subsampling_rate(self) -> int:
        """Feature frames per encoder frame."""
        return kernels_reach(self.convolutions)[0] * self.frames_merged

    @property
    def right_context(self) -> int:
        """Encoder frame i sees the feature frames subsampling_rate * i to subsampling_rate * i + right_context."""
        step, width = kernels_reach(self.convolutions)
        return width - 1 + step * (self.frames_merged - 1)

    def num_frames(self, num_feature_frames: int) -> int:
        """Return the number of encoder frames for that many feature frames; 0 if they are too few for one."""
        return max(0, (num_feature_frames - self.right_context - 1) // self.subsampling_rate + 1)


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The left-to-right and right-to-left Transformer decoders."""

    num_blocks: int = 3
    """Number of blocks of the left-to-right decoder."""
    num_reverse_blocks: int = 3
    """Number of blocks of the right-to-left decoder. 0 removes this decoder."""
    num_heads: int = 4
    """Number of attention heads in each block."""
    feed_forward: FeedForwardConfig = field(default_factory=lambda: FeedForwardConfig(activation="relu"))
    """The feed-forward layers of all blocks."""
    position: Literal["sinusoidal", "learned"] = "sinusoidal"
    """Position encoding. learned: a table of `num_positions` vectors, as in Whisper; later tokens use the last vector.
    """
    num_positions: int = 448
    """Number of learned positions."""
    memory: Literal["all", "non_blank"] = "all"
    """Encoder frames that the decoders attend to. non_blank: only frames whose most probable CTC token isn't the blank,
    as in WeNet's lite models, or all if there are none. It needs a CTC that already works, so start from a trained
    model (`init`). It applies to training and rescoring; mode `attention` uses all frames, as in WeNet."""
    dropout: float = 0.1
    """Dropout probability after each layer of a block."""
    attention_dropout: float = 0.0
    """Dropout probability of attention weights."""
    hidden_dropout: float = 0.0
    """Dropout probability between the two linear layers of a feed-forward network."""

    def __post_init__(self) -> None:
        check_ranges(
            self,
            num_blocks=(0, MAX_BLOCKS),
            num_reverse_blocks=(0, MAX_BLOCKS),
            num_heads=(1, 1024),
            num_positions=(1, MAX_WIDTH),
            **DROPOUTS,
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The complete model and the weights of its loss (docs/how-it-works/model.md)."""

    vocab_size: int = 0
    """Number of tokens. 0 takes it from the tokenizer when training starts."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The encoder, which turns feature frames into encoder frames."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """The two decoders, which score token sequences."""
    ctc_weight: float = 0.3
    """Weight of CTC in the loss, from 0 to 1; the attention loss has the remaining weight. With 1, the decoders are not
    trained, and their `optim.rates` must be 0."""
    reverse_weight: float = 0.3
    """Weight of the right-to-left decoder in the attention loss and in rescoring, from 0 to 1."""
    label_smoothing: float = 0.1
    """Fraction of the target probability that the attention loss spreads over the other tokens, from 0 to 1."""
    length_normalized_loss: bool = False
    """Whether the attention loss is divided by the number of tokens. Otherwise it is divided by the number of
    utterances."""
    blank_id: int = 0
    """Token id of the CTC blank."""
    sos_id: int = 2
    """Token id before the first token of a transcript."""
    eos_id: int = 2
    """Token id after the last token of a transcript."""
    dynamic_left_chunks: bool = False
    """Whether training also draws the number of left chunks (U2, section 3.2). Otherwise each chunk sees the complete
    past."""
    chunk_probability: float = 0.5
    """Probability that a training batch is processed in chunks, from 0 to 1. Other batches have full context."""
    min_chunk_size: int = 1
    """Smallest chunk drawn in training, in encoder frames, from 1 to 25. The largest is 25. If you won't use the model
    with small chunks, a higher value makes it learn faster."""
    dynamic_top_k: bool = False
    """Whether training draws the number of experts per frame, from 1 to `top_k`, for each batch (DLG-MoE, arXiv
    2407.18581). You can then use fewer experts in recognition."""

    def __post_init__(self) -> None:
        ids = (0, MAX_VOCABULARY)
        check_ranges(self, vocab_size=ids, blank_id=ids, sos_id=ids, eos_id=ids, min_chunk_size=(1, LARGEST_CHUNK))
        shares = ("ctc_weight", "reverse_weight", "label_smoothing", "chunk_probability")
        check_ranges(self, **dict.fromkeys(shares, FRACTION))
        if self.reverse_weight > 0 and self.decoder.num_reverse_blocks == 0:
            raise ConfigError("reverse_weight above 0 needs a right-to-left decoder (num_reverse_blocks)")
        if self.decoder.memory == "non_blank" and not self.ctc_weight:
            raise ConfigError("decoder.memory non_blank needs CTC to choose the frames, but ctc_weight is 0")
        if self.dynamic_top_k and self.max_top_k < 2:
            raise ConfigError("dynamic_top_k needs a feed_forward with experts and a top_k of at least 2")

    @property
    def max_top_k(self) -> int:
        """The largest number of experts per frame of any layer; 0 for a dense model."""
        layers = (self.encoder.feed_forward, self.decoder.feed_forward)
        return max(layer.top_k if layer.num_experts else 0 for layer in layers)

    def with_vocab_size(self, vocab_size: int) -> "ModelConfig":
        """Return the same configuration for a vocabulary of another size."""
        return dataclasses.replace(self, vocab_size=vocab_size)


def draw_top_k(rng: np.random.Generator, config: ModelConfig) -> int | None:
    """Draw the number of experts per frame for one training batch, uniform over 1 to top_k; None means as configured.

    A layer with a smaller top_k uses its own.
    """
    return int(rng.integers(1, config.max_top_k + 1)) if config.dynamic_top_k else None


def _config(
    *,
    dim: int,
    blocks: int,
    heads: int,
    hidden: int,
    experts: int,
    decoder_blocks: int,
    channels: int | None = None,
    vocab_size: int = 0,
) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocab_size,
        encoder=EncoderConfig(
            dim=dim,
            num_blocks=blocks,
            num_heads=heads,
            feed_forward=FeedForwardConfig(hidden_dim=hidden, num_experts=experts),
            subsampling_channels=channels,
        ),
        decoder=DecoderConfig(
            num_blocks=decoder_blocks,
            num_reverse_blocks=decoder_blocks,
            num_heads=heads,
            feed_forward=FeedForwardConfig(hidden_dim=hidden, num_experts=experts, activation="relu"),
        ),
    )


_LARGE = {"decoder_blocks": 3, "channels": 128, "vocab_size": 8000}

NAMED_CONFIGS: dict[str, ModelConfig] = {
    "moe-tiny": _config(dim=96, blocks=6, heads=3, hidden=192, experts=4, decoder_blocks=1, channels=32),
    "moe-small": _config(dim=192, blocks=6, heads=6, hidden=192, experts=8, decoder_blocks=1, channels=32),
    "dense-small": _config(dim=192, blocks=6, heads=6, hidden=192, experts=0, decoder_blocks=1, channels=32),
    "moe-base": _config(dim=256, blocks=12, heads=4, hidden=1024, experts=8, decoder_blocks=3, channels=128),
    "dense-base": _config(dim=256, blocks=12, heads=4, hidden=1024, experts=0, decoder_blocks=3, channels=128),
    "dense-225m": _config(dim=768, blocks=11, heads=12, hidden=2752, experts=0, **_LARGE),
    "moe-1b": _config(dim=768, blocks=11, heads=12, hidden=2752, experts=8, **_LARGE),
    "moe-1b-fine": _config(dim=768, blocks=11, heads=12, hidden=1376, experts=16, **_LARGE),
    "dense-1b": _config(dim=1024, blocks=38, heads=16, hidden=4096, experts=0, **_LARGE),
}
"""Configurations by name. The last four are the sizes compared in the paper, and moe-1b with twice as many experts of
half the width, which costs as much computation as dense-225m. `unichoir models` prints them all."""
