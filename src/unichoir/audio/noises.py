"""Noise to train with: coloured noise, babble, and mixing at a signal to noise ratio."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from unichoir.audio.io import Samples

Colour = Literal["white", "pink", "brown"]

_SLOPES: dict[str, float] = {"white": 0.0, "pink": 0.5, "brown": 1.0}
"""Amplitudes fall with frequency to this power."""
_LOWEST = 20.0
"""In Hz. Coloured noise is flat below: brown noise would put nearly all of its power where nobody hears it."""


def fast_length(length: int) -> int:
    """`length` or up to 1/16 more, such that its Fourier transform is fast: without a large prime factor."""
    step = 1 << max(0, length.bit_length() - 5)
    return -(-length // step) * step


def coloured_noise(colour: Colour, num_samples: int, sample_rate: int, rng: np.random.Generator) -> Samples:
    """(N,) Gaussian noise of mean power about 1 at `sample_rate` Hz.

    The power of white noise is equal at all frequencies; that of pink noise falls with 1 / frequency, as that of most
    rooms does, and that of brown noise with its square, as that of traffic and engines does. Both are flat below 20 Hz.
    """
    if colour == "white" or num_samples < 2:
        return rng.standard_normal(num_samples, dtype=np.float32)
    length = fast_length(num_samples)
    spectrum = np.fft.rfft(rng.standard_normal(length, dtype=np.float32))
    spectrum *= _weights(colour, length, sample_rate)
    return np.fft.irfft(spectrum, length)[:num_samples].astype(np.float32)


def _weights(colour: Colour, length: int, sample_rate: int) -> Samples:
    """(length // 2 + 1,) amplitudes over frequency whose mean square is 1."""
    weights = np.maximum(np.fft.rfftfreq(length, 1 / sample_rate), _LOWEST) ** -_SLOPES[colour]
    weights[0] = 0
    return np.asarray(weights / np.sqrt(np.mean(np.square(weights))), dtype=np.float32)


def faint_noise(num_samples: int, sample_rate: int, level_db: float, rng: np.random.Generator) -> Samples:
    """(N,) white or pink noise whose root mean square is `level_db` below an amplitude of 1 (dBFS)."""
    colour: Colour = "white" if rng.random() < 0.5 else "pink"
    noise = coloured_noise(colour, num_samples, sample_rate, rng)
    scale = 10 ** (level_db / 20) / max(float(np.sqrt(mean_power(noise))), 1e-12)
    faint: Samples = noise * np.float32(scale)
    return faint


def babble(voices: Sequence[Samples], num_samples: int, rng: np.random.Generator) -> Samples:
    """(N,) sum of equally loud voices; each begins at a random place and repeats. Silent voices add nothing."""
    mixed = np.zeros(num_samples, dtype=np.float32)
    for voice in voices:
        stretch = wrap(voice, num_samples, rng)
        power = mean_power(voice)
        if power > 0:
            mixed += stretch * np.float32(1 / np.sqrt(power))
    return mixed


def wrap(samples: Samples, num_samples: int, rng: np.random.Generator) -> Samples:
    """(N,) samples from a random place on, repeated where they end: short noises fill long utterances."""
    begin = int(rng.integers(0, len(samples)))
    repeats = -(-(begin + num_samples) // len(samples))
    return np.tile(samples, repeats)[begin : begin + num_samples]


def mean_power(samples: Samples) -> float:
    """The mean of the squares; 0 for no samples."""
    return float(np.dot(samples, samples)) / max(len(samples), 1)


def add_noise(samples: Samples, noise: Samples, snr_db: float, signal_power: float | None = None) -> Samples:
    """Mix (N,) noise under (N,) samples at the given ratio of mean powers; silence on either side changes nothing.

    Args:
        signal_power: mean square of the signal where it sounds, for samples that are partly silent; by default the
            mean over all samples.
    """
    if signal_power is None:
        signal_power = mean_power(samples)
    noise_power = mean_power(noise)
    if signal_power == 0 or noise_power == 0:
        return samples
    scale = np.sqrt(signal_power / noise_power / 10 ** (snr_db / 10))
    mixed: Samples = samples + noise * np.float32(scale)
    return mixed
