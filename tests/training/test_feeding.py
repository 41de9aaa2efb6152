import itertools
from collections.abc import Callable
from pathlib import Path

from unichoir.training.config import ExperimentConfig
from unichoir.training.feeding import BatchRequest, Loaded, endless_requests, groups, requests
from unichoir.training.setup import prepare


def test_updates_never_cross_epochs() -> None:
    items = [
        Loaded(request=BatchRequest(epoch=epoch, batch=batch, num_batches=5, members=(batch,)), batch=None, skipped={})
        for epoch in range(2)
        for batch in range(5)
    ]
    grouped = [[(item.request.epoch, item.request.batch) for item in group] for group in groups(items, 2)]
    one = [[0, 1], [2, 3], [4]]
    assert grouped == [[(epoch, batch) for batch in part] for epoch in range(2) for part in one]


def test_requests_go_on_where_they_are_told(experiment: Callable[..., ExperimentConfig], corpus: Path) -> None:
    data = prepare(experiment(), [corpus / "train.jsonl"], [corpus / "dev.jsonl"]).train
    first = list(requests(data, 0))
    assert sorted(member for request in first for member in request.members) == list(range(16))
    assert [request.is_last for request in first] == [False] * (len(first) - 1) + [True]
    all_of_them = list(itertools.islice(endless_requests(data, 0, 0), 3 * len(first)))
    assert list(itertools.islice(endless_requests(data, 0, 2), 2 * len(first))) == all_of_them[2 : 2 + 2 * len(first)]
    second = [request for request in all_of_them if request.epoch == 1]
    assert [request.members for request in second] != [request.members for request in first]
