"""The training data of an epoch, divided into windows of utterances small enough to plan in memory.

A listed corpus is one window. A sharded corpus is divided into windows of several shards, drawn anew in every epoch.
Planning only reads their indexes, and each process then reads the audio of its own batches. All processes make the same
plan.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from unichoir.data.manifest import Utterance
from unichoir.data.shards import Shard, read_shard
from unichoir.errors import ManifestError

# Separates this use of (seed, epoch) as a source of randomness from others.
PURPOSE = 3


@dataclass(frozen=True, kw_only=True)
class Window:
    """Utterances that are batched together."""

    utterances: tuple[Utterance, ...]
    skipped: dict[str, str]
    """Shards that cannot be read, and the reasons."""
    begin: float
    """The fraction of the epoch before this window."""
    end: float


class Corpus(Protocol):
    """Training speech."""

    num_utterances: int
    """Number of utterances, as far as it is known."""
    seconds: float
    """Seconds of audio, as far as they are known."""
    fingerprint: str
    """A digest of everything that determines what a run reads. A continued run must have the same."""

    def windows(self, epoch: int, first: int) -> Iterator[Window]:
        """Yield the windows of an epoch, starting with number `first`."""


class ListedCorpus:
    """Utterances in memory, in one window."""

    def __init__(self, utterances: Sequence[Utterance]) -> None:
        self.utterances = tuple(utterances)
        self.num_utterances = len(self.utterances)
        self.seconds = sum(utterance.duration or 0.0 for utterance in self.utterances)
        digest = hashlib.sha256()
        for utterance in self.utterances:
            digest.update(repr((utterance.key, utterance.start, utterance.duration, utterance.txt)).encode())
        self.fingerprint = digest.hexdigest()

    def windows(self, epoch: int, first: int) -> Iterator[Window]:
        if first == 0:
            yield Window(utterances=self.utterances, skipped={}, begin=0.0, end=1.0)


class ShardedCorpus:
    """Shards, in windows of `shards_in_window`. The indexes of the next window are read in the background."""

    def __init__(
        self,
        shards: Sequence[Shard],
        *,
        shards_in_window: int,
        seed: int,
        read: Callable[[Shard], list[Utterance]] = read_shard,
    ) -> None:
        self.shards, self.shards_in_window, self.seed = tuple(shards), shards_in_window, seed
        self.num_utterances = sum(shard.utterances for shard in self.shards)
        self.seconds = sum(shard.seconds for shard in self.shards)
        digest = hashlib.sha256()
        for shard in self.shards:
            digest.update(repr((shard.name, shard.utterances, shard.seconds)).encode())
        self.fingerprint = digest.hexdigest()
        self._read = read

    def windows(self, epoch: int, first: int) -> Iterator[Window]:
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, epoch, PURPOSE]))
        order = rng.permutation(len(self.shards))
        # Windows have equal sizes as far as possible: a last window of a single shard would mix nothing.
        groups = [part.tolist() for part in np.array_split(order, -(-len(order) // self.shards_in_window))]
        seconds = np.array([sum(self.shards[i].seconds for i in group) for group in groups])
        ends = (np.cumsum(seconds) / max(float(seconds.sum()), 1e-9)).tolist()
        begins = [0.0, *ends[:-1]]
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(self._window, groups[first], begins[first], ends[first])
            for number in range(first + 1, len(groups)):
                window = coming.result()
                coming = ahead.submit(self._window, groups[number], begins[number], ends[number])
                yield window
            yield coming.result()

    def _window(self, members: Sequence[int], begin: float, end: float) -> Window:
        utterances: list[Utterance] = []
        skipped: dict[str, str] = {}
        for member in members:
            shard = self.shards[member]
            try:
                utterances.extend(self._read(shard))
            except ManifestError as error:
                skipped[shard.location] = str(error)
        return Window(utterances=tuple(utterances), skipped=skipped, begin=begin, end=end)
