"""Random changes to audio and features in training. Every function is pure, given its random generator."""

import dataclasses
import math

import numpy as np

from unichoir.audio.fbank import WHISPER_FLOOR, FbankConfig, Features
from unichoir.audio.io import Samples, resample
from unichoir.audio.noises import Colour
from unichoir.audio.telephone import TELEPHONE_RATE, Companding
from unichoir.configuration import AT_LEAST_ONE, FRACTION, NOT_NEGATIVE, POSITIVE, check_ranges
from unichoir.errors import ConfigError

CEILING = 3.5
"""Maximum height of a room in metres."""


def _check_range(low_name: str, low: float, high_name: str, high: float) -> None:
    if low > high:
        raise ConfigError(f"{low_name} {low} is above {high_name} {high}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """Additive noise."""

    probability: float = 0.0
    """Probability that an utterance gets noise, from 0 to 1."""
    source: str | None = None
    """Manifest or folder of noise recordings. null generates noise."""
    colours: tuple[Colour, ...] = ("white", "pink")
    """Colours of generated noise: white, pink or brown, drawn with equal probability."""
    babble: float = 0.0
    """Probability that the noise is babble, several people speaking at once, from 0 to 1."""
    babble_source: str | None = None
    """Manifest or folder of speech for babble. null uses other training utterances."""
    min_voices: int = 3
    """Minimum number of voices in babble. The number is drawn uniformly up to `max_voices`."""
    max_voices: int = 8
    """Maximum number of voices in babble."""
    min_snr_db: float = 5.0
    """Minimum signal-to-noise ratio in dB. The ratio is drawn uniformly up to `max_snr_db`."""
    max_snr_db: float = 25.0
    """Maximum signal-to-noise ratio in dB."""

    def __post_init__(self) -> None:
        check_ranges(self, probability=FRACTION, babble=FRACTION, min_voices=AT_LEAST_ONE)
        if not self.colours:
            raise ConfigError("noise colours must name at least one of white, pink and brown")
        _check_range("min_voices", self.min_voices, "max_voices", self.max_voices)
        _check_range("min_snr_db", self.min_snr_db, "max_snr_db", self.max_snr_db)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoomConfig:
    """Reverberation in rooms that are drawn once per run."""

    probability: float = 0.0
    """Probability that an utterance gets the reverberation of a room, from 0 to 1."""
    num_responses: int = 64
    """Number of impulse responses, drawn from the run's seed. Each takes a sixth of a second to compute."""
    min_rt60: float = 0.2
    """Minimum reverberation time in seconds, after which an echo is 60 dB weaker. The time is drawn uniformly up to
    `max_rt60`."""
    max_rt60: float = 0.6
    """Maximum reverberation time in seconds."""
    min_side: float = 3.0
    """Minimum length and width of a room in metres, at least 2. Both are drawn uniformly up to `max_side`. Heights are
    between 2.4 and 3.5 metres."""
    max_side: float = 8.0
    """Maximum length and width of a room in metres."""
    min_distance: float = 0.3
    """Minimum distance from the speaker to the microphone in metres. The distance is drawn uniformly up to
    `max_distance`."""
    max_distance: float = 3.0
    """Maximum distance from the speaker to the microphone in metres."""

    def __post_init__(self) -> None:
        check_ranges(
            self, probability=FRACTION, num_responses=AT_LEAST_ONE, min_side=(2, math.inf), min_distance=POSITIVE
        )
        if self.min_distance > self.min_side / 2:
            raise ConfigError(f"min_distance must be at most half of min_side, found {self.min_distance}")
        for name in ("side", "distance", "rt60"):
            low, high = f"min_{name}", f"max_{name}"
            _check_range(low, getattr(self, low), high, getattr(self, high))
        # Sabine's formula for walls that absorb everything.
        volume, surface = self.max_side**2 * CEILING, 2 * self.max_side**2 + 4 * self.max_side * CEILING
        shortest = 0.163 * volume / surface
        if self.min_rt60 < shortest:
            raise ConfigError(f"min_rt60 must be at least {shortest:.2f} s in rooms of max_side, not {self.min_rt60}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TelephoneConfig:
    """A telephone line: 300 to 3400 Hz, 8000 samples per second, eight bits per sample."""

    probability: float = 0.0
    """Probability that an utterance, with its room and noise, passes through the line, from 0 to 1."""
    companding: tuple[Companding, ...] = ("mu-law", "a-law")
    """G.711 companding, drawn with equal probability: mu-law (America, Japan), a-law (elsewhere), none (band only)."""

    def __post_init__(self) -> None:
        check_ranges(self, probability=FRACTION)
        if not self.companding:
            raise ConfigError("companding must name at least one of mu-law, a-law and none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PaddingConfig:
    """Silence before and after an utterance. It also defines the gaps of `concat`."""

    probability: float = 0.0
    """Probability that an utterance gets silence around it, from 0 to 1."""
    max_seconds: float = 3.0
    """Maximum silence on each side in seconds, drawn uniformly from 0. It is shortened if the utterance would exceed
    `data.max_seconds`."""
    digital: float = 0.5
    """Probability that a silence is digital, from 0 to 1: samples of exactly 0 without room or noise. Other silences
    are faint noise."""
    min_level_db: float = -90.0
    """Minimum root mean square of faint noise in dBFS. The level is drawn uniformly up to `max_level_db`."""
    max_level_db: float = -50.0
    """Maximum root mean square of faint noise in dBFS, at most 0."""

    def __post_init__(self) -> None:
        check_ranges(
            self, probability=FRACTION, digital=FRACTION, max_seconds=NOT_NEGATIVE, max_level_db=(-math.inf, 0)
        )
        _check_range("min_level_db", self.min_level_db, "max_level_db", self.max_level_db)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpecAugmentConfig:
    """Masks over time and frequency (SpecAugment, arXiv 1904.08779)."""

    num_time_masks: int = 2
    """Number of masks over time."""
    max_time_frames: int = 50
    """Maximum length of a mask over time, in feature frames."""
    max_time_fraction: float = 0.2
    """Maximum length of a mask over time as a fraction of the utterance, from 0 to 1. It protects short words."""
    num_freq_masks: int = 2
    """Number of masks over frequency."""
    max_freq_bins: int = 10
    """Maximum width of a mask over frequency, in mel bins, or in cepstra with `fbank.kind` mfcc."""

    def __post_init__(self) -> None:
        counts = ("num_time_masks", "max_time_frames", "num_freq_masks", "max_freq_bins")
        check_ranges(self, max_time_fraction=FRACTION, **dict.fromkeys(counts, NOT_NEGATIVE))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpecSubConfig:
    """Sequences of frames replaced by earlier ones (U2++, arXiv 2106.05642)."""

    num: int = 3
    """Number of replaced sequences."""
    max_frames: int = 30
    """Maximum length of a sequence, in feature frames."""
    max_fraction: float = 0.1
    """Maximum length of a sequence as a fraction of the utterance, from 0 to 1."""

    def __post_init__(self) -> None:
        check_ranges(self, num=NOT_NEGATIVE, max_frames=NOT_NEGATIVE, max_fraction=FRACTION)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConcatConfig:
    """Concatenation of utterances, which teaches the model sequences of words that were recorded one by one."""

    probability: float = 0.0
    """Probability of appending another utterance, from 0 to 1. It is drawn again after each one."""
    max_seconds: float = 15.0
    """Maximum length of a concatenated utterance in seconds."""
    max_part_seconds: float = 3.0
    """Maximum length in seconds of utterances that are concatenated. Longer ones stay as they are."""
    same_speaker: bool = False
    """Whether only utterances of the same speaker are concatenated, at the same speed. Languages are never mixed."""
    max_gap_seconds: float = 0.0
    """Maximum silence between two utterances in seconds, drawn uniformly from 0. `padding` defines the kind of
    silence."""

    def __post_init__(self) -> None:
        check_ranges(self, probability=FRACTION, max_gap_seconds=NOT_NEGATIVE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """All random changes to an utterance in training. The defaults are the U2++ recipe."""

    speeds: tuple[float, ...] = (0.9, 1.0, 1.1)
    """Speed factors from 0.5 to 2, drawn with equal probability. The pitch changes too (Ko et al., 2015)."""
    gain_db: float = 0.0
    """Maximum change of the level in dB, in either direction."""
    dither: float = 0.0
    """Standard deviation of Gaussian noise added to the samples, on the int16 scale."""
    narrowband: float = 0.0
    """Probability that an utterance is limited to 4 kHz, as if recorded at 8 kHz, from 0 to 1. Noise is added
    afterwards."""
    rooms: RoomConfig = RoomConfig()
    """Reverberation."""
    noise: NoiseConfig = NoiseConfig()
    """Additive noise."""
    telephone: TelephoneConfig = TelephoneConfig()
    """Telephone lines."""
    padding: PaddingConfig = PaddingConfig()
    """Silence around utterances."""
    spec_augment: SpecAugmentConfig = SpecAugmentConfig()
    """Masks over features."""
    spec_sub: SpecSubConfig = SpecSubConfig()
    """Frames replaced by earlier ones."""
    spec_trim_frames: int = 0
    """Maximum number of feature frames cut from the end (SpecTrim)."""
    concat: ConcatConfig = ConcatConfig()
    """Concatenation of utterances."""

    def __post_init__(self) -> None:
        if not self.speeds or not all(0.5 <= speed <= 2 for speed in self.speeds):
            raise ConfigError(f"speeds must lie between 0.5 and 2, found {self.speeds}")
        amounts = ("gain_db", "dither", "spec_trim_frames")
        check_ranges(self, narrowband=FRACTION, **dict.fromkeys(amounts, NOT_NEGATIVE))

    @property
    def changes_audio(self) -> bool:
        """Whether samples change at random beyond the choice of `speeds` and the bandwidth."""
        return bool(self.audio_changes)

    @property
    def audio_changes(self) -> tuple[str, ...]:
        """The keys that change samples in too many ways to cache features."""
        asked = {
            "dither": self.dither,
            "rooms": self.rooms.probability,
            "noise": self.noise.probability,
            "telephone": self.telephone.probability,
            "padding": self.padding.probability * self.padding.max_seconds,
            "concat.max_gap_seconds": self.concat.probability * self.concat.max_gap_seconds,
        }
        return tuple(name for name, amount in asked.items() if amount > 0)


NO_AUGMENTATION = AugmentConfig(
    speeds=(1.0,), spec_augment=SpecAugmentConfig(num_time_masks=0, num_freq_masks=0), spec_sub=SpecSubConfig(num=0)
)


def perturb_speed(samples: Samples, speed: float) -> Samples:
    """Play (N,) samples `speed` times as fast, including the pitch. Returns (about N / speed,) samples."""
    return resample(samples, speed, 1.0)


def narrow_band(samples: Samples, sample_rate: int) -> Samples:
    """Limit (N,) samples to 4 kHz by resampling to 8 kHz and back."""
    return resample(resample(samples, sample_rate, TELEPHONE_RATE), TELEPHONE_RATE, sample_rate)


def add_dither(samples: Samples, amount: float, rng: np.random.Generator) -> Samples:
    """Add Gaussian noise to (N,) samples. Its standard deviation is `amount` steps of int16."""
    noise = rng.standard_normal(len(samples), dtype=np.float32)
    dithered: Samples = samples + noise * np.float32(amount / 32768)
    return dithered


def change_gain(feats: Features, decibels: float, config: FbankConfig) -> Features:
    """Change (T, M) features, without lead frames, as if the samples were louder by `decibels`.

    A gain shifts log energies, and so the first of their cepstra. With kind whisper, values at the floor stay there:
    most are silence, which no gain changes. Nothing clips: samples are floating point, and features of samples beyond
    [-1, 1] continue in the same way.
    """
    shifted: Features = feats + np.float32(decibels / config.decibels) * config.unit
    if config.kind == "whisper":
        floor = np.float32((WHISPER_FLOOR + 4) / 4)
        shifted = np.where(feats > floor, np.maximum(shifted, floor), floor)
    return shifted


def spec_augment(
    feats: Features, config: SpecAugmentConfig, rng: np.random.Generator, speech_frames: int | None = None
) -> Features:
    """Return (T, M) features with random ranges of frames and bins set to the utterance's mean of each bin.

    The mean is used instead of zero because the features are not normalised yet; after CMVN it is close to zero.
    `speech_frames`, if given, replaces T in `max_time_fraction`, which protects a short word in a long silence.
    """
    frames, bins = feats.shape
    masked: Features = feats.copy()
    mean = feats.mean(axis=0) if frames else np.zeros(bins, dtype=np.float32)
    longest = min(config.max_time_frames, int(_speech(feats, speech_frames) * config.max_time_fraction))
    for _ in range(config.num_time_masks):
        begin, end = _stretch(frames, longest, rng)
        masked[begin:end] = mean
    for _ in range(config.num_freq_masks):
        begin, end = _stretch(bins, min(config.max_freq_bins, bins), rng)
        masked[:, begin:end] = mean[begin:end]
    return masked


def spec_substitute(
    feats: Features, config: SpecSubConfig, rng: np.random.Generator, speech_frames: int | None = None
) -> Features:
    """Return (T, M) features in which random sequences of frames repeat frames a little earlier.

    `speech_frames`: as in `spec_augment`.
    """
    frames = len(feats)
    changed: Features = feats.copy()
    longest = min(config.max_frames, int(_speech(feats, speech_frames) * config.max_fraction))
    for _ in range(config.num):
        begin, end = _stretch(frames, longest, rng)
        back = int(rng.integers(0, begin + 1))
        changed[begin:end] = feats[begin - back : end - back]
    return changed


def spec_trim(
    feats: Features, max_frames: int, min_left: int, rng: np.random.Generator, speech_frames: int | None = None
) -> Features:
    """Cut up to `max_frames` frames from the end of (T, M). At least T / 2 and `min_left` frames remain.

    For features that are partly silence, half of the `speech_frames` and `min_left` of them remain.
    """
    speech = _speech(feats, speech_frames)
    spare = min(max_frames, speech // 2, speech - min_left)
    return feats[: len(feats) - int(rng.integers(0, max(spare, 0) + 1))]


def _speech(feats: Features, speech_frames: int | None) -> int:
    return len(feats) if speech_frames is None else min(speech_frames, len(feats))


def _stretch(length: int, longest: int, rng: np.random.Generator) -> tuple[int, int]:
    width = int(rng.integers(0, longest + 1))
    begin = int(rng.integers(0, length - width + 1))
    return begin, begin + width
