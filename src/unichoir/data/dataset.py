"""From utterances to examples and batches, the numpy arrays that training reads."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from unichoir.audio.augment import (
    NO_AUGMENTATION,
    AugmentConfig,
    change_gain,
    spec_augment,
    spec_substitute,
    spec_trim,
)
from unichoir.audio.fbank import Features, compute_fbank
from unichoir.audio.telephone import TELEPHONE_RATE
from unichoir.configuration import AT_LEAST_ONE, check_ranges
from unichoir.data.features import FeatureReader
from unichoir.data.manifest import Utterance, utterance_duration
from unichoir.data.planner import Plan, Planner, seeded_rng
from unichoir.data.waveforms import WaveformChanger
from unichoir.errors import AudioError, ConfigError

Tokens = NDArray[np.int64]
Piece = NDArray[np.float32]
"""Samples or features of one utterance."""
PADDING_TOKEN = -1
FRAME_STEP = 32
"""Batches are padded to 3 more than a multiple of this number of feature frames, which makes a multiple of 8 encoder
frames. Matrix products are fastest in these sizes, and on CPUs each new size is compiled."""
TOKEN_STEP = 8
"""Tokens are padded to one less than a multiple of this number, because a decoder has one place more."""


class TextEncoder(Protocol):
    """The part of a tokenizer that is used here."""

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a transcript."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Filters for utterances, and batch sizes."""

    min_seconds: float = 0.1
    """Minimum length of an utterance in seconds, after speed perturbation. Shorter utterances are skipped."""
    max_seconds: float = 30.0
    """Maximum length of an utterance in seconds. Longer utterances are skipped."""
    min_tokens: int = 1
    """Minimum number of tokens of an utterance. Utterances with fewer tokens are skipped."""
    max_tokens: int = 400
    """Maximum number of tokens of an utterance. Utterances with more tokens are skipped."""
    max_frames_in_batch: int = 12000
    """Maximum number of feature frames in a batch, including padding."""
    max_batch_size: int = 256
    """Maximum number of utterances in a batch."""
    shards_in_window: int = 16
    """Number of shards that are mixed at a time, drawn anew in every epoch. It only applies to sharded corpora."""
    length_jitter: float = 0.1
    """Range of random factors for lengths before sorting, 1 +- this value, in [0, 1). Jitter varies the batches between
    epochs."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_seconds < self.max_seconds:
            raise ConfigError(f"min_seconds {self.min_seconds} must lie below max_seconds {self.max_seconds}")
        if not 0 <= self.min_tokens <= self.max_tokens:
            raise ConfigError(f"min_tokens {self.min_tokens} must not exceed max_tokens {self.max_tokens}")
        sizes = ("max_frames_in_batch", "max_batch_size", "shards_in_window")
        check_ranges(self, **dict.fromkeys(sizes, AT_LEAST_ONE))
        if not 0 <= self.length_jitter < 1:
            raise ConfigError(f"length_jitter must lie in [0, 1), not {self.length_jitter}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One utterance ready for the model."""

    key: str
    feats: Features
    """Features (T, M)."""
    tokens: Tokens
    """Token ids (U,)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skipped:
    """An utterance that is not used, and the reason."""

    key: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """Several utterances, padded to the longest."""

    keys: list[str]
    feats: Features
    """Features (B, T, M), padded with zeros."""
    feats_lengths: NDArray[np.int64]
    """Number of real frames in each row, (B,)."""
    tokens: Tokens
    """Token ids (B, U), padded with -1."""
    token_lengths: NDArray[np.int64]
    """Number of tokens in each row, (B,)."""


def padded_frames(longest: int) -> int:
    """Return the number of frames of a batch whose longest utterance has `longest` frames."""
    return -(-max(longest - 3, 0) // FRAME_STEP) * FRAME_STEP + 3


def collate(examples: Sequence[Example]) -> Batch:
    """Pad one or more examples into a batch, in order, to the `padded_frames` of the longest and `TOKEN_STEP`."""
    lengths = np.array([len(example.feats) for example in examples], dtype=np.int64)
    token_lengths = np.array([len(example.tokens) for example in examples], dtype=np.int64)
    feats = np.zeros((len(examples), padded_frames(int(lengths.max())), examples[0].feats.shape[1]), dtype=np.float32)
    most = -(-(int(token_lengths.max()) + 1) // TOKEN_STEP) * TOKEN_STEP - 1
    tokens = np.full((len(examples), most), PADDING_TOKEN, dtype=np.int64)
    for row, example in enumerate(examples):
        feats[row, : lengths[row]] = example.feats
        tokens[row, : token_lengths[row]] = example.tokens
    keys = [example.key for example in examples]
    return Batch(keys=keys, feats=feats, feats_lengths=lengths, tokens=tokens, token_lengths=token_lengths)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameRate:
    """Encoder frames for feature frames (`EncoderConfig.subsampling_rate`, `EncoderConfig.right_context`)."""

    subsampling_rate: int = 4
    right_context: int = 6

    def encoder_frames(self, num_frames: int) -> int:
        """Return the number of encoder frames for that many feature frames."""
        return max(0, (num_frames - self.right_context - 1) // self.subsampling_rate + 1)

    def min_frames_for_ctc(self, tokens: Sequence[int]) -> int:
        """Return the fewest feature frames in which CTC can emit the tokens.

        Equal neighbours need a blank between them.
        """
        repeats = sum(first == second for first, second in itertools.pairwise(tokens))
        return self.subsampling_rate * (max(1, len(tokens) + repeats) - 1) + self.right_context + 1


def unknown_language(lang: str, languages: Collection[str]) -> str:
    """Return the error message for an utterance whose language has no token."""
    found = f"language '{lang}'" if lang else "no language"
    return f"{found}, but the vocabulary has tokens for {', '.join(languages)}"


def measure_durations(
    utterances: Sequence[Utterance], progress: Callable[[int, int], None] | None = None
) -> tuple[list[Utterance], list[Skipped]]:
    """Return the utterances with `duration` filled in, and those without a measurable duration.

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


