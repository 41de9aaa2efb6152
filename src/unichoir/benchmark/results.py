"""What was measured, and what follows from it: medians, quartiles, ratios."""

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
"""What is summed over the parts of an utterance."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One repetition."""

    round: int
    """Samples of the same round were taken at neighbouring moments."""
    parts: Mapping[str, float]
    """Seconds."""

    def seconds(self, part: str) -> float:
        """Of a part or of a sum of parts."""
        return sum(self.parts[name] for name in SUMS.get(part, (part,)))


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median and quartiles of repetitions."""

    median: float
    low: float
    high: float
    count: int

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        """Of at least one value; quartiles between two values are interpolated."""
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
        return Spread(median=median, low=low, high=high, count=len(values))

    def scaled(self, factor: float) -> "Spread":
        """In another unit."""
        return Spread(median=self.median * factor, low=self.low * factor, high=self.high * factor, count=self.count)


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What is known of a variant beside its speed."""

    loaded: Loaded
    memory: int
    """Most bytes in memory after all was measured."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything a report is made of."""

    machine: Mapping[str, str]
    audio: str
    candidates: Mapping[str, Candidate]
    options: BenchmarkOptions
    plan: Plan
    facts: Mapping[Variant, ModelFacts]
    samples: Mapping[tuple[Variant, Cell], Sequence[Sample]]
    shares: Mapping[str, Mapping[str, Sequence[float]]]
    """Of each configuration with experts, of each layer: of its frame copies what each expert computed."""
    ceilings: Ceilings
    seconds: float
    """That the whole benchmark took."""

    def spread(self, variant: Variant, cell: Cell, part: str) -> Spread:
        """Seconds of one part for all rows of a cell."""
        return Spread.of([sample.seconds(part) for sample in self.samples[variant, cell]])

    def ratio(self, comparison: Comparison, part: str) -> Spread | None:
        """Of times for each row, round by round; None if the two sides share no round or have no such part."""
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
        """Over the layers the mean of the busiest expert's share, of the second's, and so on; empty without experts."""
        layers = self.shares.get(config, {})
        return np.mean([sorted(each, reverse=True) for each in layers.values()], axis=0).tolist() if layers else []


def entropy(shares: Sequence[float]) -> float:
    """Of shares, divided by its maximum: 1 is even, 0 one expert for all."""
    positive = np.array([share for share in shares if share > 0])
    return float(-(positive * np.log(positive)).sum() / np.log(max(len(shares), 2)))
