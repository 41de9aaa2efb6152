"""Speech as a telephone line carries it: 300 to 3400 Hz, 8 kHz, and G.711's eight bits."""

import io
from typing import Literal

import numpy as np
import soundfile

from unichoir.audio.io import Samples, resample
from unichoir.audio.noises import fast_length

TELEPHONE_RATE = 8000
LOWEST, HIGHEST = 300.0, 3400.0
"""Edges of the band in Hz: 3 dB down."""

Companding = Literal["none", "mu-law", "a-law"]

_SUBTYPES: dict[str, str] = {"mu-law": "ULAW", "a-law": "ALAW"}
_ORDER = 4
"""Of the Butterworth filters at either edge: 24 dB per octave."""


def telephone(samples: Samples, sample_rate: int, companding: Companding) -> Samples:
    """(N,) samples as after a telephone line: band of 300 to 3400 Hz, without delay, and G.711's companding.

    Samples beyond [-1, 1] are not clipped: the line is as loud as it needs to be, and the level comes back after it.
    """
    narrow = _band_pass(resample(samples, sample_rate, TELEPHONE_RATE))
    if companding != "none":
        narrow = compand(narrow, companding)
    return _fit(resample(narrow, TELEPHONE_RATE, sample_rate), len(samples))


def compand(samples: Samples, companding: Companding) -> Samples:
    """(N,) samples after a round trip through 8 bits of G.711; those beyond [-1, 1] are scaled to fit meanwhile."""
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
    # Magnitudes of Butterworth filters without their phase: nothing is delayed.
    low, high = (LOWEST / frequencies) ** (2 * _ORDER), (frequencies / HIGHEST) ** (2 * _ORDER)
    spectrum = np.fft.rfft(samples, length) / np.sqrt((1 + low) * (1 + high))
    return np.fft.irfft(spectrum, length)[: len(samples)].astype(np.float32)


def _fit(samples: Samples, length: int) -> Samples:
    """Cut or filled up with zeros: resampling there and back may round by a sample."""
    return samples[:length] if len(samples) >= length else np.pad(samples, (0, length - len(samples)))
