"""Load the audio that models are measured on: a file, a manifest, or noise shaped like speech.

Called by the command for `run`; the server's benchmark uses the noise, workers use `rotated`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unichoir.audio.io import Samples, load_audio
from unichoir.data.manifest import AUDIO_SUFFIXES, load_utterance, read_manifest

SEED = 7


@dataclass(frozen=True, kw_only=True)
class BenchmarkAudio:
    """Samples, and their description in the report."""

    samples: Samples
    """(N,) in [-1, 1]."""
    description: str


def load_benchmark_audio(source: Path | None, seconds: float, sample_rate: int) -> BenchmarkAudio:
    """Load `seconds` of audio from a file or a manifest's consecutive utterances, or make noise if there is no source.

    Shorter audio is looped. Raises AudioError or ManifestError.
    """
    count = round(seconds * sample_rate)
    if source is None:
        description = f"noise shaped like speech, {seconds:g} s (fixed seed)"
        return BenchmarkAudio(samples=speech_like_noise(count, sample_rate), description=description)
    if source.suffix.lower().removeprefix(".") in AUDIO_SUFFIXES:
        samples = load_audio(str(source), sample_rate=sample_rate)
        what = source.name
    else:
        parts: list[Samples] = []
        for utterance in read_manifest(source):
            parts.append(load_utterance(utterance, sample_rate))
            if sum(map(len, parts)) >= count:
                break
        samples = np.concatenate(parts)
        what = f"{len(parts)} utterances of {source.name}"
    looped = f", looped: the source has only {len(samples) / sample_rate:.1f} s" if len(samples) < count else ""
    return BenchmarkAudio(samples=np.resize(samples, count), description=f"{what}, {seconds:g} s{looped}")


def speech_like_noise(count: int, sample_rate: int) -> Samples:
    """Make (count,) samples of noise with the rhythm and spectrum of speech, always the same.

    A syllable is 80 to 250 ms of noise in three bands, which move between syllables as formants do. Phrases of 5 to 15
    syllables are separated by pauses of 0.2 to 0.6 s, over a faint noise floor.
    """
    rng = np.random.default_rng(SEED)
    samples = 1e-3 * rng.standard_normal(count)
    begin = 0
    while begin < count:
        for _ in range(rng.integers(5, 16)):
            size = int(rng.uniform(0.08, 0.25) * sample_rate)
            syllable = _syllable(rng, size, sample_rate)[: max(count - begin, 0)]
            samples[begin : begin + len(syllable)] += syllable
            begin += size
        begin += int(rng.uniform(0.2, 0.6) * sample_rate)
    return samples.astype(np.float32)


def _syllable(rng: np.random.Generator, size: int, sample_rate: int) -> Samples:
    """Make (size,) samples of noise in three bands between 300 and 3400 Hz, loudest in the middle."""
    frequencies = np.fft.rfftfreq(size, 1 / sample_rate)
    centres = rng.uniform((300, 900, 2200), (900, 2200, 3400))
    envelope = sum(np.exp(-0.5 * ((frequencies - centre) / 120) ** 2) for centre in centres)
    spectrum = envelope * np.exp(2j * np.pi * rng.uniform(size=len(frequencies)))
    sound = np.fft.irfft(spectrum, size) * np.hanning(size)
    return np.asarray(rng.uniform(0.05, 0.3) * sound / np.abs(sound).max(), dtype=np.float32)


def rotated(values: Samples, rows: int) -> list[Samples]:
    """Return `rows` copies of an array, each starting at a different position, for a batch with different rows."""
    return [np.roll(values, -len(values) * row // rows, axis=0) for row in range(rows)]
