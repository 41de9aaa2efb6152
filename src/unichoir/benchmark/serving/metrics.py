"""Parse and subtract a server's /metrics, and compute quantiles of its histograms; called by `probe` and `results`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

Key = tuple[str, tuple[tuple[str, str], ...]]
"""The name and the sorted labels of a sample."""


@dataclass(frozen=True)
class Metrics:
    """The samples of one reading of /metrics."""

    samples: Mapping[Key, float]

    @staticmethod
    def parse(text: str) -> "Metrics":
        """Parse Prometheus' text format. Raises ValueError for other text."""
        try:
            families = list(text_string_to_metric_families(text))
        except Exception as error:  # the parser raises many types of exception
            raise ValueError(f"not in Prometheus' format ({error})") from None
        return Metrics(
            {
                (sample.name, tuple(sorted(sample.labels.items()))): sample.value
                for family in families
                for sample in family.samples
            }
        )

    def since(self, before: "Metrics") -> "Metrics":
        """Subtract an earlier reading: counters and histograms since then; gauges become differences."""
        return Metrics({key: value - before.samples.get(key, 0.0) for key, value in self.samples.items()})

    def total(self, name: str) -> float | None:
        """Return the sum of a metric over all labels; None if it does not exist."""
        values = [value for (found, _), value in self.samples.items() if found == name]
        return sum(values) if values else None

    def buckets(self, name: str) -> dict[float, float]:
        """Return a histogram's cumulative counts by ascending upper bound, summed over all other labels."""
        counts: dict[float, float] = {}
        for (found, labels), value in self.samples.items():
            if found == f"{name}_bucket":
                bound = float(dict(labels)["le"])
                counts[bound] = counts.get(bound, 0.0) + value
        return dict(sorted(counts.items()))

    def mean(self, name: str) -> float | None:
        """Return the mean of a histogram's values; None without values."""
        total, count = self.total(f"{name}_sum"), self.total(f"{name}_count")
        return total / count if total is not None and count else None


def bucket_quantile(buckets: Mapping[float, float], quantile: float) -> float | None:
    """Estimate a quantile of a histogram, assuming as Prometheus does that values are evenly spread in each bucket.

    buckets: from `Metrics.buckets`, with an infinite last bound; quantile: above 0, at most 1. Returns infinity if the
    quantile lies beyond the last finite bound, None without values.
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
    """Return the smallest bound that no value exceeds: infinity beyond the last finite bound, None without values."""
    total = max(buckets.values(), default=0.0)
    return next(bound for bound, count in buckets.items() if count >= total) if total else None
