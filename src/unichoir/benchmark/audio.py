"""The sound that is measured with: a file, a manifest, or noise shaped like speech."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unichoir.audio.io import Samples, load_audio
from unichoir.data.manifest import AUDIO_SUFFIXES, load_utterance, read_manifest

SEED = 7


@dataclass(frozen=True, kw_only=True)
class BenchmarkAudio:
    """Samples and what the report says of them."""

    samples: Samples
    """(N,) in [-1, 1]."""
    description: str


def load_benchmark_audio(source: Path | None, seconds: float, sample_rate: int) -> BenchmarkAudio:
    """At least `seconds` of sound, cut to that: of an audio file, of a manifest's utterances one after the other, or
    noise without a source. Raises AudioError or ManifestError."""
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
    looped = f", looped: there are only {len(samples) / sample_rate:.1f} s" if len(samples) < count else ""
    return BenchmarkAudio(samples=np.resize(samples, count), description=f"{what}, {seconds:g} s{looped}")


def speech_like_noise(count: int, sample_rate: int) -> Samples:
    """(count,) samples: syllables of 80 to 250 ms of noise in three bands that move from one to the next, as formants
    do, in phrases of 5 to 15 syllables with pauses of 0.2 to 0.6 s, over a faint noise floor."""
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
    """(size,) noise in three bands of 300 to 3400 Hz, loud in its middle."""
    frequencies = np.fft.rfftfreq(size, 1 / sample_rate)
    centres = rng.uniform((300, 900, 2200), (900, 2200, 3400))
    envelope = sum(np.exp(-0.5 * ((frequencies - centre) / 120) ** 2) for centre in centres)
    spectrum = envelope * np.exp(2j * np.pi * rng.uniform(size=len(frequencies)))
    sound = np.fft.irfft(spectrum, size) * np.hanning(size)
    return np.asarray(rng.uniform(0.05, 0.3) * sound / np.abs(sound).max(), dtype=np.float32)


def rotated(values: Samples, rows: int) -> list[Samples]:
    """`rows` versions of an array, each beginning at another place: a batch whose rows are not the same sound."""
    return [np.roll(values, -len(values) * row // rows, axis=0) for row in range(rows)]
