"""The central claim: chunk by chunk equals the whole utterance under the same mask; rows do not see each other."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from unichoir.data.dataset import FrameRate
from unichoir.network.attention import whisper_sinusoids
from unichoir.network.config import EncoderConfig, FeedForwardConfig
from unichoir.network.encoder import Encoder, EncoderState, MergePairs, places_kept
from unichoir.network.masks import ChunkMask, chunk_mask, draw_dynamic_chunk
from unichoir.network.subsampling import subsampled_length

CONFIG = EncoderConfig(
    input_dim=20,
    dim=16,
    num_blocks=3,
    num_heads=2,
    feed_forward=FeedForwardConfig(hidden_dim=12, num_experts=4, top_k=2),
    subsampling_channels=4,
    conv_kernel=5,
)
WHISPER = dataclasses.replace(
    CONFIG,
    num_blocks=2,
    feed_forward=FeedForwardConfig(hidden_dim=12, activation="gelu"),
    front="conv1d",
    subsampling_channels=None,
    block="transformer",
    position="sinusoidal",
    num_positions=29,  # fewer than frames below
)
SHARED = FeedForwardConfig(hidden_dim=8, num_experts=3, top_k=2, shared_hidden_dim=6, activation="gelu")
ABSOLUTE = dataclasses.replace(CONFIG, block="transformer", position="absolute")
VARIANTS = {
    "moe-rotary": CONFIG,
    "conv2d6-rotary": dataclasses.replace(CONFIG, subsampling=6, subsampling_channels=16),
    "conv2d8-absolute-key": dataclasses.replace(CONFIG, subsampling=8, position="absolute_key"),
    "absolute-transformer": ABSOLUTE,
    "conv2d8-absolute-transformer": dataclasses.replace(ABSOLUTE, subsampling=8),
    "conv2d6-top-without-positions": dataclasses.replace(CONFIG, subsampling=6, position="none", num_top_blocks=1),
    "moe-absolute-key": dataclasses.replace(CONFIG, position="absolute_key"),
    "dense-batch-norm-even-kernel": dataclasses.replace(
        CONFIG, feed_forward=FeedForwardConfig(hidden_dim=12), conv_norm="batch_norm", conv_kernel=4
    ),
    "top1-no-bias": dataclasses.replace(
        CONFIG, feed_forward=FeedForwardConfig(hidden_dim=12, num_experts=3, top_k=1, bias=False)
    ),
    "whisper": WHISPER,
    "whisper-top-shared-experts": dataclasses.replace(WHISPER, num_top_blocks=2, feed_forward=SHARED),
    "conv1d-conformer-rotary": dataclasses.replace(WHISPER, block="conformer", position="rotary"),
    "conv1d-transformer-absolute-key": dataclasses.replace(WHISPER, position="absolute_key"),
    "conv2d-top": dataclasses.replace(CONFIG, num_blocks=1, num_top_blocks=2),
    "conv2d-sinusoidal-transformer-top": dataclasses.replace(
        CONFIG, block="transformer", position="sinusoidal", num_positions=29, num_top_blocks=1
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


def needed(config: EncoderConfig, num_frames: int) -> int:
    """Return the number of feature frames needed for so many encoder frames."""
    return config.subsampling_rate * (num_frames - 1) + config.right_context + 1 if num_frames else 0


def places(encoder: Encoder, state: EncoderState, num_frames: int, num_left_frames: int) -> torch.Tensor:
    """Return the content of the next state after so many more feature frames."""
    kept = places_kept(state.num_past, encoder.config.num_frames(num_frames), num_left_frames)
    return torch.tensor(kept, dtype=torch.int64)


@torch.no_grad()
@pytest.mark.parametrize(("size", "left"), [(1, -1), (3, -1), (4, 2), (5, 0), (25, 1)])
def test_chunk_by_chunk_equals_the_whole_under_the_same_mask(encoder: Encoder, size: int, left: int) -> None:
    config, lengths = encoder.config, torch.tensor([131, 77])
    feats = torch.randn(2, 131, 20)
    whole, lens, none = encoder(feats, lengths, chunk=ChunkMask(size, left))
    assert none is None
    assert lens.tolist() == [config.num_frames(131), config.num_frames(77)]
    state, outs = encoder.initial_state(2), [[], []]
    for start in range(0, 131 - config.right_context, config.subsampling_rate * size):
        part = feats[:, start : start + needed(config, size)]
        kept = places(encoder, state, part.shape[1], left * size if left >= 0 else -1)
        given = (lengths - start).clamp(min=0, max=part.shape[1])
        out, out_lens, state = encoder(part, given, state=state, kept=kept)
        for row in range(2):
            outs[row].append(out[row, : out_lens[row]])
    for row in range(2):
        torch.testing.assert_close(torch.cat(outs[row]), whole[row, : lens[row]], rtol=0, atol=2e-5)


def merge(states: list[EncoderState]) -> EncoderState:
    """Merge the states of several streams into a batch: shorter pasts are padded on the left."""

    def join(caches: tuple[Tensor, ...]) -> Tensor:
        width = max(cache.shape[2] for cache in caches)
        return torch.cat(
            [torch.nn.functional.pad(cache, (0, 0, width - cache.shape[2], 0), value=7.0) for cache in caches]
        )

    return EncoderState(
        att_cache=tuple(join(caches) for caches in zip(*(s.att_cache for s in states), strict=True)),
        att_cache_lens=torch.cat([state.att_cache_lens for state in states]),
        cnn_cache=tuple(torch.cat(caches) for caches in zip(*(s.cnn_cache for s in states), strict=True)),
        offset=torch.cat([state.offset for state in states]),
    )


@torch.no_grad()
def test_streams_at_different_positions_share_a_batch(encoder: Encoder) -> None:
    """Three streams, of which one is ahead, one new, one has fewer frames left than the others and one none."""
    five, three, two = (needed(encoder.config, frames) for frames in (5, 3, 2))
    pasts = [torch.randn(1, needed(encoder.config, n), 20) for n in (9, 2, 5)]
    nexts = [torch.randn(1, length, 20) for length in (five, five, two)]

    def run(feats: Tensor, state: EncoderState) -> tuple[Tensor, EncoderState]:
        out, _, state = encoder(feats, torch.tensor([feats.shape[1]]), state=state)
        return out, state

    states = [run(past, encoder.initial_state(1))[1] for past in pasts]
    alone = [run(feats, state) for feats, state in zip(nexts, states, strict=True)]
    batch = torch.full((4, five, 20), 50.0)
    for row, feats in enumerate(nexts):
        batch[row, : feats.shape[1]] = feats
    merged = merge([*states, encoder.initial_state(1)])
    out, lens, after = encoder(batch, torch.tensor([five, five, two, 0]), state=merged)
    assert lens.tolist() == [5, 5, 2, 0]
    assert torch.isfinite(out).all()
    again = torch.randn(4, three, 20)
    out_again, _, _ = encoder(again, torch.tensor([three] * 4), state=after)
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
        kept = places(encoder, state, feats.shape[1], 64)
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


class Told:
    """A generator that returns a given number."""

    def __init__(self, number: int) -> None:
        self.number, self.bounds = number, []

    def integers(self, low: int, high: int) -> int:
        self.bounds.append((low, high))
        return self.number


@pytest.mark.parametrize("probability", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("min_size", [1, 8, 25])
@pytest.mark.parametrize("max_frames", [2, 20, 300])
def test_chunks_are_as_likely_as_they_should_be_and_of_all_sizes_alike(
    max_frames: int, min_size: int, probability: float
) -> None:
    """Of all numbers that can be drawn."""
    sizes: list[int] = []
    for number in range(1, max_frames):
        told = Told(number)
        chunk = draw_dynamic_chunk(told, max_frames, False, min_size, probability)  # type: ignore[arg-type]
        assert told.bounds == [(1, max_frames)]
        if chunk is not None:
            assert chunk.num_left == -1
            sizes.append(chunk.size)
    assert len(sizes) / (max_frames - 1) == pytest.approx(probability, abs=1 / (max_frames - 1))
    counts = [sizes.count(size) for size in range(min_size, 26)]
    assert sum(counts) == len(sizes)
    assert max(counts) - min(counts) <= 1


@torch.no_grad()
def test_the_first_frames_of_sound_do_not_depend_on_what_comes_later(encoder: Encoder) -> None:
    seen = needed(encoder.config, 10)
    feats = torch.randn(1, seen + 60, 20)
    other = feats.clone()
    other[:, seen:] = torch.randn(1, 60, 20)
    first, _, _ = encoder(feats, torch.tensor([seen + 60]), chunk=ChunkMask(5))
    second, _, _ = encoder(other, torch.tensor([seen + 60]), chunk=ChunkMask(5))
    # Two chunks of 5 encoder frames.
    torch.testing.assert_close(first[:, :10], second[:, :10], rtol=0, atol=1e-6)
    assert not torch.allclose(first[:, 10:15], second[:, 10:15])
    # The last frame that the second chunk may see, its first frame does see.
    other = feats.clone()
    other[:, seen - 1] += 1.0
    third, _, _ = encoder(other, torch.tensor([seen + 60]), chunk=ChunkMask(5))
    torch.testing.assert_close(first[:, :5], third[:, :5], rtol=0, atol=1e-6)
    assert not torch.allclose(first[:, 5], third[:, 5])


def test_which_inputs_change_an_output(encoder: Encoder) -> None:
    """Of a frame that attends to itself alone, by its gradient."""
    encoder = build(dataclasses.replace(encoder.config, conv_kernel=1))
    config, frames = encoder.config, 4
    feats = torch.randn(1, needed(config, frames), 20, requires_grad=True)
    out, _, _ = encoder(feats, torch.tensor([feats.shape[1]]), chunk=ChunkMask(1, 0))
    assert out.shape[1] == frames
    for i in range(frames):
        (gradient,) = torch.autograd.grad((out[0, i] * torch.randn(16)).sum(), feats, retain_graph=True)
        begin = config.subsampling_rate * i
        # Whisper's second convolution has a zero in place of what the first makes of the very first frames.
        blank = 1 if config.front == "conv1d" and i == 0 else 0
        expected = list(range(begin + blank, begin + config.right_context + 1))
        assert gradient[0].abs().sum(dim=1).nonzero().flatten().tolist() == expected


@torch.no_grad()
def test_how_many_frames_come_out(encoder: Encoder) -> None:
    config = encoder.config
    rate = FrameRate(subsampling_rate=config.subsampling_rate, right_context=config.right_context)
    last = [config.subsampling_rate * i + config.right_context for i in range(60)]
    counted = [sum(place < frames for place in last) for frames in range(60)]
    assert subsampled_length(torch.arange(60), config).tolist() == counted
    assert [config.num_frames(frames) for frames in range(60)] == counted
    assert [rate.encoder_frames(frames) for frames in range(60)] == counted
    for frames in range(config.right_context + 1, config.right_context + 2 * config.subsampling_rate + 2):
        assert encoder(torch.randn(1, frames, 20), torch.tensor([frames]))[0].shape[1] == counted[frames]


def openai_sinusoids(length: int, channels: int, max_timescale: float = 10000) -> np.ndarray:
    """As `whisper/model.py` computes them (MIT), in float64."""
    increment = np.log(max_timescale) / (channels // 2 - 1)
    scaled = np.arange(length)[:, None] * np.exp(-increment * np.arange(channels // 2))[None, :]
    return np.concatenate([np.sin(scaled), np.cos(scaled)], axis=1)


@torch.no_grad()
def test_sinusoidal_positions_are_whispers_and_begin_again() -> None:
    np.testing.assert_allclose(whisper_sinusoids(1500, 64).numpy(), openai_sinusoids(1500, 64), rtol=0, atol=1e-4)
    encoder = build(dataclasses.replace(WHISPER, num_blocks=0, num_positions=8))
    feats = torch.randn(1, needed(WHISPER, 30), 20)
    out, _, _ = encoder(feats, torch.tensor([feats.shape[1]]))
    table = torch.from_numpy(openai_sinusoids(8, 16)).float()
    for i in range(30):
        frame = encoder.subsampling((feats - encoder.cmvn_mean) * encoder.cmvn_istd)[0, i]
        torch.testing.assert_close(out[0, i], encoder.after_norm(frame + table[i % 8]), rtol=0, atol=1e-5)


@torch.no_grad()
def test_training_starts_half_of_the_utterances_anywhere() -> None:
    encoder = build(dataclasses.replace(WHISPER, dropout=0.0, num_positions=1500))
    feats, lengths = torch.randn(1, 9, 20).expand(300, -1, -1), torch.full((300,), 9)
    fixed, _, _ = encoder(feats, lengths)
    torch.testing.assert_close(fixed, fixed[:1].expand_as(fixed))

    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        out: Tensor = encoder(feats, lengths)[0]
        return out

    assert torch.equal(drawn(1), drawn(2))  # nothing is drawn in evaluation
    encoder.train()
    first = drawn(1)
    assert torch.equal(first, drawn(1))
    assert not torch.equal(first, drawn(2))
    at_start = (first - fixed).abs().amax(dim=(1, 2)) < 1e-5
    assert 0.4 < at_start.float().mean() < 0.6
    others = first[~at_start]
    assert len(torch.unique((others[:, 0] * 1e3).round(), dim=0)) > 0.8 * len(others)


@torch.no_grad()
def test_merging_starts_as_the_mean() -> None:
    x = torch.randn(2, 8, 16)
    merge_pairs = MergePairs(16)
    normed = merge_pairs.norm(x)
    expected = (normed[:, 0::2] + normed[:, 1::2]) / 2
    for merged in merge_pairs(x):
        torch.testing.assert_close(merged, expected)
