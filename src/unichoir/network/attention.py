"""Multi-head attention between the encoder's frames (with a cache for streaming) and from the decoders to the encoder.

Attention knows two kinds of positions. `rotary` rotates queries and keys by angles proportional to their
positions. The scores only depend on distances, so positions are counted from the oldest visible key and audio may have
any length. `absolute_key` is WeNet's `rel_pos` (without a shift): a learned map of the key's absolute sinusoidal
position. The encoder's other positions are added to the frames before the first block; attention doesn't use them.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def sinusoids(positions: Tensor, dim: int) -> Tensor:
    """Return interleaved sines and cosines (..., dim) for positions (...) of any size (Transformer, section 3.5)."""
    rates = torch.exp(
        torch.arange(0, dim, 2, dtype=torch.float32, device=positions.device) * -(math.log(10000.0) / dim)
    )
    angles = positions.to(torch.float32).unsqueeze(-1) * rates
    return torch.stack([torch.sin(angles), torch.cos(angles)], dim=-1).flatten(-2)


def whisper_sinusoids(num_positions: int, dim: int) -> Tensor:
    """Return Whisper's fixed positions (num_positions, dim): all sines, then all cosines, the last rate 1 / 10000."""
    half = dim // 2
    rates = torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10000.0) / max(half - 1, 1)))
    angles = torch.arange(num_positions, dtype=torch.float32).unsqueeze(1) * rates
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)


def rotation(num_positions: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines (num_positions, head_dim / 2) of the rotary angles (RoFormer, equation 15)."""
    rates = 10000.0 ** (-torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)
    angles = torch.arange(num_positions, dtype=torch.float32, device=device).unsqueeze(1) * rates
    return torch.cos(angles), torch.sin(angles)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (x[i], x[i + half]) of (B, H, T, head_dim) by the angle of its position."""
    if torch.compiler.is_exporting():
        turned: Tensor = torch.ops.unichoir.rotate(x, cos, sin)
        return turned
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


@torch.library.custom_op("unichoir::rotate", mutates_args=())
def _rotate_for_export(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`rotate` as one node of an exported graph. `export/operators.py` translates it to ONNX."""
    raise RuntimeError("unichoir::rotate stands for rotary positions in exported graphs only")


@_rotate_for_export.register_fake
def _(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.empty_like(x)


def _heads(x: Tensor, num_heads: int) -> Tensor:
    return x.reshape(x.shape[0], x.shape[1], num_heads, x.shape[2] // num_heads).transpose(1, 2)


KeysValues = tuple[Tensor, Tensor]
"""Keys and values of attention, each (B, H, S, head_dim)."""


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention over several heads, from queries (B, T, D) to a memory (B or 1, S, D)."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.linear_q = nn.Linear(dim, dim)
        self.linear_k = nn.Linear(dim, dim)
        self.linear_v = nn.Linear(dim, dim)
        self.linear_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, memory: Tensor | KeysValues, bias: Tensor) -> Tensor:
        """Attend from x (B, T, D) to `memory`. Returns (B, T, D).

        memory: (B or 1, S, D), or its result from `keys_values`; bias: added to the scores, broadcastable to (B, H, T,
        S) (see `masks.attention_bias`).
        """
        q = _heads(self.linear_q(x), self.num_heads)
        k, v = self.keys_values(memory) if isinstance(memory, Tensor) else memory
        if k.shape[0] != q.shape[0]:  # many hypotheses share one utterance's keys and values
            k, v = k.expand(q.shape[0], -1, -1, -1), v.expand(q.shape[0], -1, -1, -1)
        return self.attend(q, k, v, bias)

    def keys_values(self, memory: Tensor) -> KeysValues:
        """Return the keys and values of a memory (B, S, D), each (B, H, S, head_dim)."""
        return _heads(self.linear_k(memory), self.num_heads), _heads(self.linear_v(memory), self.num_heads)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """Attend from q (B, H, T, head_dim) to k and v (B, H, S, head_dim). Returns (B, T, D)."""
        dropout = self.dropout if self.training else 0.0
        if q.is_cuda:
            y = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), dropout_p=dropout)
        else:
            # Explicit operations train faster on CPUs than the fused kernel (docs/results/training.md).
            scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(2, 3) + bias.to(q.dtype)
            y = functional.dropout(torch.softmax(scores, dim=-1), dropout, self.training) @ v
        out: Tensor = self.linear_out(y.transpose(1, 2).flatten(2))
        return out


class EncoderAttention(MultiHeadAttention):
    """Self-attention over cached and new frames. The cache holds concatenated keys and values without positions."""

    def __init__(self, dim: int, num_heads: int, dropout: float, position: str) -> None:
        super().__init__(dim, num_heads, dropout)
        self.position = position
        if position == "absolute_key":
            self.linear_pos = nn.Linear(dim, dim, bias=False)
            self.pos_bias_u = nn.Parameter(torch.empty(num_heads, dim // num_heads))
            self.pos_bias_v = nn.Parameter(torch.empty(num_heads, dim // num_heads))
            nn.init.xavier_uniform_(self.pos_bias_u)
            nn.init.xavier_uniform_(self.pos_bias_v)

    def encode(
        self, x: Tensor, cache: Tensor | None, bias: Tensor, positions: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """Attend from the new frames to the cached and the new frames.

        x: (B, T, D); cache: (B, H, W, 2 * head_dim) or None; bias: broadcastable to (B, 1, T, W + T); positions: (cos,
        sin) of W + T places for `rotary`, (sinusoids (B or 1, W + T, D),) for `absolute_key`, otherwise an empty
        tuple.
        Returns the output (B, T, D) and the visible keys and values (B, H, W + T, 2 * head_dim).
        """
        q, k, v = (_heads(linear(x), self.num_heads) for linear in (self.linear_q, self.linear_k, self.linear_v))
        window = torch.cat([k, v], dim=-1)
        if cache is not None:
            window = torch.cat([cache.to(window.dtype), window], dim=2)
            k, v = window.chunk(2, dim=-1)
        if self.position == "rotary":
            cos, sin = positions
            new = cos.shape[0] - q.shape[2]
            q, k = rotate(q, cos[new:], sin[new:]), rotate(k, cos, sin)
        elif self.position == "absolute_key":
            p = _heads(self.linear_pos(positions[0]), self.num_heads)
            by_position = (q + self.pos_bias_v.unsqueeze(1)) @ p.transpose(2, 3) / math.sqrt(q.shape[-1])
            q, bias = q + self.pos_bias_u.unsqueeze(1), bias + by_position
        return self.attend(q, k, v, bias), window
