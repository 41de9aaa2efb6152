"""The central claim: chunk by chunk equals the whole utterance under the same mask; rows do not see each other."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from unichoir.model.config import EncoderConfig, FeedForwardConfig
from unichoir.model.encoder import Encoder, EncoderState, places_kept
from unichoir.model.masks import ChunkMask, chunk_mask, draw_dynamic_chunk

CONFIG = EncoderConfig(
    input_dim=20,
    dim=16,
    num_blocks=3,
    num_heads=2,
    feed_forward=FeedForwardConfig(hidden_dim=12, num_experts=4, top_k=2),
    subsampling_channels=4,
    conv_kernel=5,
)
VARIANTS = {
    "moe-rotary": CONFIG,
    "moe-absolute-key": dataclasses.replace(CONFIG, position="absolute_key"),
    "dense-batch-norm-even-kernel": dataclasses.replace(
        CONFIG, feed_forward=FeedForwardConfig(hidden_dim=12), conv_norm="batch_norm", conv_kernel=4
    ),
    "top1-no-bias": dataclasses.replace(
        CONFIG, feed_forward=FeedForwardConfig(hidden_dim=12, num_experts=3, top_k=1, bias=False)
    ),
}


def build(config: EncoderConfig) -> Encoder:
    torch.manual_seed(3)
    encoder = Encoder(config).eval()
    encoder.cmvn_mean.normal_()
    encoder.cmvn_istd.uniform_(0.5, 2.0)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return encoder


@pytest.fixture(params=VARIANTS)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return build(VARIANTS[request.param])


def windows(num_frames: int, chunk_size: int) -> list[slice]:
    return [slice(start, start + 4 * (chunk_size - 1) + 7) for start in range(0, num_frames - 6, 4 * chunk_size)]


def places(state: EncoderState, num_frames: int, num_left_frames: int) -> torch.Tensor:
    """What the next state holds after so many feature frames more."""
    kept = places_kept(state.num_past, (num_frames - 3) // 4, num_left_frames)
    return torch.tensor(kept, dtype=torch.int64)


@torch.no_grad()
@pytest.mark.parametrize(("size", "left"), [(1, -1), (3, -1), (4, 2), (5, 0), (25, 1)])
def test_chunk_by_chunk_equals_the_whole_under_the_same_mask(encoder: Encoder, size: int, left: int) -> None:
    feats = torch.randn(2, 131, 20)
    whole, lens, none = encoder(feats, torch.tensor([131, 131]), chunk=ChunkMask(size, left))
    assert none is None
    state, outs = encoder.initial_state(2), []
    for window in windows(131, size):
        part = feats[:, window]
        kept = places(state, part.shape[1], left * size if left >= 0 else -1)
        out, _, state = encoder(part, torch.full((2,), part.shape[1]), state=state, kept=kept)
        outs.append(out)
    streamed = torch.cat(outs, dim=1)
    assert streamed.shape == whole.shape
    assert lens.tolist() == [32, 32]
    torch.testing.assert_close(streamed, whole, rtol=0, atol=2e-5)


def merge(states: list[EncoderState]) -> EncoderState:
    """Several streams' states as one batch: shorter pasts are filled up on the left."""
    width = max(state.num_past for state in states)

    def fill_up(cache: Tensor) -> Tensor:
        return torch.nn.functional.pad(cache, (0, 0, width - cache.shape[2], 0), value=7.0)

    return EncoderState(
        att_cache=tuple(
            torch.cat([*map(fill_up, caches)]) for caches in zip(*(s.att_cache for s in states), strict=True)
        ),
        att_cache_lens=torch.cat([state.att_cache_lens for state in states]),
        cnn_cache=tuple(torch.cat(caches) for caches in zip(*(s.cnn_cache for s in states), strict=True)),
        offset=torch.cat([state.offset for state in states]),
    )


@torch.no_grad()
def test_streams_at_different_positions_share_a_batch(encoder: Encoder) -> None:
    """Three streams, of which one is ahead, one new, one has fewer frames left than the others and one none."""
    pasts = [torch.randn(1, 4 * n + 3, 20) for n in (9, 2, 5)]
    nexts = [torch.randn(1, length, 20) for length in (23, 23, 11)]

    def run(feats: Tensor, state: EncoderState) -> tuple[Tensor, EncoderState]:
        out, _, state = encoder(feats, torch.tensor([feats.shape[1]]), state=state)
        return out, state

    states = [run(past, encoder.initial_state(1))[1] for past in pasts]
    alone = [run(feats, state) for feats, state in zip(nexts, states, strict=True)]
    batch = torch.full((4, 23, 20), 50.0)
    for row, feats in enumerate(nexts):
        batch[row, : feats.shape[1]] = feats
    merged = merge([*states, encoder.initial_state(1)])
    out, lens, after = encoder(batch, torch.tensor([23, 23, 11, 0]), state=merged)
    assert lens.tolist() == [5, 5, 2, 0]
    assert torch.isfinite(out).all()
    again = torch.randn(4, 15, 20)
    out_again, _, _ = encoder(again, torch.tensor([15] * 4), state=after)
    for row, (expected, state) in enumerate([*alone, (torch.zeros(1, 0, 16), encoder.initial_state(1))]):
        torch.testing.assert_close(out[row, : lens[row]], expected[0], rtol=0, atol=2e-5)
        torch.testing.assert_close(out_again[row : row + 1], run(again[row : row + 1], state)[0], rtol=0, atol=2e-5)


