"""Batches of utterances of similar length."""

from collections.abc import Sequence

import numpy as np

from unichoir.data.dataset import DataConfig, padded_frames

# Separates this use of (seed, epoch) as a source of randomness from others.
PURPOSE = 2


def make_batches(
    frames: Sequence[int], config: DataConfig, *, seed: int = 0, epoch: int = 0, window: int = 0, shuffle: bool = True
) -> list[list[int]]:
    """Divide utterances into batches. Returns their indices, each exactly once.

    Utterances are sorted by length, then divided so that a batch's padded size, utterances x `padded_frames`, stays
    within `config.max_frames_in_batch`. A longer utterance is a batch of its own. Shuffling jitters the lengths before
    sorting, which mixes neighbours in every epoch, and shuffles the batches. It only depends on (seed, epoch, window).

    Args:
        frames: the feature frames of each utterance, from `ExampleReader.planned_frames`.
    """
    lengths = np.asarray(frames, dtype=np.float64)
    rng = np.random.default_rng(np.random.SeedSequence([seed, epoch, PURPOSE, window]))
    if shuffle:
        # The small second term breaks ties between equal lengths without jitter.
        jitter = rng.uniform(-config.length_jitter, config.length_jitter, len(lengths))
        lengths = lengths * (1 + jitter) + rng.uniform(0, 1e-3, len(lengths))
    order = np.argsort(-lengths, kind="stable").tolist()
    batches: list[list[int]] = []
    batch: list[int] = []
    longest = 0
    for index in order:
        longest = max(longest, frames[index])
        size = padded_frames(longest) * (len(batch) + 1)
        if batch and (len(batch) == config.max_batch_size or size > config.max_frames_in_batch):
            batches.append(batch)
            batch, longest = [], frames[index]
        batch.append(index)
    if batch:
        batches.append(batch)
    if shuffle:
        batches = [batches[position] for position in rng.permutation(len(batches))]
    return batches
