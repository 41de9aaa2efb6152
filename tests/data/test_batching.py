import numpy as np
import pytest

from unichoir.data.batching import make_batches
from unichoir.data.dataset import DataConfig, padded_frames


def lengths(count, seed=0):
    return np.random.default_rng(seed).lognormal(5.5, 0.6, count).astype(int).tolist()


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("jitter", [0.0, 0.1, 0.5])
def test_every_utterance_once_within_the_frames_allowed(shuffle, jitter):
    frames = lengths(2000)
    frames[17] = 50_000  # more than a batch may hold
    config = DataConfig(max_frames_in_batch=12_000, max_batch_size=40, length_jitter=jitter)
    batches = make_batches(frames, config, seed=1, epoch=2, shuffle=shuffle)
    assert sorted(index for batch in batches for index in batch) == list(range(2000))
    for batch in batches:
        assert len(batch) <= 40
        assert len(batch) * padded_frames(max(frames[index] for index in batch)) <= 12_000 or batch == [17]


def test_little_is_padding():
    frames = lengths(2000)
    batches = make_batches(frames, DataConfig(), seed=0, epoch=0)
    padded = sum(len(batch) * padded_frames(max(frames[index] for index in batch)) for batch in batches)
    assert sum(frames) / padded > 0.8


def test_the_order_depends_on_seed_and_epoch_alone():
    frames = [300] * 500
    config = DataConfig()
    first = make_batches(frames, config, seed=0, epoch=0)
    assert make_batches(frames, config, seed=0, epoch=0) == first
    for seed, epoch in ((0, 1), (1, 0)):
        other = make_batches(frames, config, seed=seed, epoch=epoch)
        assert other != first
        assert {frozenset(batch) for batch in other}.isdisjoint({frozenset(batch) for batch in first})


def test_lengths_are_not_in_order_after_shuffling():
    frames = lengths(2000)
    longest = [max(frames[index] for index in batch) for batch in make_batches(frames, DataConfig(), seed=3)]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.5


def test_without_shuffling_the_longest_come_first():
    assert make_batches([50, 90, 67], DataConfig(max_frames_in_batch=150), shuffle=False) == [[1], [2, 0]]


def test_no_utterances_no_batches():
    assert make_batches([], DataConfig()) == []
