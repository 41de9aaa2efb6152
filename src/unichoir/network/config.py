"""The model's shape: every size and choice of `AsrModel`, and the named configurations."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from unichoir.configuration import check_ranges
from unichoir.errors import ConfigError

LARGEST_CHUNK = 25
"""Encoder frames in the largest chunk that training draws: a second of 40 ms frames."""
MAX_WIDTH, MAX_BLOCKS, MAX_VOCABULARY = 1 << 20, 1000, 1 << 24
DROPOUTS = dict.fromkeys(("dropout", "attention_dropout", "hidden_dropout"), (0.0, 0.999))


@dataclass(frozen=True, kw_only=True)
class FeedForwardConfig:
    """A feed-forward layer: dense, or a Mixture of Experts when `num_experts` is at least 1."""

    hidden_dim: int = 2048
    """Width between the two linear layers; of each expert in a Mixture of Experts."""
    num_experts: int = 0
    """0: one dense feed-forward network."""
    top_k: int = 2
    """Experts chosen for each frame."""
    bias: bool = True
    """Whether the two linear layers have biases."""
    activation: Literal["swish", "relu", "gelu"] = "swish"
    """Between the two linear layers."""
    softmax_first: bool = False
    """Softmax over all experts before the k are chosen, gates not renormalised (arXiv 2410.07524)."""
    shared_hidden_dim: int = 0
    """Width of an expert that every frame goes through beside its own (DeepSeekMoE, arXiv 2401.06066); 0: none."""
    shared_router: bool = False
    """One router for all layers of the encoder, and one for those of each decoder (Omni-router, arXiv 2507.05724)."""
    balance_rate: float = 0.0
    """Loss-free balancing (arXiv 2408.15664): by how much each update raises the bias, for the choice alone, of experts
    with less than the mean load, and lowers that of the others; 0: no bias."""
    load_loss_weight: float = 0.0
    """Weight in training of the auxiliary loss that is least where the load is even (arXiv 2101.03961, equation 4)."""

    def __post_init__(self) -> None:
        if self.num_experts < 0 or (self.num_experts and not 1 <= self.top_k <= self.num_experts):
            raise ConfigError(f"top_k {self.top_k} must lie between 1 and num_experts {self.num_experts}")
        for name in ("shared_hidden_dim", "balance_rate", "load_loss_weight"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} must be a number of at least 0, found {value}")
        for name in ("softmax_first", "shared_hidden_dim", "shared_router", "balance_rate", "load_loss_weight"):
            if getattr(self, name) and not self.num_experts:
                raise ConfigError(f"{name} needs experts, but num_experts is 0")
        check_ranges(self, hidden_dim=(1, MAX_WIDTH), num_experts=(0, 4096), shared_hidden_dim=(0, MAX_WIDTH))


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Convolutions in front, a stack of blocks, and perhaps Conformer blocks on top at half the frame rate."""

    input_dim: int = 80
    """Mel bins."""
    dim: int = 256
    """Width of a frame. A multiple of `num_heads`."""
    num_blocks: int = 12
    """Blocks, without those on top."""
    num_heads: int = 4
    """Attention heads of each block."""
    feed_forward: FeedForwardConfig = field(default_factory=FeedForwardConfig)
    """The feed-forward layers of all blocks."""
    front: Literal["conv2d", "conv1d"] = "conv2d"
    """conv2d: two 3x3 convolutions of stride 2, one frame every 40 ms. conv1d: Whisper's two convolutions over time,
    one frame every 20 ms; it needs `fbank.lead_frames: 2`."""
    subsampling_channels: int | None = None
    """Channels of the convolutions of a conv2d front; None: as many as `dim`. Fewer make the front much cheaper."""
    block: Literal["conformer", "transformer"] = "conformer"
    """transformer: self-attention and one feed-forward layer, each after a norm, as in Whisper; no convolution."""
    conv_kernel: int = 15
    """Frames that the convolution of a Conformer block spans."""
    conv_norm: Literal["layer_norm", "batch_norm"] = "layer_norm"
    """Normalisation in the convolution of a Conformer block. Batch norm is for WeNet's older models."""
    conv_causal: bool = True
    """A causal convolution is what makes streaming possible."""
    position: Literal["rotary", "absolute_key", "sinusoidal"] = "rotary"
    """rotary: depends on distances only, so audio may be of any length. absolute_key: WeNet's `rel_pos`. sinusoidal:
    Whisper's, added to the frames that enter the first block."""
    num_positions: int = 1500
    """Sinusoidal positions begin again at 0 after so many frames. Half of the utterances of a training start at a
    random one, so that the model knows what it then hears."""
    num_top_blocks: int = 0
    """Conformer blocks on top of the others, with rotary positions. They see each pair of frames merged into one, so
    the encoder's frames are twice as long; what the blocks find is added to the mean of the pair, so that decoders hear
    what they know while new blocks learn. 0: none, nothing is merged."""
    dropout: float = 0.1
    """Dropout after each layer of a block."""
    attention_dropout: float = 0.0
    """Dropout of attention weights."""
    hidden_dropout: float = 0.0
    """Dropout between the two linear layers of a feed-forward network."""

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
        if self.position == "sinusoidal" and (self.dim % 2 or self.num_positions < 1):
            raise ConfigError(
                f"sinusoidal positions need an even dim and num_positions of at least 1, not {self.dim} and "
                f"{self.num_positions}"
            )
        if not self.conv_causal and self.conv_kernel % 2 == 0:
            raise ConfigError(f"conv_kernel {self.conv_kernel} must be odd when conv_causal is false")
        if self.front == "conv1d" and self.subsampling_channels is not None:
            raise ConfigError("subsampling_channels belongs to a conv2d front, but front is conv1d")

    @property
    def frames_merged(self) -> int:
        """Frames of the lower blocks in one frame of the encoder."""
        return 2 if self.num_top_blocks else 1

    @property
    def frames_of_blocks(self) -> list[int]:
        """Frames of each block, those on top last, in one frame of the encoder."""
        return [self.frames_merged] * self.num_blocks + [1] * self.num_top_blocks

    @property
    def subsampling_rate(self) -> int:
        """Feature frames from one encoder frame to the next."""
        return (4 if self.front == "conv2d" else 2) * self.frames_merged

    @property
    def right_context(self) -> int:
        """Encoder frame i sees the feature frames from subsampling_rate * i to subsampling_rate * i + this."""
        step, width = (4, 6) if self.front == "conv2d" else (2, 4)
        return width + step * (self.frames_merged - 1)

    def num_frames(self, num_feature_frames: int) -> int:
        """Encoder frames of so many feature frames; 0 where they are too few for one."""
        return max(0, (num_feature_frames - self.right_context - 1) // self.subsampling_rate + 1)


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The left-to-right and the right-to-left Transformer decoder."""

    num_blocks: int = 3
    """Blocks of the left-to-right decoder."""
    num_reverse_blocks: int = 3
    """0: no right-to-left decoder."""
    num_heads: int = 4
    """Attention heads of each block."""
    feed_forward: FeedForwardConfig = field(default_factory=lambda: FeedForwardConfig(activation="relu"))
    """The feed-forward layers of all blocks."""
    position: Literal["sinusoidal", "learned"] = "sinusoidal"
    """learned: a table of `num_positions` vectors, as in Whisper; later tokens take the last one."""
    num_positions: int = 448
    """Of learned positions."""
    dropout: float = 0.1
    """Dropout after each layer of a block."""
    attention_dropout: float = 0.0
    """Dropout of attention weights."""
    hidden_dropout: float = 0.0
    """Dropout between the two linear layers of a feed-forward network."""

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
    """The whole model and the weights of its loss (docs/how-it-works/model.md)."""

    vocab_size: int = 0
    """0: taken from the tokenizer when training starts."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The encoder, which hears."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """The two decoders, which write."""
    ctc_weight: float = 0.3
    """1: the decoders are left out of training; `optim.rates` must then be 0 for them."""
    reverse_weight: float = 0.3
    """Weight of the right-to-left decoder in the attention loss and in rescoring."""
    label_smoothing: float = 0.1
    """Share of the probability that the attention loss spreads over all tokens."""
    length_normalized_loss: bool = False
    """Divide the attention loss by tokens rather than by utterances."""
    blank_id: int = 0
    """Token that CTC writes where it writes nothing."""
    sos_id: int = 2
    """Token before the first one of a transcript."""
    eos_id: int = 2
    """Token after the last one of a transcript."""
    dynamic_left_chunks: bool = False
    """Draw the number of left chunks in training too (U2, section 3.2); otherwise all of the past is seen."""
    chunk_probability: float = 0.5
    """How often a training batch is seen in chunks; otherwise in full context. 0: never."""
    min_chunk_size: int = 1
    """Least encoder frames in a chunk drawn in training; the most are 25. A model that will not be used with smaller
    chunks learns sooner without them."""
    dynamic_top_k: bool = False
    """In training draw for each batch how many experts a frame goes to, from 1 to top_k (DLG-MoE, arXiv 2407.18581), so
    that fewer can be used in recognition."""

    def __post_init__(self) -> None:
        ids = (0, MAX_VOCABULARY)
        check_ranges(self, vocab_size=ids, blank_id=ids, sos_id=ids, eos_id=ids)
        for name in ("ctc_weight", "reverse_weight", "label_smoothing", "chunk_probability"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} {getattr(self, name)} must lie between 0 and 1")
        if not 1 <= self.min_chunk_size <= LARGEST_CHUNK:
            raise ConfigError(f"min_chunk_size must lie between 1 and {LARGEST_CHUNK}, found {self.min_chunk_size}")
        if self.reverse_weight > 0 and self.decoder.num_reverse_blocks == 0:
            raise ConfigError("reverse_weight above 0 needs a right-to-left decoder (num_reverse_blocks)")
        if self.dynamic_top_k and self.max_top_k < 2:
            raise ConfigError("dynamic_top_k needs a feed_forward with experts and a top_k of at least 2")

    @property
    def max_top_k(self) -> int:
        """Experts of a frame in the layers that have most; 0 for a dense model."""
        layers = (self.encoder.feed_forward, self.decoder.feed_forward)
        return max(layer.top_k if layer.num_experts else 0 for layer in layers)

    def with_vocab_size(self, vocab_size: int) -> "ModelConfig":
        """The same model for a vocabulary of another size."""
        return dataclasses.replace(self, vocab_size=vocab_size)


def draw_top_k(rng: np.random.Generator, config: ModelConfig) -> int | None:
    """How many experts a frame of one training batch goes to, uniform over 1 to top_k; None: to as many as configured.

    A layer whose own top_k is smaller takes that many.
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
    "dense-225m": _config(dim=640, blocks=15, heads=10, hidden=2560, experts=0, **_LARGE),
    "moe-1b": _config(dim=640, blocks=15, heads=10, hidden=2560, experts=8, **_LARGE),
    "moe-1b-fine": _config(dim=640, blocks=15, heads=10, hidden=1280, experts=16, **_LARGE),
    "dense-1b": _config(dim=1024, blocks=35, heads=16, hidden=4096, experts=0, **_LARGE),
}
"""Configurations by name. The last four are the sizes of the paper's comparison, and moe-1b with twice as many experts
of half the width, which computes as much as dense-225m; `unichoir models` prints them all."""
