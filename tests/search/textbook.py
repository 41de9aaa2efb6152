"""Plain implementations of prefix beam search: by summing over all alignments, and step by step."""

from collections import defaultdict
from collections.abc import Mapping
from itertools import groupby, product

import numpy as np

BLANK = 0


def random_log_probs(seed: int, frames: int, vocab: int, sharpness: float) -> np.ndarray:
    probabilities = np.random.default_rng(seed).dirichlet(np.full(vocab, sharpness), size=frames)
    return np.log(probabilities + 1e-12)


def sum_over_alignments(log_probs: np.ndarray) -> dict[tuple[int, ...], float]:
    totals: dict[tuple[int, ...], float] = defaultdict(float)
    for path in product(range(log_probs.shape[1]), repeat=len(log_probs)):
        tokens = tuple(token for token, _ in groupby(path) if token != BLANK)
        totals[tokens] += float(np.exp(sum(row[token] for row, token in zip(log_probs, path, strict=True))))
    return totals


def grow(
    beam: Mapping[tuple[int, ...], tuple[float, float]], row: np.ndarray, num_tokens: int
) -> dict[tuple[int, ...], list[float]]:
    """Compute one step of Hannun et al. 2014 in plain probabilities, with every extension and without shortcuts.

    Returns the probability of each prefix with and without a final blank.
    """
    grown: dict[tuple[int, ...], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for token in np.argsort(-row)[:num_tokens].tolist():
        for prefix, (blank, no_blank) in beam.items():
            if token == BLANK:
                grown[prefix][0] += (blank + no_blank) * row[token]
            elif prefix and prefix[-1] == token:
                grown[prefix][1] += no_blank * row[token]
                grown[(*prefix, token)][1] += blank * row[token]
            else:
                grown[(*prefix, token)][1] += (blank + no_blank) * row[token]
    return grown
