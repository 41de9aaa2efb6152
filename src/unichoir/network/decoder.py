"""The left-to-right and right-to-left Transformer decoders."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from unichoir.network.attention import KeysValues, MultiHeadAttention, sinusoids
from unichoir.network.config import DecoderConfig
from unichoir.network.dropout import Dropout
from unichoir.network.masks import attention_bias, frame_mask
from unichoir.network.moe import build_feed_forward, build_shared_router
from unichoir.network.normalization import LayerNorm
from unichoir.network.router import Router


@dataclass(frozen=True)
class TokenTree:
    """The structure of the new tokens of a row that holds several hypotheses with shared prefixes."""

    positions: Tensor
    """Number of tokens before each new token: (B, U) int64."""
    visible: Tensor
    """Which of P past tokens and the new ones each new token sees, itself included: (B, U, P + U) bool."""


class DecoderBlock(nn.Module):
    """Self-attention, attention to the encoder and a feed-forward layer, each after a norm (pre-norm Transformer)."""

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
        memory: Tensor | KeysValues,
        memory_bias: Tensor,
        top_k: Tensor | None = None,
        router: Router | None = None,
    ) -> Tensor:
        """Process x (B, U, D). bias: added to the scores of self-attention, (B, 1, U, U). Returns (B, U, D)."""
        # Keys and values are not returned: FSDP2, which wraps this function, rejects views among results.
        x, _ = self.step(x, mask, bias, memory, memory_bias, top_k, router)
        return x

    def step(
        self,
        x: Tensor,
        mask: Tensor,
        bias: Tensor,
        memory: Tensor | KeysValues,
        memory_bias: Tensor,
        top_k: Tensor | None = None,
        router: Router | None = None,
        past: KeysValues | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """Process new tokens after P past tokens. past: keys and values of the past tokens; bias: (B, 1, U, P + U).

        Returns the output (B, U, D), and the keys and values of the new tokens.
        """
        normed = self.norm1(x)
        keys, values = new = self.self_attn.keys_values(normed)
        if past is not None:
            keys, values = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
        x = x + self.dropout(self.self_attn(normed, (keys, values), bias))
        x = x + self.dropout(self.src_attn(self.norm2(x), memory, memory_bias))
        x = x + self.dropout(self.feed_forward(self.norm3(x), mask, top_k, router))
        return x, new


class TransformerDecoder(nn.Module):
    """A decoder that maps the previous tokens and the encoder's output to logits of the next token."""

    def __init__(self, vocab_size: int, dim: int, num_blocks: int, config: DecoderConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
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
        top_k: Tensor | None = None,
    ) -> Tensor:
        """Return logits (B, U, V). memory: (B or 1, T, D) encoder_out with its lengths; tokens_in: (B, U), sos first.

        Logits at place u only depend on tokens 0..u, so tokens after `token_lens` (B,) don't affect earlier places.
        top_k: (1,) int64, the number of experts per token, if lower than configured.
        """
        num_tokens = tokens_in.shape[1]
        mask = frame_mask(token_lens, num_tokens)
        place = torch.arange(num_tokens, device=tokens_in.device)
        x = self._embed(tokens_in, place)
        bias = attention_bias(((place <= place.unsqueeze(1)) & mask.unsqueeze(1)).unsqueeze(1))
        memory_bias = attention_bias(frame_mask(memory_lens, memory.shape[1])[:, None, None, :])
        for block in self.blocks:
            x = block(x, mask, bias, memory, memory_bias, top_k, self.router)
        return self._logits(x)

    def read(self, encoder_out: Tensor) -> list[KeysValues]:
        """Return the keys and values (1, H, T, head_dim) of encoder_out (1, T, D) for every block."""
        return [block.src_attn.keys_values(encoder_out) for block in self._blocks]

    def step(
        self,
        memory: Sequence[KeysValues],
        tokens: Tensor,
        tree: TokenTree,
        past: Tensor,
        top_k: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Continue `forward` with more tokens, without recomputing the previous ones.

        memory: the result of `read`; tokens: (1, U), with their structure `tree`; past: (1, P, blocks, 2 D), what this
        function returned for the P previous tokens. Returns logits (1, U, V), and the keys and values of the new tokens
        in all blocks (1, U, blocks, 2 D).
        """
        x = self._embed(tokens, tree.positions)
        mask, bias = torch.ones_like(tokens, dtype=torch.bool), attention_bias(tree.visible.unsqueeze(1))
        # The mask is as long as the memory because fused attention on GPUs doesn't broadcast a mask of length 1.
        memory_bias = bias.new_zeros(1, 1, 1, memory[0][0].shape[2])
        states = []
        for number, block in enumerate(self._blocks):
            before = _split_heads(past[:, :, number], self.num_heads)
            x, new = block.step(x, mask, bias, memory[number], memory_bias, top_k, self.router, before)
            states.append(_join_heads(new))
        return self._logits(x), torch.stack(states, dim=2)

    @property
    def _blocks(self) -> Iterable[DecoderBlock]:
        return cast(Iterable[DecoderBlock], self.blocks)

    def _embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        dim = self.embedding.embedding_dim
        x: Tensor = self.dropout(self.embedding(tokens) * dim**0.5 + self._positions(positions, dim))
        return x

    def _logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.output_layer(self.after_norm(x))
        return logits

    def _positions(self, places: Tensor, dim: int) -> Tensor:
        """Return vectors (..., D) for positions (...)."""
        if self.position_embedding is None:
            return sinusoids(places, dim)
        vectors: Tensor = self.position_embedding(places.clamp(max=self.position_embedding.num_embeddings - 1))
        return vectors


def _split_heads(states: Tensor, num_heads: int) -> KeysValues:
    """Split (B, P, 2 D) into keys and values, each (B, H, P, head_dim)."""
    batch, places, width = states.shape
    both = states.reshape(batch, places, 2 * num_heads, width // (2 * num_heads)).transpose(1, 2)
    keys, values = both.chunk(2, dim=1)
    return keys, values


def _join_heads(both: KeysValues) -> Tensor:
    """Invert `_split_heads`."""
    return torch.cat(both, dim=1).transpose(1, 2).flatten(2)
