"""The planner draws what an epoch makes of each utterance before any audio is read."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unichoir.audio.augment import AugmentConfig
from unichoir.data.manifest import Utterance
from unichoir.data.waveforms import Silence, draw_silence

SPARE_SECONDS = 0.1
"""Margin in seconds that silence leaves below `max_seconds`. Without it, rounded durations could make an utterance too
long."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The random choices for an utterance in an epoch."""

    parts: tuple[tuple[Utterance, float], ...]
    """Pairs of (utterance, speed), joined in this order."""
    silences: tuple[Silence, ...] = ()
    """The silences before, between and after the parts; or none."""

    @property
    def seconds(self) -> float:
        """The planned length in seconds; an unknown duration counts as zero."""
        speech = sum((utterance.duration or 0.0) / speed for utterance, speed in self.parts)
        return speech + sum(silence.seconds for silence in self.silences)


class Planner:
    """Draws a plan for each utterance and epoch.

    Plans only depend on (seed, epoch, key).

    Args:
        augment: speeds, concatenation and padding.
        max_seconds: the length that padding doesn't exceed, in seconds.
        utterances: the utterances that may be joined to others, with `duration`.
        seed: seeds all random choices.
    """

    def __init__(self, augment: AugmentConfig, max_seconds: float, utterances: Sequence[Utterance], seed: int) -> None:
        self._augment = augment
        self._max_seconds = max_seconds
        self._seed = seed
        self._partners = _group_partners(utterances, augment)

    def plan(self, utterance: Utterance, epoch: int) -> Plan:
        """Draw speeds, the utterances that are joined, and silences, without reading audio."""
        rng = seeded_rng(self._seed, utterance, epoch, purpose=0)
        # A separate generator, so the same utterances are joined with and without gaps.
        silence_rng = seeded_rng(self._seed, utterance, epoch, purpose=2)
        concat = self._augment.concat
        parts = [(utterance, self._draw_speed(rng))]
        gaps: list[Silence] = []
        seconds = (utterance.duration or 0.0) / parts[0][1]
        partners = self._partners.get(_group(utterance, self._augment), ())
        while partners and _can_join(utterance, self._augment) and rng.random() < concat.probability:
            partner = partners[int(rng.integers(len(partners)))]
            # Another speed would change the voice.
            speed = parts[0][1] if concat.same_speaker else self._draw_speed(rng)
            gap = draw_silence(concat.max_gap_seconds, self._augment.padding, silence_rng)
            longer = seconds + gap.seconds + (partner.duration or 0.0) / speed
            if longer > concat.max_seconds:
                break
            seconds = longer
            gaps.append(gap)
            parts.append((partner, speed))
        before, after = self._draw_padding(utterance, seconds, silence_rng)
        silences = (before, *gaps, after)
        return Plan(parts=tuple(parts), silences=silences if any(silence.seconds for silence in silences) else ())

    def _draw_padding(self, utterance: Utterance, seconds: float, rng: np.random.Generator) -> tuple[Silence, Silence]:
        padding = self._augment.padding
        # For an utterance of unknown length, the space for silence is unknown too.
        if not padding.probability or not utterance.duration or rng.random() >= padding.probability:
            return Silence(), Silence()
        spare = self._max_seconds - seconds - SPARE_SECONDS
        before = draw_silence(min(padding.max_seconds, spare), padding, rng)
        after = draw_silence(min(padding.max_seconds, spare - before.seconds), padding, rng)
        # Otherwise one side would always get what the other leaves.
        return (before, after) if rng.random() < 0.5 else (after, before)

    def _draw_speed(self, rng: np.random.Generator) -> float:
        return self._augment.speeds[int(rng.integers(len(self._augment.speeds)))]


def seeded_rng(seed: int, utterance: Utterance, epoch: int, purpose: int) -> np.random.Generator:
    """Return the random generator for one purpose, which only depends on (seed, epoch, purpose, key)."""
    # Python's own hash of a string differs between processes.
    digest = hashlib.blake2b(utterance.key.encode(), digest_size=16).digest()
    words = np.frombuffer(digest, dtype="<u4").tolist()
    return np.random.default_rng(np.random.SeedSequence([seed, epoch, purpose, *words]))


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