@torch.no_grad()
def test_a_neighbour_in_the_batch_changes_nothing(encoder: Encoder) -> None:
    feats = torch.randn(1, 60, 20)
    alone, _, _ = encoder(feats, torch.tensor([60]))
    batch = torch.cat([torch.nn.functional.pad(feats, (0, 0, 0, 40), value=9.0), torch.randn(1, 100, 20) * 20])
    beside, lens, _ = encoder(batch, torch.tensor([60, 100]))
    torch.testing.assert_close(beside[:1, : lens[0]], alone, rtol=0, atol=2e-5)


@torch.no_grad()
def test_a_non_causal_convolution_sees_ahead_but_not_into_padding() -> None:
    encoder = build(dataclasses.replace(CONFIG, conv_causal=False))
    feats = torch.randn(1, 60, 20)
    alone, _, _ = encoder(feats, torch.tensor([60]))
    beside, lens, _ = encoder(torch.nn.functional.pad(feats, (0, 0, 0, 40), value=9.0), torch.tensor([60]))
    torch.testing.assert_close(beside[:, : lens[0]], alone, rtol=0, atol=2e-5)
    with pytest.raises(ValueError, match="causal"):
        encoder(feats, torch.tensor([60]), state=encoder.initial_state(1))


@torch.no_grad()
def test_an_hour_of_stream_gives_what_its_first_minute_gives_and_keeps_its_memory() -> None:
    """A stream whose sound repeats must, with bounded left context, answer the same after an hour as after a minute."""
    encoder = build(dataclasses.replace(CONFIG, num_blocks=1))
    period = torch.randn(1, 128 * 4, 20)
    state, early = encoder.initial_state(1), None
    for turn in range(704):  # x 128 frames of 40 ms = one hour
        feats = torch.cat([period, period[:, :3]], dim=1)
        kept = places(state, feats.shape[1], 64)
        out, _, state = encoder(feats, torch.tensor([feats.shape[1]]), state=state, kept=kept)
        if turn == 11:
            early, size = out, sum(each.numel() for each in state.att_cache)
    assert int(state.offset) == 704 * 128
    assert sum(each.numel() for each in state.att_cache) == size
    torch.testing.assert_close(out, early, rtol=0, atol=1e-5)


def test_the_chunk_mask_is_the_formula() -> None:
    for size, left in ((1, 0), (3, -1), (4, 1), (7, 2)):
        ours = chunk_mask(23, ChunkMask(size, left))
        for i in range(23):
            for j in range(23):
                first = max((i // size - left) * size, 0) if left >= 0 else 0
                assert bool(ours[i, j]) == (first <= j < (i // size + 1) * size)


def test_dynamic_chunks_are_full_half_of_the_time_and_else_1_to_25_frames() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_dynamic_chunk(rng, 200) for _ in range(4000)]
    sizes = [chunk.size for chunk in drawn if chunk is not None]
    assert 0.46 < len(sizes) / 4000 < 0.54
    assert set(sizes) == set(range(1, 26))
    lefts = {chunk.num_left for _ in range(2000) if (chunk := draw_dynamic_chunk(rng, 60, True)) is not None}
    assert min(lefts) == 0
    assert max(lefts) > 3
    assert draw_dynamic_chunk(rng, 1) is None


@torch.no_grad()
def test_the_first_frames_of_sound_do_not_depend_on_what_comes_later() -> None:
    encoder = build(CONFIG)
    feats = torch.randn(1, 99, 20)
    other = feats.clone()
    other[:, 47:] = torch.randn(1, 52, 20)
    first, _, _ = encoder(feats, torch.tensor([99]), chunk=ChunkMask(5))
    second, _, _ = encoder(other, torch.tensor([99]), chunk=ChunkMask(5))
    # Two chunks of 5 encoder frames: input frames 0 to 4 * 9 + 6 = 42.
    torch.testing.assert_close(first[:, :10], second[:, :10], rtol=0, atol=1e-6)
    assert not torch.allclose(first[:, 10:15], second[:, 10:15])
