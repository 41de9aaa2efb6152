"""Training of n-gram language models: interpolated modified Kneser-Ney smoothing, written as ARPA.

See Chen & Goodman 1998, An Empirical Study of Smoothing Techniques for Language Modeling, section 3. Choices that they
leave open (beginnings of sentences, <unk>) follow KenLM's lmplz (Heafield et al. 2013), and the probabilities are the
same. N-grams are numbers in sorted arrays: trigrams take up to 200 bytes of memory per word of the text.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from unichoir.errors import TrainingError

MAX_ORDER = 6
UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
"""lmplz's discounts of n-grams seen once, twice and more often, for texts too small or too regular to estimate them."""

BLOCK = 1 << 16
"""Number of n-grams written at once."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Grams:
    """The sorted n-grams of one order, as places (N,) in the order below. The empty n-gram has place 0."""

    context: Ints
    """The n-gram without its last word, as its place in the order below."""
    word: Ints
    suffix: Ints
    """The n-gram without its first word, as its place in the order below."""
    count: Ints
    """Number of occurrences; below the highest order, number of different preceding words (unless it begins a
    sentence)."""


@dataclass(frozen=True)
class NgramModel:
    """Probabilities and backoff weights of n-grams, by order from 1 on.

    words: the words by id, starting with `<unk>`, `<s>`, `</s>`. probabilities[n - 1]: (N,) probability of the last
    word after the others, interpolated with the lower orders. backoffs[n - 1]: (N,) factor for the probability of a
    word not seen after the n-gram; none for the highest order. discounts: three for each order. estimated: whether they
    were estimated; otherwise they are `FALLBACK_DISCOUNTS`.
    """

    words: Sequence[str]
    grams: Sequence[Grams]
    probabilities: Sequence[Floats]
    backoffs: Sequence[Floats]
    discounts: Sequence[tuple[float, float, float]]
    estimated: Sequence[bool]

    @property
    def order(self) -> int:
        """Number of words in the longest n-grams."""
        return len(self.grams)


def train_ngram(sentences: Iterable[Sequence[str]], order: int, min_count: int = 1) -> NgramModel:
    """Train a model on sentences, each a sequence of words (or tokens). The result is deterministic.

    Words that occur less than `min_count` times count as <unk>. Raises TrainingError for an order outside 1 to 6, for
    text without words, for words that ARPA can't represent, and if no sentence has an n-gram of that order.
    """
    if not 1 <= order <= MAX_ORDER:
        raise TrainingError(f"order: expected 1 to {MAX_ORDER}, found {order}")
    words, text = _read(sentences, min_count)
    grams = count_ngrams(text, len(words), order)
    if not len(grams[-1].word):
        raise TrainingError(f"order {order}: no sentence is that long; take a smaller order")
    discounts, estimated = zip(*(estimate_discounts(level.count) for level in grams), strict=True)
    probabilities: list[Floats] = []
    backoffs: list[Floats] = []
    lower: Floats = np.array([1 / (len(words) - 1)])  # uniform, except <s>
    for level, three in zip(grams, discounts, strict=True):
        discount = np.array([0.0, *three])[np.minimum(level.count, 3)]
        total = np.bincount(level.context, level.count, len(lower))
        kept = np.bincount(level.context, discount, len(lower))
        seen = total > 0
        backoff = np.divide(kept, total, out=np.ones_like(kept), where=seen)
        backoffs.append(backoff)
        lower = (level.count - discount) / total[level.context] + backoff[level.context] * lower[level.suffix]
        probabilities.append(lower)
    probabilities[0][words.index(BEGIN)] = 0.0  # nothing precedes it
    return NgramModel(words, grams, probabilities, backoffs[1:], discounts, estimated)


def estimate_discounts(counts: Ints) -> tuple[tuple[float, float, float], bool]:
    """Return D1, D2, D3+ of Chen & Goodman (eq. 17) from the counts of n-grams; or the fallback, and False."""
    n1, n2, n3, n4 = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].tolist()
    if n1 and n2 and n3:
        y = n1 / (n1 + 2 * n2)
        three = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        if all(0 <= discount <= most for most, discount in enumerate(three, start=1)):
            return three, True
    return FALLBACK_DISCOUNTS, False


def count_ngrams(text: Ints, num_words: int, order: int) -> list[Grams]:
    """Return the n-grams of orders 1 to `order` in a text of word ids below `num_words`.

    Every sentence begins with 1. The n-grams of order 1 are all words, including unseen ones, so their places are the
    ids.
    """
    nothing, words = np.zeros(num_words, np.int64), np.arange(num_words)
    raw = [Grams(nothing, words, nothing, np.bincount(text, minlength=num_words))]
    place = text  # of the n-gram ending at each word; -1: it would cross the beginning of its sentence
    while len(raw) < order:
        below = raw[-1]
        place = np.where(text == 1, -1, np.concatenate([[-1], place[:-1]]))
        here = place >= 0
        keys, place[here], count = np.unique(
            place[here] * num_words + text[here], return_inverse=True, return_counts=True
        )
        context, word = np.divmod(keys, num_words)
        suffix = np.searchsorted(below.context * num_words + below.word, below.suffix[context] * num_words + word)
        raw.append(Grams(context, word, suffix, count))
    return _adjust(raw)


def _adjust(raw: Sequence[Grams]) -> list[Grams]:
    """Replace occurrences by counts of preceding words, except in the highest order."""
    adjusted, begins = [], raw[0].word == 1
    for n, level in enumerate(raw):
        begins = begins[level.context] if n else begins
        count = level.count
        if n + 1 < len(raw):
            count = np.where(begins, count, np.bincount(raw[n + 1].suffix, minlength=len(count)))
        if n == 0:
            count = np.where(begins, 0, count)  # nothing precedes <s>
        adjusted.append(replace(level, count=count))
    return adjusted


def write_arpa(model: NgramModel, file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Write the model as ARPA, log10 with 7 digits. Yields (n-grams written, all n-grams) at intervals."""
    total, done = sum(len(level.word) for level in model.grams), 0
    counts = "".join(f"ngram {n}={len(level.word)}\n" for n, level in enumerate(model.grams, start=1))
    file.write(f"\\data\\\n{counts}".encode())
    names = [""]
    for n, level in enumerate(model.grams, start=1):
        file.write(f"\n\\{n}-grams:\n".encode())
        last = [model.words[index] for index in level.word.tolist()]
        names = [f"{names[c]} {word}" if n > 1 else word for c, word in zip(level.context.tolist(), last, strict=True)]
        for start in range(0, len(names), BLOCK):
            part = slice(start, start + BLOCK)
            file.write("".join(_lines(model, n, names[part], part)).encode())
            done += len(names[part])
            yield done, total
    file.write(b"\n\\end\\\n")


