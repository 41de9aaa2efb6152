import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from unichoir.data.dataset import Example
from unichoir.data.manifest import Utterance
from unichoir.data.shards import Shard
from unichoir.errors import ManifestError
from unichoir.training.config import ExperimentConfig
from unichoir.training.corpus import ListedCorpus, ShardedCorpus
from unichoir.training.feeding import (
    BatchDataset,
    BatchRequest,
    Position,
    endless_requests,
    groups,
    load,
    requests,
    share,
    training_requests,
    updates,
)
from unichoir.training.setup import Setup, prepare

PER_SHARD = 40


@pytest.fixture
def setup(experiment: Callable[..., ExperimentConfig], corpus: Path) -> Setup:
    config = experiment(data={"max_frames_in_batch": 4000, "shards_in_window": 3}, augment={"dither": 0.0})
    return prepare(config, [corpus / "train.jsonl"], [corpus / "dev.jsonl"])


@pytest.fixture
def shards() -> ShardedCorpus:
    """Ten shards; number 4 is unreadable."""
    rng = np.random.default_rng(0)
    seconds = rng.uniform(0.5, 6.0, (10, PER_SHARD))

    def read(shard: Shard) -> list[Utterance]:
        number = int(shard.location.removesuffix(".tar"))
        if number == 4:
            raise ManifestError("4.jsonl: no such file")
        return [
            Utterance(key=f"{number}-{i}", wav="x.wav", txt="A", duration=float(seconds[number, i]))
            for i in range(PER_SHARD)
        ]

    listed = [
        Shard(
            name=f"{i}.tar",
            location=f"{i}.tar",
            index=f"{i}.jsonl",
            utterances=PER_SHARD,
            seconds=float(seconds[i].sum()),
        )
        for i in range(10)
    ]
    return ShardedCorpus(listed, shards_in_window=3, seed=0, read=read)


def keys(wanted: list[BatchRequest]) -> list[str]:
    return [utterance.key for request in wanted for utterance in request.utterances]


def test_an_epoch_has_every_utterance_once_and_ends_at_one(setup: Setup, shards: ShardedCorpus) -> None:
    reader = setup.train.reader
    for corpus, expected in (
        (setup.corpus, [f"train{i}" for i in range(16)]),
        (shards, [f"{s}-{i}" for s in range(10) if s != 4 for i in range(PER_SHARD)]),
    ):
        for epoch in (0, 1):
            planned = list(requests(corpus, reader, Position(epoch=epoch)))
            assert Counter(keys(planned)) == Counter(expected)
            assert planned[-1].after == Position(epoch=epoch + 1, epochs_done=epoch + 1.0)
            done = [request.after.epochs_done for request in planned]
            assert done == sorted(done)
            assert all(request.frames <= 4000 for request in planned)
        assert keys(list(requests(corpus, reader, Position()))) != keys(planned)


def test_a_broken_shard_is_named_with_its_window(setup: Setup, shards: ShardedCorpus) -> None:
    named = [request for request in requests(shards, setup.train.reader, Position()) if request.skipped]
    assert [request.skipped for request in named] == [{"4.tar": "4.jsonl: no such file"}]
    alone = ShardedCorpus(shards.shards[4:5], shards_in_window=3, seed=0, read=shards._read)
    (request,) = requests(alone, setup.train.reader, Position())
    assert (request.utterances, request.skipped) == ((), {"4.tar": "4.jsonl: no such file"})
    assert request.after.epoch == 1


@pytest.mark.parametrize("sharded", [True, False])
def test_requests_go_on_from_any_position(setup: Setup, shards: ShardedCorpus, sharded: bool) -> None:
    corpus, reader = shards if sharded else setup.corpus, setup.train.reader
    endless = list(itertools.islice(endless_requests(corpus, reader, Position()), 120 if sharded else 40))
    assert endless[-1].epoch >= 2
    for start, request in enumerate(endless[:-5:7], start=1):
        place = 7 * (start - 1) + 1
        again = list(itertools.islice(endless_requests(corpus, reader, request.after), 5))
        assert [keys([r]) for r in again] == [keys([r]) for r in endless[place : place + 5]]


