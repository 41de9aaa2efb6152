"""The blocks of the encoder."""

from torch import Tensor, nn

from unichoir.network.attention import EncoderAttention
from unichoir.network.config import EncoderConfig
from unichoir.network.convolution import ConvolutionModule
from unichoir.network.dropout import Dropout
from unichoir.network.moe import build_feed_forward
from unichoir.network.normalization import LayerNorm
from unichoir.network.router import Router


class ConformerBlock(nn.Module):
    """A Conformer block (Conformer, section 2.4).

    The order is: half a feed-forward layer, self-attention, convolution, the other half of a feed-forward layer, norm.
    """

    def __init__(self, config: EncoderConfig, position: str) -> None:
        super().__init__()
        dim = config.dim
        self.norm_ff_macaron = LayerNorm(dim)
        self.feed_forward_macaron = build_feed_forward(dim, config.feed_forward, config.hidden_dropout)
        self.norm_mha = LayerNorm(dim)
        self.self_attn = EncoderAttention(dim, config.num_heads, config.attention_dropout, position)
        self.norm_conv = LayerNorm(dim)
        self.conv_module = ConvolutionModule(config)
        self.norm_ff = LayerNorm(dim)
        self.feed_forward = build_feed_forward(dim, config.feed_forward, config.hidden_dropout)
        self.norm_final = LayerNorm(dim)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        bias: Tensor,
        positions: tuple[Tensor, ...],
        att_cache: Tensor | None,
        cnn_cache: Tensor | None,
        top_k: Tensor | None = None,
        router: Router | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Process x (B, T, D) with mask (B, T).

        Returns the output (B, T, D), the visible keys and values, and the visible input of the convolution.
        """
        x = x + 0.5 * self.dropout(self.feed_forward_macaron(self.norm_ff_macaron(x), mask, top_k, router))
        attended, window = self.self_attn.encode(self.norm_mha(x), att_cache, bias, positions)
        x = x + self.dropout(attended)
        convolved, extended = self.conv_module(self.norm_conv(x), mask, cnn_cache)
        x = x + self.dropout(convolved)
        x = x + 0.5 * self.dropout(self.feed_forward(self.norm_ff(x), mask, top_k, router))
        return self.norm_final(x), window, extended


class TransformerBlock(nn.Module):
    """A pre-norm Transformer block: self-attention and a feed-forward layer, each after a norm."""

    def __init__(self, config: EncoderConfig, position: str) -> None:
        super().__init__()
        dim = config.dim
        self.norm_mha = LayerNorm(dim)
        self.self_attn = EncoderAttention(dim, config.num_heads, config.attention_dropout, position)
        self.norm_ff = LayerNorm(dim)
        self.feed_forward = build_feed_forward(dim, config.feed_forward, config.hidden_dropout)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        bias: Tensor,
        positions: tuple[Tensor, ...],
        att_cache: Tensor | None,
        cnn_cache: Tensor | None,
        top_k: Tensor | None = None,
        router: Router | None = None,
    ) -> tuple[Tensor, Tensor, None]:
        """Process frames like `ConformerBlock.forward`. Without a convolution, the last value is None."""
        attended, window = self.self_attn.encode(self.norm_mha(x), att_cache, bias, positions)
        x = x + self.dropout(attended)
        x = x + self.dropout(self.feed_forward(self.norm_ff(x), mask, top_k, router))
        return x, window, None


ENCODER_BLOCKS = (ConformerBlock, TransformerBlock)