def _lines(model: NgramModel, n: int, names: Sequence[str], part: slice) -> Iterator[str]:
    probabilities = _log10(model.probabilities[n - 1][part])
    if n == model.order:
        return (f"{p:.7g}\t{name}\n" for p, name in zip(probabilities, names, strict=True))
    backoffs = _log10(model.backoffs[n - 1][part])
    return (f"{p:.7g}\t{name}\t{b:.7g}\n" for p, name, b in zip(probabilities, names, backoffs, strict=True))


def _log10(values: Floats) -> list[float]:
    """Return log10, with ARPA's usual -99 for 0."""
    logs: list[float] = np.log10(values, out=np.full_like(values, -99.0), where=values > 0).tolist()
    return logs


def _read(sentences: Iterable[Sequence[str]], min_count: int) -> tuple[list[str], Ints]:
    """Return the words by id, and the text as ids."""
    ids: dict[str, int] = {UNKNOWN: 0, BEGIN: 1, END: 2}
    text = array("i")
    for sentence in sentences:
        if not sentence:
            continue
        text.append(1)
        for word in sentence:
            index = ids.setdefault(word, len(ids))
            if index in (1, 2) or (index == len(ids) - 1 and word.split() != [word]):
                raise TrainingError(f"a language model cannot have {word!r} as a word")
            text.append(index)
        text.append(2)
    if not text:
        raise TrainingError("no text to train a language model on")
    flat = np.frombuffer(text, np.int32).astype(np.int64)
    words = list(ids)
    if min_count > 1:
        keep = np.bincount(flat, minlength=len(words)) >= min_count
        keep[:3] = True
        if keep.sum() == 3:
            raise TrainingError(f"min_count {min_count}: no word occurs that often")
        flat = np.where(keep, np.cumsum(keep) - 1, 0)[flat]
        words = [word for word, kept in zip(words, keep.tolist(), strict=True) if kept]
    return words, flat
