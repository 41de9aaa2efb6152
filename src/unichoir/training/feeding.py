"""Batches in a planned order: this module decides the order, and other processes may read the data.

Every process of a run plans all batches and reads its own. An update takes the next batches of the plan, one for each
process and step, the longest together. Therefore the batches of an update depend neither on the number of processes nor
on interruptions.
"""

import hashlib
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch.utils.data import DataLoader, Dataset

from unichoir.data.batching import make_batches
from unichoir.data.dataset import Batch, Example, ExampleReader, collate, padded_frames
from unichoir.data.manifest import Utterance
from unichoir.training.corpus import Corpus, Window


@dataclass(frozen=True, kw_only=True)
class Position:
    """A place in the plan; all batches before it are complete."""

    epoch: int = 0
    window: int = 0
    batch: int = 0
    epochs_done: float = 0.0
    """`epoch` plus the completed fraction of it."""


@dataclass(frozen=True, kw_only=True)
class BatchRequest:
    """One batch of the plan, in a form that any process can read."""

    epoch: int
    window: int
    batch: int
    utterances: tuple[Utterance, ...]
    """The utterances; empty in a batch that only fills up an update for an idle process."""
    frames: int = 0
    """Planned number of frames, including padding."""
    after: Position
    """Position after this batch; within an update, after the update."""
    ends_update: bool = True
    """Whether this is the last batch of this process in an update."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Shards of this window that cannot be read, and the reasons."""
    plan: int = 0
    """A digest of the update that contains this batch. It is the same in every process."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The result of a request."""

    request: BatchRequest
    batch: Batch | None
    """The batch; None if none of its utterances can be used."""
    skipped: dict[str, str]
    """Utterances and shards that cannot be used, by key, and the reasons."""


class BatchDataset(Dataset[Loaded]):
    """Reads requests. The result only depends on the request, not on order or process."""

    def __init__(self, reader: ExampleReader) -> None:
        self.reader = reader

    def __getitem__(self, request: BatchRequest) -> Loaded:
        examples: list[Example] = []
        skipped = dict(request.skipped)
        for utterance in request.utterances:
            result = self.reader.read(utterance, request.epoch)
            if isinstance(result, Example):
                examples.append(result)
            else:
                skipped[result.key] = result.reason
        return Loaded(request=request, batch=collate(examples) if examples else None, skipped=skipped)


def requests(corpus: Corpus, reader: ExampleReader, start: Position, *, shuffle: bool = True) -> Iterator[BatchRequest]:
    """Yield the batches of one epoch from `start` on."""
    for number, window in enumerate(corpus.windows(start.epoch, start.window), start=start.window):
        first = start.batch if number == start.window else 0
        yield from _window_requests(window, reader, start.epoch, number, first, shuffle)


def _window_requests(
    window: Window, reader: ExampleReader, epoch: int, number: int, first: int, shuffle: bool
) -> Iterator[BatchRequest]:
    frames = [reader.planned_frames(utterance, epoch) for utterance in window.utterances]
    plan = make_batches(frames, reader.data, seed=reader.seed, epoch=epoch, window=number, shuffle=shuffle)
    is_last_window = window.end >= 1.0
    if not plan:
        plan = [[]]  # a window of broken shards must still be reported and passed
    for i in range(first, len(plan)):
        done = window.begin + (window.end - window.begin) * (i + 1) / len(plan)
        if i + 1 < len(plan):
            after = Position(epoch=epoch, window=number, batch=i + 1, epochs_done=epoch + done)
        elif is_last_window:
            after = Position(epoch=epoch + 1, epochs_done=epoch + 1.0)
        else:
            after = Position(epoch=epoch, window=number + 1, epochs_done=epoch + done)
        yield BatchRequest(
            epoch=epoch,
            window=number,
            batch=i,
            utterances=tuple(window.utterances[member] for member in plan[i]),
            frames=padded_frames(max((frames[member] for member in plan[i]), default=0)) * len(plan[i]),
            after=after,
            skipped=window.skipped if i == first else {},
        )


def endless_requests(corpus: Corpus, reader: ExampleReader, start: Position) -> Iterator[BatchRequest]:
    """Yield the batches from `start` on, epoch after epoch."""
    while True:
        yield from requests(corpus, reader, start)
        start = Position(epoch=start.epoch + 1)


def updates(wanted: Iterable[BatchRequest], size: int) -> Iterator[list[BatchRequest]]:
    """Yield the batches of each update: `size` of them, fewer at the end of an epoch. Updates never cross epochs."""
    group: list[BatchRequest] = []
    for request in wanted:
        group.append(request)
        if len(group) == size or request.after.epoch > request.epoch:
            yield group
            group = []
    if group:
        yield group


def share(group: Sequence[BatchRequest], rank: int, size: int) -> list[BatchRequest]:
    """Return the batches of process `rank` of `size` in an update, ordered by length.

    All processes get the same number.

    The largest batches go to the processes in alternating order, which balances the work at every step and in total.
    Empty batches fill up missing ones.
    """
    after, plan = group[-1].after, _digest(group)
    ordered = sorted(group, key=lambda request: -request.frames)
    steps = -(-len(ordered) // size)
    own = []
    for step in range(steps):
        row = ordered[step * size : (step + 1) * size]
        place = rank if step % 2 == 0 else size - 1 - rank
        idle = replace(group[-1], utterances=(), frames=0, skipped={})
        request = row[place] if place < len(row) else idle
        own.append(replace(request, after=after, ends_update=step + 1 == steps, plan=plan))
    return own


def training_requests(
    corpus: Corpus, reader: ExampleReader, start: Position, batches_per_update: int, rank: int, size: int
) -> Iterator[BatchRequest]:
    """Yield everything that one process has to read from `start` on, without end."""
    for group in updates(endless_requests(corpus, reader, start), batches_per_update):
        yield from share(group, rank, size)


def load(dataset: BatchDataset, wanted: Iterable[BatchRequest], num_workers: int) -> DataLoader[Loaded]:
    """Read requests in order, with `num_workers` background processes, or in this process if 0.

    One loader serves the complete run. Each request names its epoch, so workers never restart.
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


def groups(loaded: Iterable[Loaded]) -> Iterator[list[Loaded]]:
    """Yield the batches of each update."""
    group: list[Loaded] = []
    for item in loaded:
        group.append(item)
        if item.request.ends_update:
            yield group
            group = []


def _digest(group: Sequence[BatchRequest]) -> int:
    digest = hashlib.blake2b(digest_size=6)  # fits into a float64
    for request in group:
        digest.update(repr((request.epoch, request.window, request.batch)).encode())
        for utterance in request.utterances:
            digest.update(utterance.key.encode())
    return int.from_bytes(digest.digest(), "little")


def _as_it_is(item: Any) -> Any:
    return item


def _leave_signals_to_parent(worker: int) -> None:
    # Ctrl-C reaches the whole process group. Only the trainer may react to it; it ends the workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
