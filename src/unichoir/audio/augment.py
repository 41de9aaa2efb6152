"""Random changes to audio and features while training; every function is pure given its random generator."""

import dataclasses

import numpy as np

from unichoir.audio.fbank import WHISPER_FLOOR, FbankConfig, Features
from unichoir.audio.io import Samples, resample
from unichoir.audio.noises import Colour
from unichoir.audio.telephone import TELEPHONE_RATE, Companding
from unichoir.errors import ConfigError

CEILING = 3.5
"""Height in metres that rooms reach at most."""


def _check_fraction(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} must lie in [0, 1], not {value}")


def _check_count(name: str, value: int) -> None:
    if value < 0:
        raise ConfigError(f"{name} must not be negative, but is {value}")


def _check_range(low_name: str, low: float, high_name: str, high: float) -> None:
    if low > high:
        raise ConfigError(f"{low_name} {low} is above {high_name} {high}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """Additive noise."""

    probability: float = 0.0
    """How often an utterance gets noise."""
    source: str | None = None
    """A manifest or a folder of noise recordings; None generates noise."""
    colours: tuple[Colour, ...] = ("white", "pink")
    """Of generated noise: white, pink or brown, drawn evenly."""
    babble: float = 0.0
    """How often the noise is babble instead: several people who speak at once."""
    babble_source: str | None = None
    """A manifest or a folder of speech for babble; None takes other training utterances."""
    min_voices: int = 3
    """The number of voices in babble is drawn evenly between this and `max_voices`."""
    max_voices: int = 8
    """See `min_voices`."""
    min_snr_db: float = 5.0
    """The signal to noise ratio is drawn evenly between this and `max_snr_db`."""
    max_snr_db: float = 25.0
    """See `min_snr_db`."""

    def __post_init__(self) -> None:
        _check_fraction("noise probability", self.probability)
        _check_fraction("noise babble", self.babble)
        if not self.colours:
            raise ConfigError("noise colours must name at least one of white, pink and brown")
        if self.min_voices < 1:
            raise ConfigError(f"min_voices must be at least 1, not {self.min_voices}")
        _check_range("min_voices", self.min_voices, "max_voices", self.max_voices)
        _check_range("min_snr_db", self.min_snr_db, "max_snr_db", self.max_snr_db)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoomConfig:
    """Reverberation, from rooms that are drawn once per run."""

    probability: float = 0.0
    """How often an utterance is heard in a room."""
    num_responses: int = 64
    """Impulse responses that are drawn from the run's seed; a sixth of a second of computing for each."""
    min_rt60: float = 0.2
    """Reverberation time, in seconds until an echo is 60 dB weaker: drawn evenly between this and `max_rt60`."""
    max_rt60: float = 0.6
    """See `min_rt60`."""
    min_side: float = 3.0
    """Length and width in metres are drawn evenly between this and `max_side`; heights lie between 2.4 and 3.5."""
    max_side: float = 8.0
    """See `min_side`."""
    min_distance: float = 0.3
    """From the speaker to the microphone, in metres: drawn evenly between this and `max_distance`."""
    max_distance: float = 3.0
    """See `min_distance`."""

    def __post_init__(self) -> None:
        _check_fraction("rooms probability", self.probability)
        if self.num_responses < 1:
            raise ConfigError(f"num_responses must be at least 1, not {self.num_responses}")
        if self.min_side < 2:
            raise ConfigError(f"min_side must be at least 2 m, not {self.min_side}")
        if not 0 < self.min_distance <= self.min_side / 2:
            raise ConfigError(f"min_distance must lie between 0 and half of min_side, not {self.min_distance}")
        for name in ("side", "distance", "rt60"):
            low, high = f"min_{name}", f"max_{name}"
            _check_range(low, getattr(self, low), high, getattr(self, high))
        # Sabine's formula, where walls take all that reaches them.
        volume, surface = self.max_side**2 * CEILING, 2 * self.max_side**2 + 4 * self.max_side * CEILING
        shortest = 0.163 * volume / surface
        if self.min_rt60 < shortest:
            raise ConfigError(f"min_rt60 must be at least {shortest:.2f} s in rooms of max_side, not {self.min_rt60}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TelephoneConfig:
    """A telephone line: 300 to 3400 Hz, 8000 samples in a second, eight bits each."""

    probability: float = 0.0
    """How often an utterance, with the room and the noise around it, is heard over the line."""
    companding: tuple[Companding, ...] = ("mu-law", "a-law")
    """How G.711 makes eight bits, drawn evenly: mu-law (America, Japan), a-law (elsewhere), none (only the band)."""

    def __post_init__(self) -> None:
        _check_fraction("telephone probability", self.probability)
        if not self.companding:
            raise ConfigError("companding must name at least one of mu-law, a-law and none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PaddingConfig:
    """Silence before and after an utterance, and what the gaps of `concat` are made of."""

    probability: float = 0.0
    """How often an utterance gets silence around it."""
    max_seconds: float = 3.0
    """Of each of both sides, drawn evenly from 0; less where `data.max_seconds` would be exceeded."""
    digital: float = 0.5
    """How often a silence is digital, samples of exactly 0 without room or noise; otherwise it is faint noise."""
    min_level_db: float = -90.0
    """The root mean square of faint noise against an amplitude of 1 is drawn evenly between this and `max_level_db`."""
    max_level_db: float = -50.0
    """See `min_level_db`."""

    def __post_init__(self) -> None:
        _check_fraction("padding probability", self.probability)
        _check_fraction("padding digital", self.digital)
        if self.max_seconds < 0:
            raise ConfigError(f"padding max_seconds must not be negative, but is {self.max_seconds}")
        _check_range("min_level_db", self.min_level_db, "max_level_db", self.max_level_db)
        if self.max_level_db > 0:
            raise ConfigError(f"max_level_db must not be above 0, but is {self.max_level_db}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpecAugmentConfig:
    """Masks over time and frequency (SpecAugment, arXiv 1904.08779)."""

    num_time_masks: int = 2
    """Stretches of time that are masked."""
    max_time_frames: int = 50
    """Longest mask over time, in feature frames."""
    max_time_fraction: float = 0.2
    """Of the utterance, for each mask: short words would vanish under 50 frames."""
    num_freq_masks: int = 2
    """Bands of frequency that are masked."""
    max_freq_bins: int = 10
    """Widest mask over frequency, in mel bins."""

    def __post_init__(self) -> None:
        _check_fraction("max_time_fraction", self.max_time_fraction)
        for name in ("num_time_masks", "max_time_frames", "num_freq_masks", "max_freq_bins"):
            _check_count(name, getattr(self, name))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpecSubConfig:
    """Stretches of frames replaced by earlier ones (U2++, arXiv 2106.05642)."""

    num: int = 3
    """Stretches that are replaced."""
    max_frames: int = 30
    """Longest stretch, in feature frames."""
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
    max_gap_seconds: float = 0.0
    """Between two utterances there is a silence, drawn evenly from 0 to this; see `padding` for what it is made of."""

    def __post_init__(self) -> None:
        _check_fraction("concat probability", self.probability)
        if self.max_gap_seconds < 0:
            raise ConfigError(f"max_gap_seconds must not be negative, but is {self.max_gap_seconds}")


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
    """How often an utterance is as if recorded at 8 kHz, without anything above 4 kHz; noise comes on top of it."""
    rooms: RoomConfig = RoomConfig()
    """Reverberation."""
    noise: NoiseConfig = NoiseConfig()
    """Added noise."""
    telephone: TelephoneConfig = TelephoneConfig()
    """Telephone lines."""
    padding: PaddingConfig = PaddingConfig()
    """Silence around utterances."""
    spec_augment: SpecAugmentConfig = SpecAugmentConfig()
    """Masks over features."""
    spec_sub: SpecSubConfig = SpecSubConfig()
    """Frames replaced by earlier ones."""
    spec_trim_frames: int = 0
    """Up to this many frames are cut from the end (SpecTrim)."""
    concat: ConcatConfig = ConcatConfig()
    """Utterances that are joined."""

    def __post_init__(self) -> None:
        if not self.speeds or not all(0.5 <= speed <= 2 for speed in self.speeds):
            raise ConfigError(f"speeds must lie between 0.5 and 2, found {self.speeds}")
        if min(self.gain_db, self.dither, self.spec_trim_frames) < 0:
            raise ConfigError("gain_db, dither and spec_trim_frames must not be negative")
        _check_fraction("narrowband", self.narrowband)

    @property
    def changes_audio(self) -> bool:
        """Whether samples are changed at random beyond the choice among `speeds` and the bandwidth."""
        return bool(self.audio_changes)

    @property
    def audio_changes(self) -> tuple[str, ...]:
        """The keys that change samples in endlessly many ways, so that features cannot be kept."""
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


def change_gain(feats: Features, decibels: float, config: FbankConfig) -> Features:
    """(T, M) features, without lead, as if the samples had been louder by `decibels`: a gain shifts log energies.

    Those at the floor of kind whisper stay there: most are silence, which no gain changes. Nothing
    clips: samples are floating point numbers, and features of those beyond [-1, 1] go on in the same way.
    """
    shifted: Features = feats + np.float32(decibels / config.decibels)
    if config.kind == "whisper":
        floor = np.float32((WHISPER_FLOOR + 4) / 4)
        shifted = np.where(feats > floor, np.maximum(shifted, floor), floor)
    return shifted


def spec_augment(
    feats: Features, config: SpecAugmentConfig, rng: np.random.Generator, speech_frames: int | None = None
) -> Features:
    """A copy of (T, M) with random stretches of frames and bands of bins set to the utterance's mean of each bin.

    The mean rather than zero because the features are not normalised yet; after CMVN it is close to zero.
    `speech_frames`, if it is not all of them, says how many frames `max_time_fraction` is taken of: a short word in
    long silence must not vanish.
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
    """A copy of (T, M) where random stretches of frames repeat what came some frames earlier.

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
    """(T, M) without up to `max_frames` of its last frames; at least half of it and `min_left` frames stay.

    Of features that are partly silence, half of the `speech_frames` and `min_left` of them stay.
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
