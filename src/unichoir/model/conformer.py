"""The Conformer encoder: one `forward` for whole utterances, for training under a chunk mask and for streaming."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unichoir.model.attention import EncoderAttention, rotation, sinusoids
from unichoir.model.config import EncoderConfig
from unichoir.model.convolution import ConvolutionModule
from unichoir.model.dropout import Dropout
from unichoir.model.masks import ChunkMask, attention_bias, chunk_mask, frame_mask
from unichoir.model.moe import Router, build_feed_forward, build_shared_router
from unichoir.model.normalization import LayerNorm
from unichoir.model.subsampling import Conv2dSubsampling4, subsampled_length


@dataclass(frozen=True)
class EncoderState:
    """What streaming carries from chunk to chunk: a value, one row per stream, rows at different positions."""

    att_cache: tuple[Tensor, ...]
    """Keys and values of past frames, the newest last, of each block: (B, H, W, 2 * head_dim)."""
    att_cache_lens: Tensor
    """How many of the W places of a row are filled, from the right: (B,) int64."""
    cnn_cache: tuple[Tensor, ...]
    """The convolution's past of each block: (B, kernel - 1, D)."""
    offset: Tensor
    """Encoder frames seen so far: (B,) int64."""

    @property
    def num_past(self) -> int:
        """W: places for past frames."""
        return self.att_cache[0].shape[2]


class ConformerBlock(nn.Module):
    """Half a feed-forward layer, self-attention, convolution, the other half, norm (Conformer, section 2.4)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        dim = config.dim
        self.norm_ff_macaron = LayerNorm(dim)
        self.feed_forward_macaron = build_feed_forward(dim, config.feed_forward, config.hidden_dropout)
        self.norm_mha = LayerNorm(dim)
        self.self_attn = EncoderAttention(dim, config.num_heads, config.attention_dropout, config.position)
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
        """x: (B, T, D); mask: (B, T). Returns the output, keys and values in view, the convolution's input in view."""
        x = x + 0.5 * self.dropout(self.feed_forward_macaron(self.norm_ff_macaron(x), mask, top_k, router))
        attended, window = self.self_attn.encode(self.norm_mha(x), att_cache, bias, positions)
        x = x + self.dropout(attended)
        convolved, extended = self.conv_module(self.norm_conv(x), mask, cnn_cache)
        x = x + self.dropout(convolved)
        x = x + 0.5 * self.dropout(self.feed_forward(self.norm_ff(x), mask, top_k, router))
        return self.norm_final(x), window, extended


