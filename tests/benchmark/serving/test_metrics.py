"""The parser against prometheus_client's output, quantiles of histograms against the original values."""

import bisect
import math
import random

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from unichoir.benchmark.serving.metrics import Metrics, bucket_quantile, largest_bound

BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.0)


def read(registry: CollectorRegistry) -> Metrics:
    return Metrics.parse(generate_latest(registry).decode("utf-8"))


def test_counts_between_two_readings() -> None:
    registry = CollectorRegistry()
    ended = Counter("ended", "Of sessions", ["protocol", "outcome"], registry=registry)
    gauge = Gauge("open", "Sessions", registry=registry)
    lag = Histogram("lag_seconds", "Of results", ["kind"], buckets=BOUNDS, registry=registry)
    ended.labels("wenet", "ok").inc(2)
    lag.labels("a").observe(0.3)
    gauge.set(5)
    before = read(registry)
    ended.labels("wenet", "ok").inc(3)
    ended.labels("realtime", 'odd "}, {name').inc(4)
    for value in (0.05, 0.3, 7.0):
        lag.labels("b").observe(value)
    after = read(registry)
    counted = after.since(before)
    assert counted.total("ended_total") == 7
    assert after.total("open") == 5
    assert after.total("closed") is None
    assert after.buckets("lag_seconds") == {0.1: 1, 0.25: 1, 0.5: 3, 1.0: 3, 2.0: 3, math.inf: 4}
    assert counted.buckets("lag_seconds") == {0.1: 1, 0.25: 1, 0.5: 2, 1.0: 2, 2.0: 2, math.inf: 3}
    assert counted.mean("lag_seconds") == pytest.approx(7.35 / 3)
    assert counted.mean("nothing") is None


@pytest.mark.parametrize("text", ["<html>", "a{b=", 'a{b="c"} x'])
def test_what_is_not_metrics_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not in Prometheus' format"):
        Metrics.parse(text)


@pytest.mark.parametrize("count", [1, 2, 7, 100, 1000])
@pytest.mark.parametrize("quantile", [0.01, 0.5, 0.95, 0.99, 1.0])
def test_quantile_lies_in_the_bucket_of_the_true_one(count: int, quantile: float) -> None:
    """The true one by sorting: the smallest value that so large a share of all does not exceed."""
    rng = random.Random(count)
    for _ in range(20):
        values = sorted(rng.expovariate(rng.choice([1, 3, 20])) for _ in range(count))
        cumulative = {bound: float(bisect.bisect_right(values, bound)) for bound in (*BOUNDS, math.inf)}
        true = next(value for rank, value in enumerate(values, start=1) if rank >= quantile * count)
        place = bisect.bisect_left(BOUNDS, true)
        found = bucket_quantile(cumulative, quantile)
        assert found is not None
        if place == len(BOUNDS):
            assert found == math.inf
        else:
            assert (BOUNDS[place - 1] if place else 0.0) < found <= BOUNDS[place]
        largest = largest_bound(cumulative)
        assert largest == next((bound for bound in BOUNDS if bound >= values[-1]), math.inf)


def test_quantile_of_evenly_spread_values() -> None:
    """Where the assumption holds, interpolation is exact."""
    cumulative = {1.0: 10.0, 2.0: 20.0, math.inf: 20.0}
    assert [bucket_quantile(cumulative, q) for q in (0.05, 0.5, 0.75, 1.0)] == pytest.approx([0.1, 1.0, 1.5, 2.0])


def test_nothing_has_no_quantile() -> None:
    for empty in ({}, {1.0: 0.0, math.inf: 0.0}):
        assert bucket_quantile(empty, 0.5) is None
        assert largest_bound(empty) is None
