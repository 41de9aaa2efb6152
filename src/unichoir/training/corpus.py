"""What an epoch consists of: windows of utterances, each small enough to be planned in memory.

A listed corpus is one window. A corpus in shards is cut into windows of some shards, drawn anew in every epoch; only
their indexes are read to plan them, so that each process then reads just the audio of its own batches. All processes
make the same plan.
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

# Apart from the other uses of (seed, epoch) as a source of randomness.
PURPOSE = 3


@dataclass(frozen=True, kw_only=True)
class Window:
    """Utterances that are put into batches together."""

    utterances: tuple[Utterance, ...]
    skipped: dict[str, str]
    """Shards that cannot be read, and why."""
    begin: float
    """The fraction of the epoch before it."""
    end: float


class Corpus(Protocol):
    """Training speech."""

    num_utterances: int
    """As far as it is known."""
    seconds: float
    """Of audio, as far as it is known."""
    fingerprint: str
    """Of all that decides what a run reads: a resumed one must see the same."""

    def windows(self, epoch: int, first: int) -> Iterator[Window]:
        """The windows of an epoch from number `first` on."""


class ListedCorpus:
    """Utterances in memory: one window, in which all lengths are at hand to make batches of."""

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
    """Shards, in windows of `shards_in_window`; the next window's indexes are read while the present one is used."""

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
        # As even as possible: a last window of a single shard would mix nothing.
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