def test_windows_mix_their_shards_and_no_others(setup: Setup, shards: ShardedCorpus) -> None:
    planned = list(requests(shards, setup.train.reader, Position()))
    for _, window in itertools.groupby(planned, key=lambda request: request.window):
        batches = [{key.split("-")[0] for key in keys([request])} for request in window]
        assert len(set.union(*batches)) <= 3
        assert max(map(len, batches)) == len(set.union(*batches))


def epoch_of(corpus: ShardedCorpus, setup: Setup, per_update: int, rank: int, size: int) -> Iterator[BatchRequest]:
    wanted = training_requests(corpus, setup.train.reader, Position(), per_update, rank, size)
    return itertools.takewhile(lambda request: request.epoch == 0, wanted)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_any_number_of_processes_makes_the_same_updates(setup: Setup, shards: ShardedCorpus, size: int) -> None:
    """What the processes read for an update together are the next batches of the plan, as many for each."""
    plan = list(updates(requests(shards, setup.train.reader, Position()), 5))
    own = [list(epoch_of(shards, setup, 5, rank, size)) for rank in range(size)]
    assert len({len(part) for part in own}) == 1
    places = [0] * size
    for group in plan:
        got: list[str] = []
        ends = set()
        for rank in range(size):
            steps = list(itertools.takewhile(lambda request: not request.ends_update, own[rank][places[rank] :]))
            steps.append(own[rank][places[rank] + len(steps)])
            places[rank] += len(steps)
            got += keys(steps)
            ends |= {(request.after, request.plan) for request in steps}
        assert Counter(got) == Counter(keys(group))
        assert [after for after, _ in ends] == [group[-1].after]
    assert all(place == len(part) for place, part in zip(places, own, strict=True))


def test_processes_get_about_as_much_to_do() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        frames = rng.integers(2000, 4000, 32).tolist()
        group = [
            BatchRequest(epoch=0, window=0, batch=i, utterances=(), frames=size, after=Position())
            for i, size in enumerate(frames)
        ]
        own = [share(group, rank, 4) for rank in range(4)]
        sums = [sum(request.frames for request in part) for part in own]
        assert sum(sums) == sum(frames)
        assert max(sums) / min(sums) < 1.05
        for step in zip(*own, strict=True):
            assert max(request.frames for request in step) - min(request.frames for request in step) < 800


def test_updates_never_cross_epochs_and_groups_follow_them(setup: Setup) -> None:
    wanted = list(
        itertools.islice(training_requests(setup.corpus, setup.train.reader, Position(), 2, rank=0, size=1), 30)
    )
    assert wanted[-1].epoch > 1
    for group in groups(load(BatchDataset(setup.train.reader), wanted, 0)):
        assert len({item.request.epoch for item in group}) == 1
        assert len(group) == 2 or group[-1].request.after.epoch > group[-1].request.epoch
        assert all(item.batch is not None for item in group)


def test_the_worker_reads_what_the_request_says(setup: Setup) -> None:
    dataset = BatchDataset(setup.train.reader)
    (request, *_) = requests(setup.corpus, setup.train.reader, Position())
    loaded = dataset[request]
    assert loaded.batch is not None
    assert loaded.batch.keys == keys([request])
    alone = setup.train.reader.read(request.utterances[0], 0)
    assert isinstance(alone, Example)
    np.testing.assert_array_equal(loaded.batch.feats[0, : len(alone.feats)], alone.feats)


def test_a_listed_corpus_has_one_window() -> None:
    corpus = ListedCorpus([Utterance(key="a", wav="a.wav", txt="A", duration=1.0)])
    assert [len(window.utterances) for window in corpus.windows(0, 0)] == [1]
    assert list(corpus.windows(0, 1)) == []
