"""Speech over a telephone line: 300 to 3400 Hz, 8 kHz, and G.711's eight bits."""

import io
from typing import Literal

import numpy as np
import soundfile

from unichoir.audio.io import Samples, resample
from unichoir.audio.noises import fast_length

TELEPHONE_RATE = 8000
LOWEST, HIGHEST = 300.0, 3400.0
"""Edges of the band in Hz, where the attenuation is 3 dB."""

Companding = Literal["none", "mu-law", "a-law"]

_SUBTYPES: dict[str, str] = {"mu-law": "ULAW", "a-law": "ALAW"}
_ORDER = 4
"""Order of the Butterworth filters at both edges: 24 dB per octave."""


def telephone(samples: Samples, sample_rate: int, companding: Companding) -> Samples:
    """Return (N,) samples after a telephone line: 300 to 3400 Hz without delay, and G.711's companding.

    Samples beyond [-1, 1] are scaled for the line and scaled back after it, so they don't clip.
    """
    narrow = _band_pass(resample(samples, sample_rate, TELEPHONE_RATE))
    if companding != "none":
        narrow = compand(narrow, companding)
    return _fit(resample(narrow, TELEPHONE_RATE, sample_rate), len(samples))


def compand(samples: Samples, companding: Companding) -> Samples:
    """Return (N,) samples after a round trip through G.711's 8 bits. Samples beyond [-1, 1] are scaled for it."""
    peak = np.float32(max(1.0, float(np.abs(samples).max(initial=0.0))))
    data, subtype = io.BytesIO(), _SUBTYPES[companding]
    soundfile.write(data, samples / peak, TELEPHONE_RATE, format="RAW", subtype=subtype)
    data.seek(0)
    heard, _ = soundfile.read(
        data, dtype="float32", format="RAW", subtype=subtype, samplerate=TELEPHONE_RATE, channels=1
    )
    return np.asarray(heard * peak, dtype=np.float32)


def _band_pass(samples: Samples) -> Samples:
    length = fast_length(len(samples))
    frequencies = np.maximum(np.fft.rfftfreq(length, 1 / TELEPHONE_RATE), 1e-3)
    # Magnitudes of Butterworth filters without their phase, so there is no delay.
    low, high = (LOWEST / frequencies) ** (2 * _ORDER), (frequencies / HIGHEST) ** (2 * _ORDER)
    spectrum = np.fft.rfft(samples, length) / np.sqrt((1 + low) * (1 + high))
    return np.fft.irfft(spectrum, length)[: len(samples)].astype(np.float32)


def _fit(samples: Samples, length: int) -> Samples:
    """Cut samples or pad them with zeros: resampling there and back may differ by one sample."""
    return samples[:length] if len(samples) >= length else np.pad(samples, (0, length - len(samples)))
