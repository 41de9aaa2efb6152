"""Batches in a planned order: the order is decided here, the reading may happen in other processes."""

import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, Dataset

from unichoir.data.batching import make_batches
from unichoir.data.dataset import Batch, Example, ExampleReader, collate
from unichoir.data.manifest import Utterance


@dataclass(frozen=True, kw_only=True)
class BatchRequest:
    """One batch of the plan, named so that any process can read it."""

    epoch: int
    batch: int
    num_batches: int
    """Batches of this epoch."""
    members: tuple[int, ...]
    """Places of the utterances in the manifest."""

    @property
    def is_last(self) -> bool:
        return self.batch + 1 == self.num_batches


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What became of a request."""

    request: BatchRequest
    batch: Batch | None
    """None when no utterance of it can be used."""
    skipped: dict[str, str]
    """Why an utterance cannot be used, by key."""


class BatchDataset(Dataset[Loaded]):
    """Reads requests: a pure function of the request, so neither order nor process changes the result."""

    def __init__(self, utterances: Sequence[Utterance], reader: ExampleReader) -> None:
        self.utterances, self.reader = utterances, reader

    def __getitem__(self, request: BatchRequest) -> Loaded:
        examples: list[Example] = []
        skipped: dict[str, str] = {}
        for member in request.members:
            result = self.reader.read(self.utterances[member], request.epoch)
            if isinstance(result, Example):
                examples.append(result)
            else:
                skipped[result.key] = result.reason
        return Loaded(request=request, batch=collate(examples) if examples else None, skipped=skipped)


def requests(dataset: BatchDataset, epoch: int, *, first: int = 0, shuffle: bool = True) -> Iterator[BatchRequest]:
    """The batches of one epoch from number `first` on."""
    reader = dataset.reader
    frames = [reader.planned_frames(utterance, epoch) for utterance in dataset.utterances]
    plan = make_batches(frames, reader.data, seed=reader.seed, epoch=epoch, shuffle=shuffle)
    for i in range(first, len(plan)):
        yield BatchRequest(epoch=epoch, batch=i, num_batches=len(plan), members=tuple(plan[i]))


def endless_requests(dataset: BatchDataset, epoch: int, first: int) -> Iterator[BatchRequest]:
    """The batches from number `first` of epoch `epoch` on, epoch after epoch."""
    while True:
        yield from requests(dataset, epoch, first=first)
        epoch, first = epoch + 1, 0


def load(dataset: BatchDataset, wanted: Iterable[BatchRequest], num_workers: int) -> DataLoader[Loaded]:
    """Read requests in their order, with `num_workers` processes ahead of the trainer, or in this one if 0.

    One loader serves the whole run: a request names its epoch, so the workers never have to start anew.
    """
    return DataLoader(
        dataset,
        sampler=wanted,
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        worker_init_fn=_leave_signals_to_parent if num_workers else None,
        multiprocessing_context="spawn" if num_workers else None,
        prefetch_factor=4 if num_workers else None,
        persistent_workers=num_workers > 0,
    )


def groups(loaded: Iterable[Loaded], size: int) -> Iterator[list[Loaded]]:
    """Batches of one update: `size` of them, fewer at the end of an epoch, so that updates never cross epochs."""
    group: list[Loaded] = []
    for item in loaded:
        group.append(item)
        if len(group) == size or item.request.is_last:
            yield group
            group = []
    if group:
        yield group


def _as_it_is(item: Any) -> Any:
    return item


def _leave_signals_to_parent(worker: int) -> None:
    # Ctrl-C reaches the whole process group; only the trainer may act on it, and it ends the workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
