"""The encoder, with one `forward` for complete utterances, chunked training and streaming."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from unichoir.network.attention import rotation, sinusoids, whisper_sinusoids
from unichoir.network.blocks import ConformerBlock, TransformerBlock
from unichoir.network.config import EncoderConfig
from unichoir.network.dropout import Dropout
from unichoir.network.masks import ChunkMask, attention_bias, chunk_mask, frame_mask
from unichoir.network.moe import build_shared_router
from unichoir.network.normalization import LayerNorm
from unichoir.network.subsampling import build_front, subsampled_length


@dataclass(frozen=True)
class EncoderState:
    """The immutable state that streaming carries from chunk to chunk: one row per stream, each at its own position."""

    att_cache: tuple[Tensor, ...]
    """Keys and values of past frames, the newest last, for each block, the top blocks last: (B, H, W, 2 * head_dim).
    Blocks below merged frames have (B, H, 2 W, 2 * head_dim)."""
    att_cache_lens: Tensor
    """How many of the W places of a row are filled, counted from the right: (B,) int64."""
    cnn_cache: tuple[Tensor, ...]
    """Past input of the convolution in each Conformer block: (B, kernel - 1, D)."""
    offset: Tensor
    """Number of encoder frames processed so far: (B,) int64."""

    @property
    def num_past(self) -> int:
        """W, the number of places for past encoder frames."""
        return self.att_cache[-1].shape[2]


class MergePairs(nn.Module):
    """Merges pairs of frames, both as their mean and by a linear layer that is initialised to the mean."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = LayerNorm(dim)
        self.linear = nn.Linear(2 * dim, dim)
        with torch.no_grad():
            self.linear.weight.copy_(torch.eye(dim).repeat(1, 2) / 2)
            self.linear.bias.zero_()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normalised means (B, T, D) and the learned merged frames (B, T, D) of x (B, 2 T, D)."""
        batch, frames, dim = x.shape
        pairs = self.norm(x).reshape(batch, frames // 2, 2 * dim)
        first, second = pairs.chunk(2, dim=2)
        return (first + second) / 2, self.linear(pairs)


class Encoder(nn.Module):
    """Mean and variance normalisation, front end, blocks, and optional top blocks on merged pairs of frames."""

    cmvn_mean: Tensor
    cmvn_istd: Tensor
    sinusoids: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("cmvn_mean", torch.zeros(config.input_dim))
        self.register_buffer("cmvn_istd", torch.ones(config.input_dim))
        self.subsampling = build_front(config)
        if config.position == "sinusoidal":
            table = whisper_sinusoids(config.num_positions, config.dim)
            self.register_buffer("sinusoids", table, persistent=False)
        self.dropout = Dropout(config.dropout)
        self.router = build_shared_router(config.dim, config.feed_forward)
        block = ConformerBlock if config.block == "conformer" else TransformerBlock
        self.blocks = nn.ModuleList(block(config, config.position) for _ in range(config.num_blocks))
        self.merge = MergePairs(config.dim) if config.num_top_blocks else None
        self.top_blocks = nn.ModuleList(ConformerBlock(config, "rotary") for _ in range(config.num_top_blocks))
        self.after_norm = LayerNorm(config.dim)

    @property
    def num_caches(self) -> tuple[int, int]:
        """How many blocks have keys and values in a state, and how many have a past of a convolution."""
        blocks = [*self.blocks, *self.top_blocks]
        return len(blocks), sum(isinstance(block, ConformerBlock) for block in blocks)

    def initial_state(self, batch_size: int) -> EncoderState:
        """Return the state before the first chunk of `batch_size` streams."""
        config, like = self.config, self.after_norm.weight
        blocks = [*self.blocks, *self.top_blocks]
        keys_and_values = like.new_zeros(batch_size, config.num_heads, 0, 2 * (config.dim // config.num_heads))
        convolved = like.new_zeros(batch_size, config.conv_kernel - 1, config.dim)
        return EncoderState(
            att_cache=tuple(keys_and_values.clone() for _ in blocks),
            att_cache_lens=torch.zeros(batch_size, dtype=torch.int64, device=like.device),
            cnn_cache=tuple(convolved.clone() for block in blocks if isinstance(block, ConformerBlock)),
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

        state: None encodes complete utterances with full attention or, given `chunk`, attention within chunks. With a
        state, x holds the next frames of each stream, which attend to each other and to all frames in the state.
        Successive calls start `subsampling_rate` input frames apart for each encoder frame of the earlier call.
        Encoding chunk by chunk equals one call with the same `chunk` mask, to float rounding.
        kept: (W',) int64, which of the W old and T' new frames the next state holds (None: all); this bounds memory,
        see `places_kept`. top_k: (1,) int64, the number of experts per frame, if lower than configured.

        Returns encoder_out (B, T', D), its lengths (B,) and the next state (None without a state).
        Raises ValueError if both a state and a chunk are given, and for streaming with a non-causal convolution.
        """
        if state is not None and (chunk is not None or not self.config.conv_causal):
            raise ValueError(
                "streaming requires a causal convolution, and a state cannot be combined with a chunk mask"
            )
        x = self.subsampling((feats - self.cmvn_mean) * self.cmvn_istd, None if state is None else state.offset == 0)
        times = self.config.frames_merged
        view = _View.of(subsampled_length(feats_lengths, self.config), x.shape[1] // times, state, chunk, kept)
        lower = view if times == 1 else view.finer(times)
        x, positions = self._enter(x[:, : lower.num_new], lower)
        caches = _Caches(state)
        x = self._through(self.blocks, x, lower, positions, caches, top_k)
        if self.merge is None:
            x = self.after_norm(x)
        else:
            mean, merged = self.merge(x)
            on_top = self._through(self.top_blocks, merged, view, self._rotation(view), caches, top_k)
            x = mean + self.after_norm(on_top)
        return x, view.lens, None if state is None else caches.next_state(view)

    def _through(
        self,
        blocks: Iterable[nn.Module],
        x: Tensor,
        view: "_View",
        positions: tuple[Tensor, ...],
        caches: "_Caches",
        top_k: Tensor | None,
    ) -> Tensor:
        """Pass the frames x (B, T, D) of `view` through a stack of blocks, using their caches in order."""
        for block in blocks:
            att_cache = caches.past_att()
            cnn_cache = caches.past_cnn() if isinstance(block, ConformerBlock) else None
            x, window, extended = block(x, view.mask, view.bias, positions, att_cache, cnn_cache, top_k, self.router)
            if att_cache is not None:
                caches.keep(view, window, extended)
        return x

    def _enter(self, x: Tensor, view: "_View") -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the input (B, T, D) of the first block and the positions for its attention."""
        config = self.config
        if config.position == "rotary":
            return self.dropout(x), self._rotation(view)
        if config.position == "none":
            return self.dropout(x), ()
        if config.position == "absolute_key":
            positions = sinusoids(view.places(view.num_past), config.dim)
            return self.dropout(x * config.dim**0.5), (self.dropout(positions),)
        if config.position == "absolute":
            return self.dropout(x * config.dim**0.5 + sinusoids(view.places(0), config.dim)), ()
        places = view.places(0)
        if self.training and self.learns_positions:
            places = places + self._random_starts(x.shape[0], x.device)
        places = torch.remainder(places, config.num_positions)
        added = self.sinusoids.index_select(0, places.flatten()).reshape(*places.shape, config.dim)
        return self.dropout(x + added), ()

    @property
    def learns_positions(self) -> bool:
        """Whether the blocks that use positions are trained. Frozen blocks must not see unknown positions."""
        return any(parameter.requires_grad for parameter in self.blocks.parameters())

    def _random_starts(self, batch_size: int, device: torch.device) -> Tensor:
        """Return the position of the first frame in training (B, 1); it is 0 in half of the rows."""
        starts = torch.randint(self.config.num_positions, (batch_size, 1), device=device)
        return starts * torch.randint(2, (batch_size, 1), device=device)

    def _rotation(self, view: "_View") -> tuple[Tensor, Tensor]:
        head_dim = self.config.dim // self.config.num_heads
        return rotation(view.num_past + view.num_new, head_dim, view.lens.device)


def places_kept(num_past: int, num_new: int, num_left_frames: int) -> range:
    """Return the visible frames that the next state holds to limit the past to `num_left_frames` (-1: unlimited)."""
    width = num_past + num_new
    return range(max(width - num_left_frames, 0) if num_left_frames >= 0 else 0, width)


@dataclass(frozen=True)
class _View:
    """The frames that one stack of blocks sees in one call: W past and T new ones, at the frame rate of the stack."""

    lens: Tensor
    """Number of real new frames in each row: (B,)."""
    num_new: int
    num_past: int
    past_lens: Tensor | None
    """Number of past frames in each row: (B,); None without a state."""
    offset: Tensor | None
    """Number of frames of each row before the new ones: (B,); None without a state."""
    chunk: ChunkMask | None
    kept: Tensor | None
    """Which of the W + T frames the next state holds: (W',); None without a state."""

    @classmethod
    def of(
        cls, lens: Tensor, num_new: int, state: EncoderState | None, chunk: ChunkMask | None, kept: Tensor | None
    ) -> "_View":
        """Return the view of the blocks that produce encoder frames."""
        if state is None:
            return cls(lens, num_new, 0, None, None, chunk, None)
        if kept is None:
            kept = torch.arange(state.num_past + num_new, device=lens.device)
        return cls(lens, num_new, state.num_past, state.att_cache_lens, state.offset, None, kept)

    def finer(self, times: int) -> "_View":
        """Return the same view for blocks with `times` as many frames."""
        kept, chunk, past_lens, offset = self.kept, self.chunk, self.past_lens, self.offset
        if kept is not None:
            kept = (kept.unsqueeze(1) * times + torch.arange(times, device=kept.device)).flatten()
        return _View(
            lens=self.lens * times,
            num_new=self.num_new * times,
            num_past=self.num_past * times,
            past_lens=None if past_lens is None else past_lens * times,
            offset=None if offset is None else offset * times,
            chunk=None if chunk is None else ChunkMask(chunk.size * times, chunk.num_left),
            kept=kept,
        )

    @cached_property
    def mask(self) -> Tensor:
        """Which of the new frames are real: (B, T) bool."""
        return frame_mask(self.lens, self.num_new)

    @cached_property
    def bias(self) -> Tensor:
        """Return the bias that limits attention to the keys each query may see, broadcastable to (B, 1, T, W + T)."""
        visible = self.mask[:, None, None, :]
        if self.chunk is not None:
            visible = visible & chunk_mask(self.num_new, self.chunk, self.lens.device)
        if self.past_lens is not None:
            place = torch.arange(self.num_past, device=self.lens.device)
            filled = place >= (self.num_past - self.past_lens).unsqueeze(1)
            visible = torch.cat([filled[:, None, None, :], visible], dim=3)
        return attention_bias(visible)

    def places(self, num_before: int) -> Tensor:
        """Return the stream positions (B or 1, num_before + T) of `num_before` past frames and the new ones."""
        places = torch.arange(num_before + self.num_new, device=self.lens.device).unsqueeze(0)
        return places if self.offset is None else places + (self.offset - num_before).unsqueeze(1)

    # The next two functions make the next state. Rows may have different numbers of new frames, so each is shifted to
    # put its newest frame last. Frames are copied whole by their number, because a gather would need an index for every
    # value.

    @cached_property
    def _kept_place_BW(self) -> Tensor:
        assert self.kept is not None
        return (self.kept - (self.num_new - self.lens).unsqueeze(1)).clamp(min=0)

    def att_cache(self, window: Tensor) -> Tensor:
        """Cut (B, H, W + T, 2 * head_dim) to (B, H, W', 2 * head_dim)."""
        batch, heads, width, _ = window.shape
        row = torch.arange(batch * heads, device=window.device).reshape(batch, heads, 1) * width
        return _take_rows(window, row + self._kept_place_BW.unsqueeze(1))

    def cnn_cache(self, extended: Tensor) -> Tensor:
        """Cut (B, kernel - 1 + T, D) to (B, kernel - 1, D)."""
        width = extended.shape[1]
        place_BK = torch.arange(width - self.num_new, device=extended.device) + self.lens.unsqueeze(1)
        row = torch.arange(extended.shape[0], device=extended.device).unsqueeze(1) * width
        return _take_rows(extended, row + place_BK)


class _Caches:
    """Hands the caches of a state to one block after the other and collects those of the next state."""

    def __init__(self, state: EncoderState | None) -> None:
        self._state = state
        self._past_att = iter(() if state is None else state.att_cache)
        self._past_cnn = iter(() if state is None else state.cnn_cache)
        self._att: list[Tensor] = []
        self._cnn: list[Tensor] = []

    def past_att(self) -> Tensor | None:
        """Return the keys and values of the next block."""
        return next(self._past_att, None)

    def past_cnn(self) -> Tensor | None:
        """Return the past of the next block's convolution."""
        return next(self._past_cnn, None)

    def keep(self, view: _View, window: Tensor, extended: Tensor | None) -> None:
        """Collect what a block saw."""
        self._att.append(view.att_cache(window))
        if extended is not None:
            self._cnn.append(view.cnn_cache(extended))

    def next_state(self, view: _View) -> EncoderState:
        """Return the next state. view: the view of the encoder frames, with a state."""
        assert self._state is not None
        assert view.kept is not None
        return EncoderState(
            att_cache=tuple(self._att),
            att_cache_lens=(self._state.att_cache_lens + view.lens).clamp(max=view.kept.shape[0]),
            cnn_cache=tuple(self._cnn),
            offset=self._state.offset + view.lens,
        )


def _take_rows(x: Tensor, row: Tensor) -> Tensor:
    """Take rows (..., D) of x by their number among all rows."""
    return x.flatten(0, -2).index_select(0, row.flatten()).reshape(*row.shape, x.shape[-1])
