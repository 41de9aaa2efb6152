"""Batches of utterances of similar length."""

from collections.abc import Sequence

import numpy as np

from unichoir.data.dataset import DataConfig, padded_frames

# Apart from the other uses of (seed, epoch) as a source of randomness.
PURPOSE = 2


def make_batches(
    frames: Sequence[int], config: DataConfig, *, seed: int = 0, epoch: int = 0, window: int = 0, shuffle: bool = True
) -> list[list[int]]:
    """Indices of utterances, batch by batch; every utterance occurs once.

    Sorted by length, then cut so that a batch's padded size, utterances x `padded_frames`, stays within
    `config.max_frames_in_batch`; an utterance longer than that is a batch of its own. Shuffling blurs the lengths a
    little before sorting, which mixes neighbours anew each epoch, and shuffles the batches; it depends on (seed, epoch,
    window) alone.

    Args:
        frames: the feature frames of each utterance, as `ExampleReader.planned_frames` tells.
    """
    lengths = np.asarray(frames, dtype=np.float64)
    rng = np.random.default_rng(np.random.SeedSequence([seed, epoch, PURPOSE, window]))
    if shuffle:
        # The tiny second term breaks ties among equal lengths when there is no jitter.
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