class ConformerEncoder(nn.Module):
    """Global mean and variance normalisation, subsampling by 4, Conformer blocks."""

    cmvn_mean: Tensor
    cmvn_istd: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("cmvn_mean", torch.zeros(config.input_dim))
        self.register_buffer("cmvn_istd", torch.ones(config.input_dim))
        self.subsampling = Conv2dSubsampling4(config.input_dim, config.dim, config.subsampling_channels or config.dim)
        self.dropout = Dropout(config.dropout)
        self.router = build_shared_router(config.dim, config.feed_forward)
        self.blocks = nn.ModuleList(ConformerBlock(config) for _ in range(config.num_blocks))
        self.after_norm = LayerNorm(config.dim)

    def initial_state(self, batch_size: int) -> EncoderState:
        """The state before the first chunk of `batch_size` streams."""
        config, like = self.config, self.after_norm.weight
        heads, blocks = config.num_heads, range(config.num_blocks)
        return EncoderState(
            att_cache=tuple(like.new_zeros(batch_size, heads, 0, 2 * (config.dim // heads)) for _ in blocks),
            att_cache_lens=torch.zeros(batch_size, dtype=torch.int64, device=like.device),
            cnn_cache=tuple(like.new_zeros(batch_size, config.conv_kernel - 1, config.dim) for _ in blocks),
            offset=torch.zeros(batch_size, dtype=torch.int64, device=like.device),
        )

    def forward(
        self,
        feats: Tensor,
        feats_lengths: Tensor,
        state: EncoderState | None = None,
        chunk: ChunkMask | None = None,
        top_k: Tensor | None = None,
        kept: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, EncoderState | None]:
        """Encode log-mel frames (B, T, M), of which the first `feats_lengths` (B,) of a row are real.

        state None: whole utterances, attending freely or, given `chunk`, within chunks. With a state: the next frames
        of each stream, attending to each other and to all the state holds; consecutive calls overlap by 3 input
        frames (`RIGHT_CONTEXT`). Calling chunk by chunk equals one call with the same `chunk` mask, to float rounding.
        kept: (W',) int64, which of the frames in view, W old ones and T' new ones, the next state holds (None: all):
        what bounds memory, see `places_kept`. top_k: (1,) int64, experts of a frame if fewer than configured.

        Returns encoder_out (B, T', D), its lengths (B,) and the next state (None without a state).
        Raises ValueError when both a state and a chunk are given, and for streaming through a non-causal convolution.
        """
        if state is not None and (chunk is not None or not self.config.conv_causal):
            raise ValueError("streaming needs a causal convolution, and attends by its state, not by a chunk mask")
        x = self.subsampling((feats - self.cmvn_mean) * self.cmvn_istd)
        lens = subsampled_length(feats_lengths)
        mask = frame_mask(lens, x.shape[1])
        positions = self._positions(x, state)
        if self.config.position == "absolute_key":
            x = x * self.config.dim**0.5
            positions = (self.dropout(positions[0]),)
        x = self.dropout(x)
        bias = attention_bias(self._visible(mask, state, chunk))
        advance = None if state is None else _Advance.of(state, lens, x.shape[1], kept)
        att_caches, cnn_caches = [], []
        for i, block in enumerate(self.blocks):
            att_cache, cnn_cache = (state.att_cache[i], state.cnn_cache[i]) if state is not None else (None, None)
            x, window, extended = block(x, mask, bias, positions, att_cache, cnn_cache, top_k, self.router)
            if advance is not None and extended is not None:
                att_caches.append(advance.att_cache(window))
                cnn_caches.append(advance.cnn_cache(extended))
        next_state = advance.state(tuple(att_caches), tuple(cnn_caches)) if advance is not None else None
        return self.after_norm(x), lens, next_state

    def _positions(self, x: Tensor, state: EncoderState | None) -> tuple[Tensor, ...]:
        past = 0 if state is None else state.num_past
        if self.config.position == "rotary":
            return rotation(past + x.shape[1], self.config.dim // self.config.num_heads, x.device)
        places = torch.arange(past + x.shape[1], device=x.device).unsqueeze(0)
        if state is not None:
            places = places + (state.offset - past).unsqueeze(1)
        return (sinusoids(places, self.config.dim),)

    def _visible(self, mask: Tensor, state: EncoderState | None, chunk: ChunkMask | None) -> Tensor:
        """Which keys each query may see: broadcastable to (B, 1, T, W + T)."""
        visible = mask[:, None, None, :]
        if chunk is not None:
            visible = visible & chunk_mask(mask.shape[1], chunk, mask.device)
        if state is not None:
            past = state.num_past
            filled = torch.arange(past, device=mask.device) >= (past - state.att_cache_lens).unsqueeze(1)
            visible = torch.cat([filled[:, None, None, :], visible], dim=3)
        return visible


def places_kept(num_past: int, num_new: int, num_left_frames: int) -> range:
    """Which of the frames in view the next state has to hold so that at most `num_left_frames` are seen (-1: all)."""
    width = num_past + num_new
    return range(max(width - num_left_frames, 0) if num_left_frames >= 0 else 0, width)


@dataclass(frozen=True)
class _Advance:
    """From one state to the next. Rows may have fewer new frames than others: each is moved so that its newest frame
    is last. Frames are copied whole by their number: a gather would need an index for every single value."""

    place_BW: Tensor
    """Of each row the places in view of what its next cache holds."""
    place_BK: Tensor
    """The same of the convolutions' input in view."""
    att_cache_lens: Tensor
    offset: Tensor

    @classmethod
    def of(cls, state: EncoderState, lens: Tensor, num_new: int, kept: Tensor | None) -> "_Advance":
        width = state.num_past + num_new
        if kept is None:
            kept = torch.arange(width, device=lens.device)
        shift = num_new - lens
        return cls(
            place_BW=(kept - shift.unsqueeze(1)).clamp(min=0),
            place_BK=torch.arange(state.cnn_cache[0].shape[1], device=lens.device) + lens.unsqueeze(1),
            att_cache_lens=(state.att_cache_lens + lens).clamp(max=kept.shape[0]),
            offset=state.offset + lens,
        )

    def att_cache(self, window: Tensor) -> Tensor:
        """(B, H, W + T, 2 * head_dim) to (B, H, W', 2 * head_dim)."""
        batch, heads, width, _ = window.shape
        row = torch.arange(batch * heads, device=window.device).reshape(batch, heads, 1) * width
        return _take_rows(window, row + self.place_BW.unsqueeze(1))

    def cnn_cache(self, extended: Tensor) -> Tensor:
        """(B, kernel - 1 + T, D) to (B, kernel - 1, D)."""
        row = torch.arange(extended.shape[0], device=extended.device).unsqueeze(1) * extended.shape[1]
        return _take_rows(extended, row + self.place_BK)

    def state(self, att_cache: tuple[Tensor, ...], cnn_cache: tuple[Tensor, ...]) -> EncoderState:
        """The next state of these caches."""
        return EncoderState(att_cache, self.att_cache_lens, cnn_cache, self.offset)


def _take_rows(x: Tensor, row: Tensor) -> Tensor:
    """Rows (..., D) of x by their number among all rows."""
    return x.flatten(0, -2).index_select(0, row.flatten()).reshape(*row.shape, x.shape[-1])
