"""The two Transformer decoders, left to right and right to left."""

import torch
from torch import Tensor, nn

from unichoir.model.attention import MultiHeadAttention, sinusoids
from unichoir.model.config import DecoderConfig
from unichoir.model.dropout import Dropout
from unichoir.model.feed_forward import build_feed_forward
from unichoir.model.masks import attention_bias, frame_mask


class DecoderBlock(nn.Module):
    """Self-attention, attention to the encoder, feed-forward layer, each after a norm (pre-norm Transformer)."""

    def __init__(self, dim: int, config: DecoderConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.self_attn = MultiHeadAttention(dim, config.num_heads, config.attention_dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.src_attn = MultiHeadAttention(dim, config.num_heads, config.attention_dropout)
        self.norm3 = nn.LayerNorm(dim)
        self.feed_forward = build_feed_forward(dim, config.feed_forward, config.hidden_dropout)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor, causal_bias: Tensor, memory: Tensor, memory_bias: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = x + self.dropout(self.self_attn(normed, normed, causal_bias))
        x = x + self.dropout(self.src_attn(self.norm2(x), memory, memory_bias))
        x = x + self.dropout(self.feed_forward(self.norm3(x), mask))
        return x


class TransformerDecoder(nn.Module):
    """Tokens so far and the encoder's output to logits of the next token."""

    def __init__(self, vocab_size: int, dim: int, num_blocks: int, config: DecoderConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, dim)
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(DecoderBlock(dim, config) for _ in range(num_blocks))
        self.after_norm = nn.LayerNorm(dim)
        self.output_layer = nn.Linear(dim, vocab_size)

    def forward(self, memory: Tensor, memory_lens: Tensor, tokens_in: Tensor, token_lens: Tensor) -> Tensor:
        """memory: (B or 1, T, D) encoder_out with its lengths; tokens_in: (B, U), sos first. Returns logits (B, U, V).

        Logits at place u depend on tokens 0..u only, so what stands past `token_lens` (B,) changes nothing before it.
        """
        num_tokens, dim = tokens_in.shape[1], memory.shape[2]
        place = torch.arange(num_tokens, device=tokens_in.device)
        x = self.dropout(self.embedding(tokens_in) * dim**0.5 + sinusoids(place, dim))
        mask = frame_mask(token_lens, num_tokens)
        causal_bias = attention_bias((place <= place.unsqueeze(1)) & mask[:, None, None, :])
        memory_bias = attention_bias(frame_mask(memory_lens, memory.shape[1])[:, None, None, :])
        for block in self.blocks:
            x = block(x, mask, causal_bias, memory, memory_bias)
        logits: Tensor = self.output_layer(self.after_norm(x))
        return logits
