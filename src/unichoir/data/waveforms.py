"""Changes to samples in training before features are computed: silences, rooms, noise, telephone lines."""

import contextlib
import dataclasses
import functools
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from unichoir.audio.augment import AugmentConfig, PaddingConfig, add_dither
from unichoir.audio.io import Samples
from unichoir.audio.noises import add_noise, babble, coloured_noise, faint_noise, mean_power, wrap
from unichoir.audio.rooms import draw_responses, reverberate
from unichoir.audio.telephone import telephone
from unichoir.data.manifest import AUDIO_SUFFIXES, Utterance, load_utterance, read_manifest
from unichoir.errors import AudioError, ConfigError

MAX_VOICES_IN_POOL = 100
"""Number of utterances used for babble, which each process keeps in memory. Decoding others every time would take
longer than everything else."""
MAX_VOICE_SECONDS = 15.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Silence:
    """A silence before, between or after utterances."""

    seconds: float = 0.0
    level_db: float | None = None
    """Root mean square of its noise in dBFS; None means digital silence."""


def draw_silence(max_seconds: float, config: PaddingConfig, rng: np.random.Generator) -> Silence:
    """Draw a silence of up to `max_seconds`, digital or with faint noise."""
    seconds = rng.uniform(0, max(max_seconds, 0.0))
    if rng.random() < config.digital:
        return Silence(seconds=seconds)
    return Silence(seconds=seconds, level_db=rng.uniform(config.min_level_db, config.max_level_db))


class WaveformChanger:
    """Applies the changes of an AugmentConfig that differ in every epoch, in their physical order.

    Args:
        augment: the changes.
        sample_rate: sample rate of all samples in Hz.
        utterances: speech for babble, unless it has its own source.
        seed: seeds the rooms and the voices of babble, which stay the same in a run.

    Raises:
        ConfigError: a noise source has no audio, or there are no utterances for babble.
        UnichoirError: `pyroomacoustics` is not installed and rooms are used.
    """

    def __init__(
        self, augment: AugmentConfig, *, sample_rate: int, utterances: Sequence[Utterance] = (), seed: int = 0
    ) -> None:
        self.augment = augment
        self.sample_rate = sample_rate
        noise = augment.noise
        rooms = augment.rooms.probability > 0
        self._responses = draw_responses(augment.rooms, sample_rate, seed) if rooms else []
        self._noises = list_noises(noise.source) if noise.probability and noise.source else []
        self._voices: list[Utterance] = []
        if noise.probability and noise.babble:
            self._voices = _draw_voices(
                list_noises(noise.babble_source) if noise.babble_source else utterances, noise.min_voices, seed
            )

    def change(
        self,
        parts: Sequence[Samples],
        silences: Sequence[Silence],
        rng: np.random.Generator,
        keys: Collection[str] = (),
    ) -> Samples:
        """Return one waveform of all parts, with silence, room, noise, gain, telephone line and dither.

        Args:
            parts: (N,) samples each.
            silences: the silences before, between and after the parts, one more than there are parts; or none. Digital
                silence gets neither echo nor noise, only dither.
            rng: draws everything here.
            keys: keys of the utterances in the parts, which are excluded from their babble.

        Raises:
            AudioError: a noise recording can't be read.
        """
        augment = self.augment
        samples, digital = self._lay_out(parts, silences or [Silence()] * (len(parts) + 1), rng)
        if augment.rooms.probability and rng.random() < augment.rooms.probability:
            samples = reverberate(samples, self._responses[int(rng.integers(len(self._responses)))])
        # This is always drawn, so runs with dither only keep their random numbers.
        if rng.random() < augment.noise.probability:
            power = mean_power(samples) * len(samples) / max(sum(map(len, parts)), 1)
            snr_db = rng.uniform(augment.noise.min_snr_db, augment.noise.max_snr_db)
            samples = add_noise(samples, self._draw_noise(len(samples), rng, keys), snr_db, power)
        if augment.gain_db:
            # The gain applies to samples, not features, because digital silence must not get louder.
            samples = samples * np.float32(10 ** (rng.uniform(-augment.gain_db, augment.gain_db) / 20))
        line = augment.telephone
        if line.probability and rng.random() < line.probability:
            samples = telephone(samples, self.sample_rate, line.companding[int(rng.integers(len(line.companding)))])
        if digital:
            samples = samples.copy()
        for begin, end in digital:
            samples[begin:end] = 0
        return add_dither(samples, augment.dither, rng) if augment.dither else samples

    def _lay_out(
        self, parts: Sequence[Samples], silences: Sequence[Silence], rng: np.random.Generator
    ) -> tuple[Samples, list[tuple[int, int]]]:
        """Return (N,) all samples in a row, and [begin, end) of each digital silence."""
        pieces: list[Samples] = []
        digital: list[tuple[int, int]] = []
        position = 0
        for number, silence in enumerate(silences):
            length = round(silence.seconds * self.sample_rate)
            if length and silence.level_db is None:
                digital.append((position, position + length))
                pieces.append(np.zeros(length, dtype=np.float32))
            elif length and silence.level_db is not None:
                pieces.append(faint_noise(length, self.sample_rate, silence.level_db, rng))
            following = parts[number : number + 1]
            pieces += following
            position += length + sum(map(len, following))
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces), digital

    def _draw_noise(self, num_samples: int, rng: np.random.Generator, keys: Collection[str]) -> Samples:
        noise = self.augment.noise
        if noise.babble and rng.random() < noise.babble:
            return self._draw_babble(num_samples, rng, keys)
        if self._noises:
            return wrap(_load(self._noises[int(rng.integers(len(self._noises)))], self.sample_rate), num_samples, rng)
        colour = noise.colours[int(rng.integers(len(noise.colours)))]
        return coloured_noise(colour, num_samples, self.sample_rate, rng)

    def _draw_babble(self, num_samples: int, rng: np.random.Generator, keys: Collection[str]) -> Samples:
        noise = self.augment.noise
        others = [voice for voice in self._voices if voice.key not in keys]
        count = min(int(rng.integers(noise.min_voices, noise.max_voices + 1)), len(others))
        voices: list[Samples] = []
        for chosen in rng.choice(len(others), count, replace=False) if others else ():
            # An unreadable utterance is reported as an utterance of its own.
            with contextlib.nullcontext() if noise.babble_source else contextlib.suppress(AudioError):
                voices.append(_load_voice(others[int(chosen)], self.sample_rate))
        return babble(voices, num_samples, rng)


