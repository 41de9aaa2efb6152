"""Pruning of n-gram models: n-grams are removed if shorter ones predict nearly the same.

See Stolcke 1998, Entropy-based Pruning of Backoff Language Models. The probability of a context comes from its
occurrences, not from the smoothed lower orders, which under Kneser-Ney are not probabilities of text (Chelba et al.
2010, Study on Interaction between Entropy Pruning and Kneser-Ney Smoothing).
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from unichoir.errors import TrainingError
from unichoir.text.ngram import Floats, Grams, Ints, NgramModel

TINY = 1e-12
"""Minimum probability that contexts leave to unseen words; rounding may leave less."""


def prune_ngrams(model: NgramModel, threshold: float) -> NgramModel:
    """Return a model without the n-grams whose removal increases the perplexity by less than the fraction `threshold`.

    Unigrams remain, and so do the prefixes and suffixes of all remaining n-grams. Their probabilities don't change;
    backoffs are recomputed. Each n-gram is judged as if only it were removed, so the total perplexity increases by
    more. Raises TrainingError for a threshold that is negative or not a number.
    """
    if not threshold >= 0:
        raise TrainingError(f"pruning: expected a threshold of at least 0, found {threshold}")
    counts = count_occurrences(model)
    total = counts[0].sum()
    kept: list[NDArray[np.bool_]] = [np.ones(len(level.word), np.bool_) for level in model.grams]
    for place in range(model.order - 1, 0, -1):
        seen_before = np.bincount(model.grams[place].context, counts[place], len(model.grams[place - 1].word)) / total
        kept[place] = np.expm1(_losses(model, place, seen_before)) >= threshold
        if place + 1 < model.order:
            longer = model.grams[place + 1]
            for part in (longer.context, longer.suffix):
                kept[place][part[kept[place + 1]]] = True
    return _select(model, kept)


def count_occurrences(model: NgramModel) -> list[Floats]:
    """Return how often each n-gram occurs, (N,) for each order. Kneser-Ney's counts differ below the highest order."""
    counts: list[Floats] = [model.grams[-1].count.astype(np.float64)]
    for place in range(model.order - 2, -1, -1):
        level = model.grams[place]
        # Every n-gram that doesn't begin a sentence has a preceding word. Those that do keep their counts.
        inside = np.bincount(model.grams[place + 1].suffix, counts[0], len(level.word))
        counts.insert(0, np.where(inside > 0, inside, level.count))
    return counts


def _losses(model: NgramModel, place: int, context_probability: Floats) -> Floats:
    """Return the increase in entropy, (N,) nats per word of text, if a single n-gram of an order is removed (eq. 7)."""
    level, probability = model.grams[place], model.probabilities[place]
    shorter = model.probabilities[place - 1][level.suffix]
    left, left_shorter = left_over(level, probability, shorter, len(model.grams[place - 1].word))
    left, left_shorter = left[level.context], left_shorter[level.context]
    before = np.log(left / left_shorter)
    after = np.log((left + probability) / (left_shorter + shorter))
    change = probability * (np.log(shorter) + after - np.log(probability)) + left * (after - before)
    losses: Floats = -context_probability[level.context] * change
    return losses


def left_over(level: Grams, probability: Floats, shorter: Floats, num_contexts: int) -> tuple[Floats, Floats]:
    """Return what the n-grams of each context leave to all others: the probability, and that of the order below."""
    left = 1 - np.bincount(level.context, probability, num_contexts)
    left_shorter = 1 - np.bincount(level.context, shorter, num_contexts)
    return np.maximum(left, TINY), np.maximum(left_shorter, TINY)


def _select(model: NgramModel, kept: list[NDArray[np.bool_]]) -> NgramModel:
    grams: list[Grams] = []
    probabilities: list[Floats] = []
    backoffs: list[Floats] = []
    places: Ints = np.zeros(1, np.int64)
    for place, (level, keep) in enumerate(zip(model.grams, kept, strict=True)):
        context, suffix = places[level.context[keep]], places[level.suffix[keep]]
        grams.append(replace(level, context=context, word=level.word[keep], suffix=suffix, count=level.count[keep]))
        probabilities.append(model.probabilities[place][keep])
        if place:
            num_contexts = len(grams[place - 1].word)
            left, left_shorter = left_over(
                grams[place], probabilities[place], probabilities[place - 1][suffix], num_contexts
            )
            # Contexts without removed n-grams keep their exact values.
            lost = np.bincount(level.context[~keep], minlength=len(model.grams[place - 1].word))[kept[place - 1]] > 0
            backoffs.append(np.where(lost, left / left_shorter, model.backoffs[place - 1][kept[place - 1]]))
        places = np.cumsum(keep) - 1
    return replace(model, grams=grams, probabilities=probabilities, backoffs=backoffs)
