"""Noise for training: coloured noise, babble, and mixing at a signal-to-noise ratio."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from unichoir.audio.io import Samples

Colour = Literal["white", "pink", "brown"]

_SLOPES: dict[str, float] = {"white": 0.0, "pink": 0.5, "brown": 1.0}
"""Exponent with which amplitudes fall with frequency."""
_LOWEST = 20.0
"""Frequency in Hz below which coloured noise is flat. Otherwise nearly all power of brown noise would be inaudible."""


def fast_length(length: int) -> int:
    """Return a length with a fast Fourier transform (no large prime factor), at least `length` and up to 1/16 more."""
    step = 1 << max(0, length.bit_length() - 5)
    return -(-length // step) * step


def coloured_noise(colour: Colour, num_samples: int, sample_rate: int, rng: np.random.Generator) -> Samples:
    """Return (N,) Gaussian noise with a mean power of about 1 at `sample_rate` Hz.

    White noise has equal power at all frequencies. The power of pink noise falls with 1 / frequency, as in most rooms.
    The power of brown noise falls with the square, like traffic and engines. Both are flat below 20 Hz.
    """
    if colour == "white" or num_samples < 2:
        return rng.standard_normal(num_samples, dtype=np.float32)
    length = fast_length(num_samples)
    spectrum = np.fft.rfft(rng.standard_normal(length, dtype=np.float32))
    spectrum *= _weights(colour, length, sample_rate)
    return np.fft.irfft(spectrum, length)[:num_samples].astype(np.float32)


def _weights(colour: Colour, length: int, sample_rate: int) -> Samples:
    """Return (length // 2 + 1,) amplitudes over frequency with a mean square of 1."""
    weights = np.maximum(np.fft.rfftfreq(length, 1 / sample_rate), _LOWEST) ** -_SLOPES[colour]
    weights[0] = 0
    return np.asarray(weights / np.sqrt(np.mean(np.square(weights))), dtype=np.float32)


def faint_noise(num_samples: int, sample_rate: int, level_db: float, rng: np.random.Generator) -> Samples:
    """Return (N,) white or pink noise whose root mean square is `level_db` relative to an amplitude of 1 (dBFS)."""
    colour: Colour = "white" if rng.random() < 0.5 else "pink"
    noise = coloured_noise(colour, num_samples, sample_rate, rng)
    scale = 10 ** (level_db / 20) / max(float(np.sqrt(mean_power(noise))), 1e-12)
    faint: Samples = noise * np.float32(scale)
    return faint


def babble(voices: Sequence[Samples], num_samples: int, rng: np.random.Generator) -> Samples:
    """Return the (N,) sum of equally loud voices, each repeated from a random place. Silent voices are ignored."""
    mixed = np.zeros(num_samples, dtype=np.float32)
    for voice in voices:
        stretch = wrap(voice, num_samples, rng)
        power = mean_power(voice)
        if power > 0:
            mixed += stretch * np.float32(1 / np.sqrt(power))
    return mixed


def wrap(samples: Samples, num_samples: int, rng: np.random.Generator) -> Samples:
    """Return (N,) samples from a random place on, repeated if they are too short."""
    begin = int(rng.integers(0, len(samples)))
    repeats = -(-(begin + num_samples) // len(samples))
    return np.tile(samples, repeats)[begin : begin + num_samples]


def mean_power(samples: Samples) -> float:
    """Return the mean of the squares; 0 without samples."""
    return float(np.dot(samples, samples)) / max(len(samples), 1)


def add_noise(samples: Samples, noise: Samples, snr_db: float, signal_power: float | None = None) -> Samples:
    """Add (N,) noise to (N,) samples at the given ratio of mean powers. Silence on either side changes nothing.

    Args:
        signal_power: mean square of the signal without its silence, for samples that are partly silent; by default the
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
