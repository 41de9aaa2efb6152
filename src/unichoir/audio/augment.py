"""Random changes to audio and features while training; every function is pure given its random generator."""

import dataclasses

import numpy as np

from unichoir.audio.fbank import WHISPER_FLOOR, FbankConfig, Features
from unichoir.audio.io import Samples, resample
from unichoir.errors import ConfigError

TELEPHONE_RATE = 8000


def _check_fraction(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} must lie in [0, 1], not {value}")


def _check_count(name: str, value: int) -> None:
    if value < 0:
        raise ConfigError(f"{name} must not be negative, but is {value}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """Additive noise."""

    probability: float = 0.0
    """How often an utterance gets noise."""
    source: str | None = None
    """A manifest or a folder of noise recordings; None generates white or pink noise, evenly."""
    min_snr_db: float = 5.0
    """The signal to noise ratio is drawn evenly between this and `max_snr_db`."""
    max_snr_db: float = 25.0

    def __post_init__(self) -> None:
        _check_fraction("noise probability", self.probability)
        if self.min_snr_db > self.max_snr_db:
            raise ConfigError(f"min_snr_db {self.min_snr_db} is above max_snr_db {self.max_snr_db}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpecAugmentConfig:
    """Masks over time and frequency (SpecAugment, arXiv 1904.08779)."""

    num_time_masks: int = 2
    max_time_frames: int = 50
    max_time_fraction: float = 0.2
    """Of the utterance, for each mask: short words would vanish under 50 frames."""
    num_freq_masks: int = 2
    max_freq_bins: int = 10

    def __post_init__(self) -> None:
        _check_fraction("max_time_fraction", self.max_time_fraction)
        for name in ("num_time_masks", "max_time_frames", "num_freq_masks", "max_freq_bins"):
            _check_count(name, getattr(self, name))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpecSubConfig:
    """Stretches of frames replaced by earlier ones (U2++, arXiv 2106.05642)."""

    num: int = 3
    max_frames: int = 30
    max_fraction: float = 0.1
    """Of the utterance, for each stretch."""

    def __post_init__(self) -> None:
        _check_fraction("max_fraction", self.max_fraction)
        _check_count("num", self.num)
        _check_count("max_frames", self.max_frames)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConcatConfig:
    """Joining utterances, so that words recorded one by one are also heard in a row."""

    probability: float = 0.0
    """Of adding one more utterance, asked again after each one added."""
    max_seconds: float = 15.0
    """Of the joined utterance."""
    max_part_seconds: float = 3.0
    """Longer utterances are neither extended nor appended."""
    same_speaker: bool = False
    """Join only utterances of one speaker, all at one speed. Languages are never mixed."""

    def __post_init__(self) -> None:
        _check_fraction("concat probability", self.probability)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """All that training may do to an utterance; the defaults are the U2++ recipe."""

    speeds: tuple[float, ...] = (0.9, 1.0, 1.1)
    """One is drawn evenly; pitch changes with it (Ko et al., 2015)."""
    gain_db: float = 0.0
    """The level is changed by up to this much in either direction."""
    dither: float = 0.0
    """Standard deviation of Gaussian noise added to samples on the int16 scale."""
    narrowband: float = 0.0
    """How often an utterance is heard as over a telephone, without anything above 4 kHz."""
    noise: NoiseConfig = NoiseConfig()
    spec_augment: SpecAugmentConfig = SpecAugmentConfig()
    spec_sub: SpecSubConfig = SpecSubConfig()
    spec_trim_frames: int = 0
    """Up to this many frames are cut from the end (SpecTrim)."""
    concat: ConcatConfig = ConcatConfig()

    def __post_init__(self) -> None:
        if not self.speeds or not all(0.5 <= speed <= 2 for speed in self.speeds):
            raise ConfigError(f"speeds must lie between 0.5 and 2, found {self.speeds}")
        if min(self.gain_db, self.dither, self.spec_trim_frames) < 0:
            raise ConfigError("gain_db, dither and spec_trim_frames must not be negative")
        _check_fraction("narrowband", self.narrowband)

    @property
    def changes_audio(self) -> bool:
        """Whether samples are changed at random beyond the choice among `speeds`."""
        return self.dither > 0 or self.noise.probability > 0


NO_AUGMENTATION = AugmentConfig(
    speeds=(1.0,), spec_augment=SpecAugmentConfig(num_time_masks=0, num_freq_masks=0), spec_sub=SpecSubConfig(num=0)
)


def perturb_speed(samples: Samples, speed: float) -> Samples:
    """(N,) to (about N / speed,): played `speed` times as fast, pitch included."""
    return resample(samples, speed, 1.0)


def narrow_band(samples: Samples, sample_rate: int) -> Samples:
    """(N,) samples as after a telephone line: sampled at 8 kHz in between."""
    return resample(resample(samples, sample_rate, TELEPHONE_RATE), TELEPHONE_RATE, sample_rate)


def add_dither(samples: Samples, amount: float, rng: np.random.Generator) -> Samples:
    """(N,) samples plus Gaussian noise whose standard deviation is `amount` steps of int16."""
    noise = rng.standard_normal(len(samples), dtype=np.float32)
    dithered: Samples = samples + noise * np.float32(amount / 32768)
    return dithered


def white_noise(num_samples: int, rng: np.random.Generator) -> Samples:
    """(N,) Gaussian noise of equal power at all frequencies."""
    return rng.standard_normal(num_samples, dtype=np.float32)


def pink_noise(num_samples: int, rng: np.random.Generator) -> Samples:
    """(N,) Gaussian noise whose power falls with 1 / frequency, as that of most rooms does."""
    spectrum = np.fft.rfft(rng.standard_normal(num_samples))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    spectrum[0] = 0
    return np.fft.irfft(spectrum, num_samples).astype(np.float32)


def add_noise(samples: Samples, noise: Samples, snr_db: float) -> Samples:
    """Mix (N,) noise under (N,) samples at the given ratio of mean powers; silence on either side changes nothing."""
    signal_power = float(np.mean(np.square(samples, dtype=np.float64)))
    noise_power = float(np.mean(np.square(noise, dtype=np.float64)))
    if signal_power == 0 or noise_power == 0:
        return samples
    scale = np.sqrt(signal_power / noise_power / 10 ** (snr_db / 10))
    mixed: Samples = samples + noise * np.float32(scale)
    return mixed


def change_gain(feats: Features, decibels: float, config: FbankConfig) -> Features:
    """(T, M) features, without lead, as if the samples had been louder by `decibels`: a gain shifts log energies.

    Those at the floor of kind whisper stay there: most are silence, which no gain changes.
    """
    shifted: Features = feats + np.float32(decibels / config.decibels)
    if config.kind == "whisper":
        floor = np.float32((WHISPER_FLOOR + 4) / 4)
        shifted = np.where(feats > floor, np.maximum(shifted, floor), floor)
    return shifted


def spec_augment(feats: Features, config: SpecAugmentConfig, rng: np.random.Generator) -> Features:
    """A copy of (T, M) with random stretches of frames and bands of bins set to the utterance's mean of each bin.

    The mean rather than zero because the features are not normalised yet; after CMVN it is close to zero.
    """
    frames, bins = feats.shape
    masked: Features = feats.copy()
    mean = feats.mean(axis=0) if frames else np.zeros(bins, dtype=np.float32)
    longest = min(config.max_time_frames, int(frames * config.max_time_fraction))
    for _ in range(config.num_time_masks):
        begin, end = _stretch(frames, longest, rng)
        masked[begin:end] = mean
    for _ in range(config.num_freq_masks):
        begin, end = _stretch(bins, min(config.max_freq_bins, bins), rng)
        masked[:, begin:end] = mean[begin:end]
    return masked


def spec_substitute(feats: Features, config: SpecSubConfig, rng: np.random.Generator) -> Features:
    """A copy of (T, M) where random stretches of frames repeat what came some frames earlier."""
    frames = len(feats)
    changed: Features = feats.copy()
    longest = min(config.max_frames, int(frames * config.max_fraction))
    for _ in range(config.num):
        begin, end = _stretch(frames, longest, rng)
        back = int(rng.integers(0, begin + 1))
        changed[begin:end] = feats[begin - back : end - back]
    return changed


def spec_trim(feats: Features, max_frames: int, min_left: int, rng: np.random.Generator) -> Features:
    """(T, M) without up to `max_frames` of its last frames; at least half of it and `min_left` frames stay."""
    spare = min(max_frames, len(feats) // 2, len(feats) - min_left)
    return feats[: len(feats) - int(rng.integers(0, max(spare, 0) + 1))]


def _stretch(length: int, longest: int, rng: np.random.Generator) -> tuple[int, int]:
    width = int(rng.integers(0, longest + 1))
    begin = int(rng.integers(0, length - width + 1))
    return begin, begin + width
