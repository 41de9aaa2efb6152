"""Interpolation of several n-gram models, which keeps a small text of a special kind relevant next to a large one.

This is linear interpolation with context-dependent weights, proportional to the probability of the context in each text
(Weintraub et al. 1996, LM95 Project Report; `-bayes` of SRILM's `ngram`). After `X I` a model of spelled names
dominates, after `the old` a model of books. Repeating the small text would instead make everything else improbable.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unichoir.errors import TrainingError
from unichoir.text.ngram import Floats, Grams, Ints, NgramModel
from unichoir.text.pruning import count_occurrences, left_over

PRIOR_SHARE = 0.1
"""Fraction of a model's weight in a context that comes from the next shorter context. The rest comes from the context
itself."""


@dataclass(frozen=True)
class _Part:
    """A model, and the places of its n-grams among those of all models."""

    model: NgramModel
    occurrences: Sequence[Floats]
    places: list[Ints]
    """Places for each order, (N,)."""


def mix_ngrams(models: Sequence[NgramModel], weights: Sequence[float]) -> NgramModel:
    """Return one model with the n-grams of all. weights: weights for unknown contexts; they sum to 1.

    All models must have the same order. The probabilities of the n-grams are interpolated; all others follow by
    backoff. Raises TrainingError for weights that are not above 0 or do not sum to 1, and for different orders.
    """
    if len(weights) != len(models) or min(weights) <= 0 or abs(sum(weights) - 1) > 1e-6:
        raise TrainingError(f"weights of texts: expected numbers above 0 that sum to 1, found {list(weights)}")
    orders = {model.order for model in models}
    if len(orders) > 1:
        raise TrainingError(f"models to be mixed have orders {sorted(orders)}: expected one")
    ids: dict[str, int] = {}
    for model in models:
        for word in model.words:
            ids.setdefault(word, len(ids))
    parts = [
        _Part(model, count_occurrences(model), [np.array([ids[word] for word in model.words])]) for model in models
    ]
    totals = np.array([part.occurrences[0].sum() for part in parts])
    rates = np.asarray(weights) / totals
    grams = [_unigrams(parts, rates, len(ids))]
    for place in range(1, orders.pop()):
        grams.append(_union(parts, rates, place, len(ids), len(grams[-1].word)))
    probabilities, backoffs = _interpolate(parts, np.asarray(weights), rates, grams)
    first = models[0]
    return NgramModel(list(ids), grams, probabilities, backoffs, first.discounts, first.estimated)


def _unigrams(parts: Sequence[_Part], rates: Floats, num_words: int) -> Grams:
    nothing = np.zeros(num_words, np.int64)
    return Grams(nothing, np.arange(num_words), nothing, _counts(parts, rates, 0, num_words))


def _union(parts: Sequence[_Part], rates: Floats, place: int, num_words: int, num_shorter: int) -> Grams:
    """Return all n-grams of an order that any model has, and record each model's own places."""
    keys = []
    for part in parts:
        level, shorter = part.model.grams[place], part.places[place - 1]
        keys.append(shorter[level.context] * num_words + part.places[0][level.word])
    together = np.unique(np.concatenate(keys))
    suffix = np.zeros(len(together), np.int64)
    for part, own in zip(parts, keys, strict=True):
        part.places.append(np.searchsorted(together, own))
        suffix[part.places[place]] = part.places[place - 1][part.model.grams[place].suffix]
    context, word = np.divmod(together, num_words)
    return Grams(context, word, suffix, _counts(parts, rates, place, len(together)))


def _counts(parts: Sequence[_Part], rates: Floats, place: int, size: int) -> Ints:
    """Return how often each n-gram would occur in a text mixed with these weights."""
    total = np.zeros(size)
    for part, rate in zip(parts, rates / rates.min(), strict=True):
        total[part.places[place]] += rate * part.occurrences[place]  # each place once
    return np.rint(total).astype(np.int64)


def _interpolate(
    parts: Sequence[_Part], weights: Floats, rates: Floats, grams: Sequence[Grams]
) -> tuple[list[Floats], list[Floats]]:
    """Return probabilities of all orders, and the backoffs of all but the highest."""
    shares = weights[:, None]  # (M, contexts): weight of each model
    own = [_spread(part, 0, part.model.probabilities[0], len(grams[0].word)) for part in parts]
    probabilities: list[Floats] = [(shares * np.stack(own)).sum(axis=0)]
    backoffs: list[Floats] = []
    for place in range(1, len(grams)):
        level, num_contexts = grams[place], len(grams[place - 1].word)
        seen = np.stack(
            [
                rate * _spread(part, place - 1, _followed(part, place), num_contexts)
                for part, rate in zip(parts, rates, strict=True)
            ]
        )
        # N-grams that don't start a longer one are no contexts: their weights don't matter.
        seen[:, seen.sum(axis=0) == 0] = 1.0
        shorter = shares[:, grams[place - 1].suffix] if place > 1 else shares
        shares = PRIOR_SHARE * shorter + (1 - PRIOR_SHARE) * seen / seen.sum(axis=0)
        for index, part in enumerate(parts):
            backoff = _spread(part, place - 1, part.model.backoffs[place - 1], num_contexts, missing=1.0)
            longer = backoff[level.context] * own[index][level.suffix]
            longer[part.places[place]] = part.model.probabilities[place]
            own[index] = longer
        mixed = np.zeros(len(level.word))
        for share, each in zip(shares, own, strict=True):
            mixed += share[level.context] * each
        left, left_shorter = left_over(level, mixed, probabilities[-1][level.suffix], num_contexts)
        backoffs.append(left / left_shorter)
        probabilities.append(mixed)
    return probabilities, backoffs


def _followed(part: _Part, place: int) -> Floats:
    """Return how often the n-grams before `place` are followed by a word, (N,)."""
    level = part.model.grams[place]
    counts = np.bincount(level.context, part.occurrences[place], len(part.model.grams[place - 1].word)).astype(
        np.float64
    )
    return counts


def _spread(part: _Part, place: int, values: Floats, size: int, missing: float = 0.0) -> Floats:
    """Return values of a model's own n-grams at their places among all, (size,)."""
    spread = np.full(size, missing)
    spread[part.places[place]] = values
    return spread
