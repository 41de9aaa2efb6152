"""From several channels to one."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unichoir.errors import AudioError

CANCELLED = 0.1
"""Channels cancel each other if the energy of their mean is below this fraction of what independent channels give."""
LEAST_TOLD = 1600
"""Fewest samples in which cancellation is measured: independent channels cancel briefly by chance."""
ENERGY_STEP = 7
"""In long blocks, energies are measured on every n-th sample."""


def mix(channels: NDArray[Any], channel: int | None, name: str) -> tuple[NDArray[np.float32], bool]:
    """Reduce channels (C, N) to one (N,). Returns it, and whether the channels cancel each other.

    channel: the channel to take, counted from 1; None takes the mean. If the channels cancel each other in the mean,
    as with a microphone wired in opposite phase, the loudest one is taken instead. Values that are not finite are kept.
    Raises AudioError, naming the recording `name`, if the channel doesn't exist.
    """
    if channel is not None:
        if not 1 <= channel <= len(channels):
            raise AudioError(f"{name}: no channel {channel}: the recording has {len(channels)}")
        return np.ascontiguousarray(channels[channel - 1]), False
    if len(channels) == 1:
        return np.ascontiguousarray(channels[0]), False
    with np.errstate(over="ignore", invalid="ignore"):
        mono = sum(channels[1:], channels[0]) / np.float32(len(channels))  # a third of the time of mean()
        if len(mono) < LEAST_TOLD:
            return mono, False
        step = max(1, min(ENERGY_STEP, len(mono) // 1000))
        some = channels[:, ::step]
        energies = np.einsum("cn,cn->c", some, some)
        found = mono[::step]
        if found @ found < CANCELLED * energies.mean() / len(channels):
            return np.ascontiguousarray(channels[energies.argmax()]), True
    return mono, False


def with_channel(values: NDArray[np.float32], channel: int) -> NDArray[np.float32]:
    """Return channels (C, N) with at least `channel` rows.

    A missing channel repeats mono audio; otherwise it is silent.
    """
    if len(values) >= channel:
        return values
    return np.repeat(values, channel, axis=0) if len(values) == 1 else np.zeros((channel, values.shape[1]), np.float32)
