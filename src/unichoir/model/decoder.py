"""The two Transformer decoders, left to right and right to left."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unichoir.model.attention import MultiHeadAttention, sinusoids
from unichoir.model.config import DecoderConfig
from unichoir.model.dropout import Dropout
from unichoir.model.masks import attention_bias, frame_mask
from unichoir.model.moe import Router, build_feed_forward, build_shared_router
from unichoir.model.normalization import LayerNorm


@dataclass(frozen=True)
class TokenTree:
    """How the tokens of a row follow each other when they are several hypotheses, shared beginnings there once."""

    positions: Tensor
    """How many tokens come before each: (B, U) int64."""
    visible: Tensor
    """Which tokens come before each, and itself: (B, U, U) bool, True where u sees v."""


class DecoderBlock(nn.Module):
    """Self-attention, attention to the encoder, feed-forward layer, each after a norm (pre-norm Transformer)."""

    def __init__(self, dim: int, config: DecoderConfig) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.self_attn = MultiHeadAttention(dim, config.num_heads, config.attention_dropout)
        self.norm2 = LayerNorm(dim)
        self.src_attn = MultiHeadAttention(dim, config.num_heads, config.attention_dropout)
        self.norm3 = LayerNorm(dim)
        self.feed_forward = build_feed_forward(dim, config.feed_forward, config.hidden_dropout)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        bias: Tensor,
        memory: Tensor,
        memory_bias: Tensor,
        top_k: Tensor | None = None,
        router: Router | None = None,
    ) -> Tensor:
        normed = self.norm1(x)
        x = x + self.dropout(self.self_attn(normed, normed, bias))
        x = x + self.dropout(self.src_attn(self.norm2(x), memory, memory_bias))
        x = x + self.dropout(self.feed_forward(self.norm3(x), mask, top_k, router))
        return x


class TransformerDecoder(nn.Module):
    """Tokens so far and the encoder's output to logits of the next token."""

    def __init__(self, vocab_size: int, dim: int, num_blocks: int, config: DecoderConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, dim)
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)
        learned = config.position == "learned"
        self.position_embedding = nn.Embedding(config.num_positions, dim) if learned else None
        if self.position_embedding is not None:
            nn.init.normal_(self.position_embedding.weight, std=0.02)
        self.dropout = Dropout(config.dropout)
        self.router = build_shared_router(dim, config.feed_forward)
        self.blocks = nn.ModuleList(DecoderBlock(dim, config) for _ in range(num_blocks))
        self.after_norm = LayerNorm(dim)
        self.output_layer = nn.Linear(dim, vocab_size)

    def forward(
        self,
        memory: Tensor,
        memory_lens: Tensor,
        tokens_in: Tensor,
        token_lens: Tensor,
        tree: TokenTree | None = None,
        top_k: Tensor | None = None,
    ) -> Tensor:
        """memory: (B or 1, T, D) encoder_out with its lengths; tokens_in: (B, U), sos first. Returns logits (B, U, V).

        Logits at place u depend on tokens 0..u only, or on those that u sees in the tree, so what stands past
        `token_lens` (B,) changes nothing before it. top_k: (1,) int64, experts of a token if fewer than configured.
        """
        num_tokens, dim = tokens_in.shape[1], memory.shape[2]
        mask = frame_mask(token_lens, num_tokens)
        place = torch.arange(num_tokens, device=tokens_in.device)
        positions, visible = (place, place <= place.unsqueeze(1)) if tree is None else (tree.positions, tree.visible)
        x = self.dropout(self.embedding(tokens_in) * dim**0.5 + self._positions(positions, dim))
        bias = attention_bias((visible & mask.unsqueeze(1)).unsqueeze(1))
        memory_bias = attention_bias(frame_mask(memory_lens, memory.shape[1])[:, None, None, :])
        for block in self.blocks:
            x = block(x, mask, bias, memory, memory_bias, top_k, self.router)
        logits: Tensor = self.output_layer(self.after_norm(x))
        return logits

    def _positions(self, places: Tensor, dim: int) -> Tensor:
        """Numbers of tokens before each (...) to vectors (..., D)."""
        if self.position_embedding is None:
            return sinusoids(places, dim)
        vectors: Tensor = self.position_embedding(places.clamp(max=self.position_embedding.num_embeddings - 1))
        return vectors
