"""Recordings decoded by ffmpeg, and comparisons with them."""

import io
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from unichoir.audio.io import load_audio

RATE = 16000
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
Ffmpeg = Callable[..., Path]


def decoded(path: Path, rate: int, channels: int = 1) -> np.ndarray:
    """Decode a file with ffmpeg: (N,), or (N, channels) for several channels."""
    command = ["ffmpeg", "-v", "quiet", "-nostdin", "-i", str(path), "-f", "f32le", "-ar", str(rate), "-"]
    samples = np.frombuffer(subprocess.run(command, capture_output=True, check=False).stdout, np.float32)
    return samples if channels == 1 else samples.reshape(-1, channels)


def read(path: Path, rate: int) -> tuple[np.ndarray, list[str]]:
    """Read a file at its own rate: samples (N,), and the warnings about missing parts."""
    warnings: list[str] = []
    return load_audio(path, sample_rate=rate, name="it", warn=warnings.append, strict=False), warnings


def assert_alike(found: np.ndarray, expected: np.ndarray, most: int) -> None:
    """Assert equal audio, shifted by at most so many samples: containers round times, and codecs add noise."""
    size = 1 << int(np.ceil(np.log2(len(found) + len(expected))))
    product = np.fft.irfft(np.fft.rfft(found, size) * np.conj(np.fft.rfft(expected, size)), size)
    assert min(product.argmax(), size - product.argmax()) <= most
    assert product.max() > 0.98 * np.linalg.norm(found) * np.linalg.norm(expected)


def assert_same(found: np.ndarray, expected: np.ndarray, slack: int = 0) -> None:
    """Versions of ffmpeg round differently (ADPCM most), and may differ by some samples at the end."""
    assert abs(len(found) - len(expected)) <= slack
    length = min(len(found), len(expected))
    np.testing.assert_allclose(found[:length], expected[:length], atol=5e-3)


def wav(samples: np.ndarray, size: int | None = None) -> bytes:
    """Make a 16-bit WAV; `size`: the number of bytes of samples according to its header."""
    content = io.BytesIO()
    soundfile.write(content, samples, RATE, format="WAV", subtype="PCM_16")
    told = bytearray(content.getvalue())
    if size is not None:
        told[40:44] = struct.pack("<I", size)
    return bytes(told)
