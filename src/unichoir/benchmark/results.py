"""The results of a benchmark, with medians, quartiles and ratios; returned by `run`, shown by `tables` and `report`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unichoir.benchmark.ceilings import Ceilings
from unichoir.benchmark.plan import BenchmarkOptions, Candidate, Cell, Comparison, Plan, Variant
from unichoir.benchmark.worker import Loaded

SUMS = {
    "whole greedy": ("features", "encoder", "greedy"),
    "whole rescoring": ("features", "encoder", "beam", "rescoring"),
    "search": ("beam", "rescoring"),
}
"""Sums over the parts of an utterance."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One repetition of a measurement."""

    round: int
    """Samples of the same round were taken close together in time."""
    parts: Mapping[str, float]
    """Seconds."""

    def seconds(self, part: str) -> float:
        """Return the time of a part or of a sum in `SUMS`."""
        return sum(self.parts[name] for name in SUMS.get(part, (part,)))


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The median and quartiles of repetitions."""

    median: float
    low: float
    high: float
    count: int

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        """Compute the spread of at least one value; quartiles between two values are interpolated."""
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
        return Spread(median=median, low=low, high=high, count=len(values))

    def scaled(self, factor: float) -> "Spread":
        """Return the spread multiplied by a factor."""
        return Spread(median=self.median * factor, low=self.low * factor, high=self.high * factor, count=self.count)


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Facts about a variant other than its speed."""

    loaded: Loaded
    memory: int
    """Peak memory after all measurements, in bytes."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that a report contains."""

    machine: Mapping[str, str]
    audio: str
    candidates: Mapping[str, Candidate]
    options: BenchmarkOptions
    plan: Plan
    facts: Mapping[Variant, ModelFacts]
    samples: Mapping[tuple[Variant, Cell], Sequence[Sample]]
    shares: Mapping[str, Mapping[str, Sequence[float]]]
    """For each configuration with experts, and each layer, the share of its frame copies that each expert processed."""
    ceilings: Ceilings
    seconds: float
    """Duration of the whole benchmark."""

    def spread(self, variant: Variant, cell: Cell, part: str) -> Spread:
        """Return the time of one part, in seconds, for all rows of a cell together."""
        return Spread.of([sample.seconds(part) for sample in self.samples[variant, cell]])

    def share(self, variant: Variant, cell: Cell, part: str, whole: str) -> float:
        """Return the median of the fraction of the time of `whole` that a part takes, within each repetition."""
        taken = self.samples[variant, cell]
        return Spread.of([sample.seconds(part) / sample.seconds(whole) for sample in taken]).median

    def ratio(self, comparison: Comparison, part: str) -> Spread | None:
        """Return the ratio of the times per row within each round; None without common rounds or without the part."""
        (_, over), (_, under) = comparison.numerator, comparison.denominator
        above = {sample.round: sample for sample in self.samples[comparison.numerator]}
        below = {sample.round: sample for sample in self.samples[comparison.denominator]}
        names = SUMS.get(part, (part,))
        ratios = [
            (above[place].seconds(part) / over.rows) / (below[place].seconds(part) / under.rows)
            for place in above.keys() & below.keys()
            if all(name in above[place].parts and name in below[place].parts for name in names)
        ]
        return Spread.of(ratios) if ratios else None

    def mean_shares(self, config: str) -> list[float]:
        """Return the share of the busiest expert, the second, etc., averaged over layers; empty without experts."""
        layers = self.shares.get(config, {})
        return np.mean([sorted(each, reverse=True) for each in layers.values()], axis=0).tolist() if layers else []


def entropy(shares: Sequence[float]) -> float:
    """Return the normalised entropy of shares: 1 if they are equal, 0 if one expert processes everything."""
    positive = np.array([share for share in shares if share > 0])
    return float(-(positive * np.log(positive)).sum() / np.log(max(len(shares), 2)))