class ExampleReader:
    """Turns an utterance into an example, anew in every epoch.

    Random choices only depend on (seed, epoch, key). Neither the order of reading nor the number of worker processes
    changes an example.

    Args:
        utterances: utterances that may be joined to others (see ConcatConfig) or serve as babble (see NoiseConfig),
            with `duration`, see `measure_durations`.
        tokenizer: encodes transcripts.
        features: filterbank and cache.
        data: filters.
        augment: random changes; None for validation.
        seed: seeds all random choices.
        languages: token ids of languages. If given, labels start with the language of the utterance: CTC and the
            left-to-right decoder predict it first, the right-to-left decoder last, after all words.
        frame_rate: frame rate of the trained encoder.

    Raises:
        ConfigError: a cache is combined with random changes of samples, or narrowband or telephone doesn't apply to the
            sample rate; see also `WaveformChanger`.
        UnichoirError: the package for rooms is not installed.
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
            changes = ", ".join(f"augment.{name}" for name in self.augment.audio_changes)
            raise ConfigError(
                f"{changes}: changes in every epoch and cannot be cached: turn it off, or remove feature_cache"
            )
        if self.augment.narrowband and features.fbank.sample_rate <= TELEPHONE_RATE:
            raise ConfigError(f"narrowband changes nothing at {features.fbank.sample_rate} Hz")
        if self.augment.telephone.probability and features.fbank.sample_rate < TELEPHONE_RATE:
            raise ConfigError(f"telephone needs {TELEPHONE_RATE} Hz, the features have {features.fbank.sample_rate}")
        self.features = features
        self.data = data
        self.seed = seed
        self.languages = dict(languages or {})
        self.frame_rate = frame_rate
        self._tokenizer = tokenizer
        self._planner = Planner(self.augment, data.max_seconds, utterances, seed)
        self._changer = WaveformChanger(
            self.augment, sample_rate=features.fbank.sample_rate, utterances=utterances, seed=seed
        )

    def plan(self, utterance: Utterance, epoch: int) -> Plan:
        """Plan the example of this epoch, without reading audio. See `Planner.plan`."""
        return self._planner.plan(utterance, epoch)

    def planned_frames(self, utterance: Utterance, epoch: int) -> int:
        """Return the number of feature frames that `read` gives before trimming.

        It can be off by one if durations are rounded.
        """
        fbank, plan = self.features.fbank, self.plan(utterance, epoch)
        speech = [round((part.duration or 0.0) / speed * fbank.sample_rate) for part, speed in plan.parts]
        if not self.augment.changes_audio:  # features are joined, not samples
            counts = [fbank.num_frames(samples) for samples in speech]
            # Joined utterances share one lead and one trail.
            return sum(counts) - fbank.edge_frames * max(sum(count > 0 for count in counts) - 1, 0)
        silence = sum(round(silence.seconds * fbank.sample_rate) for silence in plan.silences)
        return fbank.num_frames(sum(speech) + silence)

    def read(self, utterance: Utterance, epoch: int) -> Example | Skipped:
        """Return the example of this epoch, or the reason why there is none. Invalid data never raises."""
        if not utterance.txt.strip():
            return Skipped(key=utterance.key, reason="empty transcript")
        if self.languages and utterance.lang not in self.languages:
            return Skipped(key=utterance.key, reason=unknown_language(utterance.lang, self.languages))
        plan = self.plan(utterance, epoch)
        # A known length avoids decoding an hour that won't be used.
        if utterance.duration is not None and plan.seconds > self.data.max_seconds:
            return Skipped(key=utterance.key, reason=self._too_long(plan.seconds))
        rng = seeded_rng(self.seed, utterance, epoch, purpose=1)
        try:
            feats, speech_frames, used = self._join(plan, rng)
        except AudioError as error:
            return Skipped(key=utterance.key, reason=str(error))
        tokens = [self.languages[utterance.lang]] if self.languages else []
        tokens += self._tokenizer.encode(" ".join(part.txt.strip() for part in used))
        needed = max(self.frame_rate.min_frames_for_ctc(tokens) - self.features.fbank.edge_frames, 1)
        reason = self._unfit(len(feats), speech_frames, len(tokens), needed)
        if reason:
            return Skipped(key=utterance.key, reason=reason)
        feats = self.features.fbank.add_edges(self._change_features(feats, speech_frames, needed, rng))
        return Example(key=utterance.key, feats=feats, tokens=np.array(tokens, dtype=np.int64))

    def _join(self, plan: Plan, rng: np.random.Generator) -> tuple[Features, int, list[Utterance]]:
        """Return (T, M) features without edges, the number of speech frames, and the utterances they contain."""
        # All parts use the same line. It is only drawn if needed, so runs without it keep their random numbers.
        narrowband = self.augment.narrowband > 0 and rng.random() < self.augment.narrowband
        if self.augment.changes_audio:
            return self._join_samples(plan, narrowband, rng)
        pieces, used = self._read_parts(self.features.features, plan, narrowband)
        pieces = [self.features.fbank.drop_edges(piece) for piece in pieces]
        feats = np.concatenate(pieces) if len(pieces) > 1 else pieces[0]
        return feats, len(feats), [plan.parts[number][0] for number in used]

    def _join_samples(
        self, plan: Plan, narrowband: bool, rng: np.random.Generator
    ) -> tuple[Features, int, list[Utterance]]:
        fbank = self.features.fbank
        pieces, used = self._read_parts(self.features.samples, plan, narrowband)
        # If a partner can't be read, the gap before it is removed too.
        silences = [plan.silences[number] for number in (*used, -1)] if plan.silences else []
        utterances = [plan.parts[number][0] for number in used]
        samples = self._changer.change(pieces, silences, rng, [utterance.key for utterance in utterances])
        speech_frames = max(fbank.num_frames(sum(map(len, pieces))) - fbank.edge_frames, 0)
        return fbank.drop_edges(compute_fbank(samples, fbank)), speech_frames, utterances

    def _read_parts(
        self, read: Callable[[Utterance, float, bool], Piece], plan: Plan, narrowband: bool
    ) -> tuple[list[Piece], list[int]]:
        """Return the readable parts of a plan and their numbers. The first part must be readable."""
        (first, speed), *others = plan.parts
        pieces, used = [read(first, speed, narrowband)], [0]
        for number, (other, other_speed) in enumerate(others, start=1):
            # An unreadable partner is left out here, and reported as an utterance of its own.
            with contextlib.suppress(AudioError):
                pieces.append(read(other, other_speed, narrowband))
                used.append(number)
        return pieces, used

    def _change_features(
        self, feats: Features, speech_frames: int, min_left: int, rng: np.random.Generator
    ) -> Features:
        augment = self.augment
        if augment.gain_db and not augment.changes_audio:
            feats = change_gain(feats, rng.uniform(-augment.gain_db, augment.gain_db), self.features.fbank)
        feats = spec_trim(feats, augment.spec_trim_frames, min_left, rng, speech_frames)
        feats = spec_substitute(feats, augment.spec_sub, rng, speech_frames)
        return spec_augment(feats, augment.spec_augment, rng, speech_frames)

    def _unfit(self, num_frames: int, speech_frames: int, num_tokens: int, needed: int) -> str:
        frame_seconds = self.features.fbank.frame_shift_ms / 1000
        seconds, speech_seconds = num_frames * frame_seconds, speech_frames * frame_seconds
        if speech_seconds < self.data.min_seconds:
            return f"shorter than {self.data.min_seconds} s ({speech_seconds:.2f} s)"
        if seconds > self.data.max_seconds:
            return self._too_long(seconds)
        if not self.data.min_tokens <= num_tokens <= self.data.max_tokens:
            return f"{num_tokens} tokens, not between {self.data.min_tokens} and {self.data.max_tokens}"
        if speech_frames < needed:
            frames = self.frame_rate.encoder_frames(speech_frames + self.features.fbank.edge_frames)
            return f"{num_tokens} tokens do not fit in {frames} encoder frames ({speech_seconds:.2f} s)"
        return ""

    def _too_long(self, seconds: float) -> str:
        return f"longer than {self.data.max_seconds} s ({seconds:.2f} s)"
