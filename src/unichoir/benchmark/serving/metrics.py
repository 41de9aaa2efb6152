"""What a server's /metrics says: parsed, subtracted, and quantiles from the buckets of its histograms."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

Key = tuple[str, tuple[tuple[str, str], ...]]
"""Name and sorted labels."""


@dataclass(frozen=True)
class Metrics:
    """The samples of one reading."""

    samples: Mapping[Key, float]

    @staticmethod
    def parse(text: str) -> "Metrics":
        """Prometheus' text format. Raises ValueError for what is not."""
        try:
            families = list(text_string_to_metric_families(text))
        except Exception as error:  # its parser raises whatever its slicing meets
            raise ValueError(f"not in Prometheus' format ({error})") from None
        return Metrics(
            {
                (sample.name, tuple(sorted(sample.labels.items()))): sample.value
                for family in families
                for sample in family.samples
            }
        )

    def since(self, before: "Metrics") -> "Metrics":
        """What counters and histograms have counted since an earlier reading; gauges become differences."""
        return Metrics({key: value - before.samples.get(key, 0.0) for key, value in self.samples.items()})

    def total(self, name: str) -> float | None:
        """The sum over all labels; None: there is none of that name."""
        values = [value for (found, _), value in self.samples.items() if found == name]
        return sum(values) if values else None

    def buckets(self, name: str) -> dict[float, float]:
        """Of a histogram: to each upper bound, ascending, the number of values up to it; over all other labels."""
        counts: dict[float, float] = {}
        for (found, labels), value in self.samples.items():
            if found == f"{name}_bucket":
                bound = float(dict(labels)["le"])
                counts[bound] = counts.get(bound, 0.0) + value
        return dict(sorted(counts.items()))

    def mean(self, name: str) -> float | None:
        """Of a histogram's values; None without any."""
        total, count = self.total(f"{name}_sum"), self.total(f"{name}_count")
        return total / count if total is not None and count else None


def bucket_quantile(buckets: Mapping[float, float], quantile: float) -> float | None:
    """A quantile of the values of a histogram, taken to be spread evenly over their buckets, as Prometheus does.

    buckets: as from `Metrics.buckets`, the last bound infinite; quantile: above 0, at most 1. Infinite when it lies
    beyond the last finite bound; None without values.
    """
    total = max(buckets.values(), default=0.0)
    if not total:
        return None
    rank, lower, below = quantile * total, 0.0, 0.0
    for bound, count in buckets.items():
        if count >= rank and count > below:
            return bound if math.isinf(bound) else lower + (bound - lower) * (rank - below) / (count - below)
        lower, below = bound, count
    return math.inf


def largest_bound(buckets: Mapping[float, float]) -> float | None:
    """What no value of a histogram exceeds: infinite if one lies beyond the last finite bound, None without values."""
    total = max(buckets.values(), default=0.0)
    return next(bound for bound, count in buckets.items() if count >= total) if total else None
