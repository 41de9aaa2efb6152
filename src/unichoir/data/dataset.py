"""Utterance -> Example -> Batch: what training reads, as numpy arrays."""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from unichoir.audio.augment import (
    NO_AUGMENTATION,
    TELEPHONE_RATE,
    AugmentConfig,
    add_dither,
    add_noise,
    change_gain,
    pink_noise,
    spec_augment,
    spec_substitute,
    spec_trim,
    white_noise,
)
from unichoir.audio.fbank import Features, compute_fbank
from unichoir.audio.io import Samples
from unichoir.data.features import FeatureReader
from unichoir.data.manifest import AUDIO_SUFFIXES, Utterance, load_utterance, read_manifest, utterance_duration
from unichoir.errors import AudioError, ConfigError

Tokens = NDArray[np.int64]
PADDING_TOKEN = -1
FRAME_STEP = 32
"""Batches are padded to 3 more than a multiple of this many feature frames, which makes a multiple of 8 encoder frames:
matrix products are fastest in such sizes, and on CPUs each new size costs a compilation."""


class TextEncoder(Protocol):
    """What is needed of a tokenizer here."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a transcript."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which utterances are used, and how they are put together."""

    min_seconds: float = 0.1
    """Shorter utterances are skipped; the length is that after speed perturbation."""
    max_seconds: float = 30.0
    min_tokens: int = 1
    max_tokens: int = 400
    max_frames_in_batch: int = 12000
    """Feature frames of a batch, padding included."""
    max_batch_size: int = 256
    """Utterances of a batch."""
    shards_in_window: int = 16
    """Of a corpus in shards: so many are mixed at a time, drawn anew in every epoch."""
    length_jitter: float = 0.1
    """Lengths are multiplied by up to 1 +- this before sorting, so that batches differ between epochs."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_seconds < self.max_seconds:
            raise ConfigError(f"min_seconds {self.min_seconds} must lie below max_seconds {self.max_seconds}")
        if not 0 <= self.min_tokens <= self.max_tokens:
            raise ConfigError(f"min_tokens {self.min_tokens} must not exceed max_tokens {self.max_tokens}")
        for name in ("max_frames_in_batch", "max_batch_size", "shards_in_window"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.length_jitter < 1:
            raise ConfigError(f"length_jitter must lie in [0, 1), not {self.length_jitter}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One utterance ready for the model."""

    key: str
    feats: Features
    """(T, M)"""
    tokens: Tokens
    """(U,)"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skipped:
    """An utterance that is not used, and why."""

    key: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """Several utterances, padded to the longest."""

    keys: list[str]
    feats: Features
    """(B, T, M), zero padded"""
    feats_lengths: NDArray[np.int64]
    """(B,)"""
    tokens: Tokens
    """(B, U), padded with -1"""
    token_lengths: NDArray[np.int64]
    """(B,)"""


def padded_frames(longest: int) -> int:
    """To how many frames a batch is padded whose longest utterance has that many."""
    return -(-max(longest - 3, 0) // FRAME_STEP) * FRAME_STEP + 3


def collate(examples: Sequence[Example]) -> Batch:
    """Pad one or more examples into a batch, in their order, to the `padded_frames` of the longest."""
    lengths = np.array([len(example.feats) for example in examples], dtype=np.int64)
    token_lengths = np.array([len(example.tokens) for example in examples], dtype=np.int64)
    feats = np.zeros((len(examples), padded_frames(int(lengths.max())), examples[0].feats.shape[1]), dtype=np.float32)
    tokens = np.full((len(examples), token_lengths.max()), PADDING_TOKEN, dtype=np.int64)
    for row, example in enumerate(examples):
        feats[row, : lengths[row]] = example.feats
        tokens[row, : token_lengths[row]] = example.tokens
    keys = [example.key for example in examples]
    return Batch(keys=keys, feats=feats, feats_lengths=lengths, tokens=tokens, token_lengths=token_lengths)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameRate:
    """Encoder frames of feature frames (`EncoderConfig.subsampling_rate`, `EncoderConfig.right_context`)."""

    subsampling_rate: int = 4
    right_context: int = 6

    def encoder_frames(self, num_frames: int) -> int:
        """Encoder frames of so many feature frames."""
        return max(0, (num_frames - self.right_context - 1) // self.subsampling_rate + 1)

    def min_frames_for_ctc(self, tokens: Sequence[int]) -> int:
        """The fewest feature frames in which CTC can emit the tokens: a blank must stand between two equal ones."""
        repeats = sum(first == second for first, second in itertools.pairwise(tokens))
        return self.subsampling_rate * (max(1, len(tokens) + repeats) - 1) + self.right_context + 1


def unknown_language(lang: str, languages: Collection[str]) -> str:
    """What errors say of an utterance whose language has no token."""
    found = f"language '{lang}'" if lang else "no language"
    return f"{found}, but the vocabulary has tokens for {', '.join(languages)}"


def measure_durations(
    utterances: Sequence[Utterance], progress: Callable[[int, int], None] | None = None
) -> tuple[list[Utterance], list[Skipped]]:
    """The utterances with `duration` filled in, and those whose audio tells none.

    Args:
        progress: called with (done, total) after each utterance.
    """
    measured: list[Utterance] = []
    skipped: list[Skipped] = []
    for done, utterance in enumerate(utterances, start=1):
        try:
            measured.append(dataclasses.replace(utterance, duration=utterance_duration(utterance)))
        except AudioError as error:
            skipped.append(Skipped(key=utterance.key, reason=str(error)))
        if progress:
            progress(done, len(utterances))
    return measured, skipped


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What an epoch makes of an utterance, known before any audio is read."""

    parts: tuple[tuple[Utterance, float], ...]
    """(utterance, speed), joined in this order."""

    @property
    def seconds(self) -> float:
        """The planned length; an unknown duration counts as zero."""
        return sum((utterance.duration or 0.0) / speed for utterance, speed in self.parts)


