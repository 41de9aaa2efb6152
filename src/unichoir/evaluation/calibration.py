"""How well confidence is calibrated: are four out of five words with confidence 0.8 correct?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unichoir.bundle.replacing import replacing
from unichoir.text.normalize import normalize_for_scoring, split_words
from unichoir.text.wer import align
from unichoir.transcript.results import Word

Judged = Sequence[tuple[float, bool]]
"""The confidence of each word, and whether the word is correct."""
NUM_BINS = 10
LEAST = 1e-4
"""Confidences are clipped to this distance from 0 and 1 before taking logarithms. NIST's tool has no limit and may
return infinity."""


@dataclass(frozen=True)
class Bin:
    """Words of similar confidence."""

    count: int
    confidence: float
    """The mean confidence."""
    accuracy: float
    """The share of correct words."""


@dataclass(frozen=True)
class Calibration:
    """The calibration of the recognised words of a set."""

    bins: tuple[Bin, ...]
    """Bins of equal width from 0 to 1; empty bins are omitted."""
    num_words: int
    accuracy: float
    mean_confidence: float
    ece: float
    """Expected calibration error (Naeini et al., 2015): the mean difference between confidence and accuracy over the
    bins, 0 to 1."""
    nce: float | None
    """Normalised cross entropy (NIST): 1 for an oracle, 0 if every confidence equals `accuracy`, negative if worse than
    that. None if all words are correct or all are wrong."""

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain dicts, lists and numbers, ready for JSON."""
        return {**asdict(self), "bins": [asdict(each) for each in self.bins]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Calibration:
        """Invert `to_dict`."""
        return cls(**{**content, "bins": tuple(Bin(**each) for each in content["bins"])})


def correct_words(reference: str, words: Sequence[Word], language: str | None = None) -> list[tuple[float, bool]]:
    """Return the confidence of each word of a hypothesis, and whether the word is correct in the best alignment.

    Both sides are normalised as for the word error rate. A word that normalisation splits counts once for each part; a
    word that it removes doesn't count.
    """
    parts = [
        (part, word.confidence) for word in words for part in split_words(normalize_for_scoring(word.text, language))
    ]
    wanted = normalize_for_scoring(reference, language)
    pairs = align(split_words(wanted), [part for part, _ in parts])
    is_right = [pair.kind == "correct" for pair in pairs if pair.hypothesis is not None]
    return [(confidence, right) for (_, confidence), right in zip(parts, is_right, strict=True)]


def measure_calibration(judged: Judged) -> Calibration | None:
    """Measure the calibration of words judged by `correct_words`; None without words."""
    if not judged:
        return None
    confidence = np.array([value for value, _ in judged], dtype=np.float64)
    right = np.array([value for _, value in judged], dtype=np.bool_)
    places = np.minimum((confidence * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    bins = tuple(
        Bin(int(chosen.sum()), float(confidence[chosen].mean()), float(right[chosen].mean()))
        for chosen in (places == place for place in range(NUM_BINS))
        if chosen.any()
    )
    error = sum(one.count * abs(one.confidence - one.accuracy) for one in bins) / len(right)
    return Calibration(
        bins=bins,
        num_words=len(right),
        accuracy=float(right.mean()),
        mean_confidence=float(confidence.mean()),
        ece=error,
        nce=_normalised_cross_entropy(confidence, right),
    )


def _normalised_cross_entropy(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float | None:
    accuracy = float(right.mean())
    if accuracy in (0.0, 1.0):
        return None
    least = -accuracy * math.log(accuracy) - (1 - accuracy) * math.log(1 - accuracy)
    clipped = confidence.clip(LEAST, 1 - LEAST)
    found = -float(np.log(np.where(right, clipped, 1 - clipped)).mean())
    return (least - found) / least


def format_nce(calibration: Calibration) -> str:
    """Format the NCE with two decimals, or as a dash if it is undefined."""
    return "-" if calibration.nce is None else f"{calibration.nce:.2f}"


def plot_calibration(sets: Mapping[str, Calibration], path: Path) -> None:
    """Draw one reliability diagram for each named set, in any picture format that matplotlib writes."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(sets), 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, one) in zip(figure.subplots(1, len(sets), squeeze=False).flat, sets.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
        axes.plot([each.confidence for each in one.bins], [each.accuracy for each in one.bins], marker="o")
        for each in one.bins:
            axes.annotate(
                str(each.count),
                (each.confidence, each.accuracy),
                fontsize=7,
                xytext=(4, -9),
                textcoords="offset points",
            )
        title = f"{name}\nECE {one.ece:.3f}, NCE {format_nce(one)}"
        axes.set(title=title, xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="share of correct words")
        axes.title.set_fontsize(9)
    with matplotlib.rc_context({"svg.hashsalt": "calibration"}), replacing(path) as file:
        figure.savefig(file, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)