def list_noises(source: str) -> list[Utterance]:
    """Return the recordings of a manifest, or of a folder and its subfolders. Raises ConfigError or ManifestError."""
    folder = Path(source)
    if folder.is_dir() and not (folder / "wav.scp").exists():
        files = sorted(path for path in folder.rglob("*") if path.suffix[1:].lower() in AUDIO_SUFFIXES)
        if not files:
            raise ConfigError(f"noise source {source}: no audio files")
        return [Utterance(key=str(path), wav=str(path), txt="") for path in files]
    return read_manifest(folder)


def _draw_voices(utterances: Sequence[Utterance], least: int, seed: int) -> list[Utterance]:
    if len(utterances) < least:
        raise ConfigError(
            f"noise babble: min_voices is {least}, but there are only {len(utterances)} utterances "
            "(training from shards needs babble_source)"
        )
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0xBABB1E]))
    chosen = rng.choice(len(utterances), min(len(utterances), MAX_VOICES_IN_POOL), replace=False)
    return [utterances[index] for index in sorted(chosen.tolist())]


@functools.lru_cache(maxsize=64)
def _load(utterance: Utterance, sample_rate: int) -> Samples:
    return load_utterance(utterance, sample_rate)


@functools.lru_cache(maxsize=MAX_VOICES_IN_POOL)
def _load_voice(utterance: Utterance, sample_rate: int) -> Samples:
    # A copy, because a view would keep a long recording in memory.
    beginning: Samples = load_utterance(utterance, sample_rate)[: int(MAX_VOICE_SECONDS * sample_rate)].copy()
    return beginning