class ExampleReader:
    """Turns an utterance into an example, anew in every epoch.

    What is drawn at random depends on (seed, epoch, key) alone: neither the order of reading nor the number of worker
    processes changes an example.

    Args:
        utterances: those that may be joined to others (see ConcatConfig); with `duration`, see `measure_durations`.
        tokenizer: encodes transcripts.
        features: filterbank and cache.
        data: filters.
        augment: None for validation.
        seed: of all random choices.
        languages: ids of the tokens of languages. Where there are any, labels begin with that of the utterance: CTC and
            the left-to-right decoder find it first, the right-to-left decoder last, after all the words.
        frame_rate: of the encoder that is trained.

    Raises:
        ConfigError: noise or dither together with a cache, which could only keep one of endlessly many versions;
            narrowband for audio that is so anyway.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        *,
        tokenizer: TextEncoder,
        features: FeatureReader,
        data: DataConfig,
        augment: AugmentConfig | None = None,
        seed: int = 0,
        languages: Mapping[str, int] | None = None,
        frame_rate: FrameRate = FrameRate(),
    ) -> None:
        self.augment = augment or NO_AUGMENTATION
        if features.cache_dir is not None and self.augment.changes_audio:
            raise ConfigError("noise and dither differ in every epoch and cannot be cached: turn off either")
        if self.augment.narrowband and features.fbank.sample_rate <= TELEPHONE_RATE:
            raise ConfigError(f"narrowband changes nothing at {features.fbank.sample_rate} Hz")
        self.features = features
        self.data = data
        self.seed = seed
        self.languages = dict(languages or {})
        self.frame_rate = frame_rate
        self._tokenizer = tokenizer
        self._partners = _group_partners(utterances, self.augment)
        noise = self.augment.noise
        self._noises = _list_noises(noise.source) if noise.probability and noise.source else []

    def plan(self, utterance: Utterance, epoch: int) -> Plan:
        """Speeds and the utterances joined, without reading audio; also says how long the example will be."""
        rng = self._rng(utterance, epoch, purpose=0)
        concat = self.augment.concat
        parts = [(utterance, self._draw_speed(rng))]
        seconds = (utterance.duration or 0.0) / parts[0][1]
        partners = self._partners.get(_group(utterance, self.augment), ())
        while partners and _can_join(utterance, self.augment) and rng.random() < concat.probability:
            partner = partners[int(rng.integers(len(partners)))]
            # Another speed would make another voice of it.
            speed = parts[0][1] if concat.same_speaker else self._draw_speed(rng)
            seconds += (partner.duration or 0.0) / speed
            if seconds > concat.max_seconds:
                break
            parts.append((partner, speed))
        return Plan(parts=tuple(parts))

    def planned_frames(self, utterance: Utterance, epoch: int) -> int:
        """How many feature frames `read` will give, before trimming; off by one where durations are rounded."""
        fbank = self.features.fbank
        parts = self.plan(utterance, epoch).parts
        return sum(fbank.num_frames(round((part.duration or 0.0) / speed * fbank.sample_rate)) for part, speed in parts)

    def read(self, utterance: Utterance, epoch: int) -> Example | Skipped:
        """The example of this epoch, or the reason why there is none; bad data is never raised."""
        if not utterance.txt.strip():
            return Skipped(key=utterance.key, reason="empty transcript")
        if self.languages and utterance.lang not in self.languages:
            return Skipped(key=utterance.key, reason=unknown_language(utterance.lang, self.languages))
        plan = self.plan(utterance, epoch)
        # A known length spares decoding an hour that will not be used.
        if utterance.duration is not None and plan.seconds > self.data.max_seconds:
            return Skipped(key=utterance.key, reason=self._too_long(plan.seconds))
        rng = self._rng(utterance, epoch, purpose=1)
        try:
            feats, used = self._join(plan, rng)
        except AudioError as error:
            return Skipped(key=utterance.key, reason=str(error))
        tokens = [self.languages[utterance.lang]] if self.languages else []
        tokens += self._tokenizer.encode(" ".join(part.txt.strip() for part in used))
        needed = self.frame_rate.min_frames_for_ctc(tokens)
        reason = self._unfit(len(feats), len(tokens), needed)
        if reason:
            return Skipped(key=utterance.key, reason=reason)
        feats = self._change_features(feats, needed, rng)
        return Example(key=utterance.key, feats=feats, tokens=np.array(tokens, dtype=np.int64))

    def _join(self, plan: Plan, rng: np.random.Generator) -> tuple[Features, list[Utterance]]:
        (first, speed), *others = plan.parts
        # All parts through one line. Drawn only where it matters: runs without it go on as they began.
        narrowband = self.augment.narrowband > 0 and rng.random() < self.augment.narrowband
        pieces, used = [self._read_features(first, speed, narrowband, rng)], [first]
        for other, other_speed in others:
            # A partner that cannot be read is left out here, and named when its own turn comes.
            with contextlib.suppress(AudioError):
                pieces.append(self._read_features(other, other_speed, narrowband, rng))
                used.append(other)
        return np.concatenate(pieces) if others else pieces[0], used

    def _read_features(
        self, utterance: Utterance, speed: float, narrowband: bool, rng: np.random.Generator
    ) -> Features:
        if not self.augment.changes_audio:
            return self.features.features(utterance, speed, narrowband)
        samples = self.features.samples(utterance, speed, narrowband)
        noise = self.augment.noise
        if rng.random() < noise.probability:
            samples = add_noise(
                samples, self._draw_noise(len(samples), rng), rng.uniform(noise.min_snr_db, noise.max_snr_db)
            )
        if self.augment.dither:
            samples = add_dither(samples, self.augment.dither, rng)
        return compute_fbank(samples, self.features.fbank)

    def _draw_noise(self, num_samples: int, rng: np.random.Generator) -> Samples:
        if not self._noises:
            return (white_noise if rng.random() < 0.5 else pink_noise)(num_samples, rng)
        noise = _load_noise(self._noises[int(rng.integers(len(self._noises)))], self.features.fbank.sample_rate)
        begin = int(rng.integers(0, len(noise)))
        # Wraps around, so that short noises fill long utterances.
        return np.take(noise, np.arange(begin, begin + num_samples), mode="wrap")

    def _change_features(self, feats: Features, min_left: int, rng: np.random.Generator) -> Features:
        augment = self.augment
        if augment.gain_db:
            feats = change_gain(feats, rng.uniform(-augment.gain_db, augment.gain_db))
        feats = spec_trim(feats, augment.spec_trim_frames, min_left, rng)
        feats = spec_substitute(feats, augment.spec_sub, rng)
        return spec_augment(feats, augment.spec_augment, rng)

    def _unfit(self, num_frames: int, num_tokens: int, needed: int) -> str:
        seconds = num_frames * self.features.fbank.frame_shift_ms / 1000
        if seconds < self.data.min_seconds:
            return f"shorter than {self.data.min_seconds} s ({seconds:.2f} s)"
        if seconds > self.data.max_seconds:
            return self._too_long(seconds)
        if not self.data.min_tokens <= num_tokens <= self.data.max_tokens:
            return f"{num_tokens} tokens, not between {self.data.min_tokens} and {self.data.max_tokens}"
        if num_frames < needed:
            frames = self.frame_rate.encoder_frames(num_frames)
            return f"{num_tokens} tokens do not fit in {frames} encoder frames ({seconds:.2f} s)"
        return ""

    def _too_long(self, seconds: float) -> str:
        return f"longer than {self.data.max_seconds} s ({seconds:.2f} s)"

    def _draw_speed(self, rng: np.random.Generator) -> float:
        return self.augment.speeds[int(rng.integers(len(self.augment.speeds)))]

    def _rng(self, utterance: Utterance, epoch: int, purpose: int) -> np.random.Generator:
        # Python's own hash of a string differs between processes.
        digest = hashlib.blake2b(utterance.key.encode(), digest_size=16).digest()
        words = np.frombuffer(digest, dtype="<u4").tolist()
        return np.random.default_rng(np.random.SeedSequence([self.seed, epoch, purpose, *words]))


def _group(utterance: Utterance, augment: AugmentConfig) -> tuple[str, str]:
    return utterance.lang, utterance.speaker if augment.concat.same_speaker else ""


def _can_join(utterance: Utterance, augment: AugmentConfig) -> bool:
    return 0 < (utterance.duration or 0.0) <= augment.concat.max_part_seconds and bool(utterance.txt.strip())


def _group_partners(utterances: Sequence[Utterance], augment: AugmentConfig) -> dict[tuple[str, str], list[Utterance]]:
    partners: dict[tuple[str, str], list[Utterance]] = defaultdict(list)
    if augment.concat.probability:
        for utterance in utterances:
            if _can_join(utterance, augment):
                partners[_group(utterance, augment)].append(utterance)
    return dict(partners)


def _list_noises(source: str) -> list[Utterance]:
    folder = Path(source)
    if folder.is_dir() and not (folder / "wav.scp").exists():
        files = sorted(path for path in folder.rglob("*") if path.suffix[1:].lower() in AUDIO_SUFFIXES)
        if not files:
            raise ConfigError(f"noise source {source}: no audio files")
        return [Utterance(key=str(path), wav=str(path), txt="") for path in files]
    return read_manifest(folder)


@functools.lru_cache(maxsize=64)
def _load_noise(utterance: Utterance, sample_rate: int) -> Samples:
    return load_utterance(utterance, sample_rate)
