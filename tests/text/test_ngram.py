"""N-gram models against KenLM's lmplz, the axioms of probability, and the paper's equations."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.text.arpa import log10_probability, read_arpa, to_arpa

from unichoir.errors import TrainingError
from unichoir.text.ngram import estimate_discounts, train_ngram


def test_it_is_what_lmplz_makes(fixtures: Path) -> None:
    # Recorded: `lmplz -o 3 --discount_fallback < text.txt > lmplz.arpa`, KenLM 0.3.0
    text = (fixtures / "ngram" / "text.txt").read_text(encoding="utf-8")
    model = train_ngram(map(str.split, text.splitlines()), 3)
    made, expected = read_arpa(to_arpa(model)), read_arpa((fixtures / "ngram" / "lmplz.arpa").read_text("utf-8"))
    assert len(set(model.estimated)) == 2  # both kinds of discounts occur
    assert made.keys() == expected.keys()
    del made["<s>",], expected["<s>",]  # of probability 0, for which there are two customs
    assert np.array(list(made.values())) == pytest.approx(np.array([expected[key] for key in made]), abs=2e-6)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=6), min_size=1, max_size=12).filter(any), st.integers(1, 4))
def test_after_every_context_probabilities_sum_to_one(sentences: list[list[str]], order: int) -> None:
    longest = max(map(len, sentences)) + 2
    entries = read_arpa(to_arpa(train_ngram(sentences, min(order, longest))))
    words = [key[0] for key in entries if len(key) == 1 and key != ("<s>",)]
    for length in range(min(order, longest)):
        for context in product([*words, "<s>"], repeat=length):
            total = sum(10 ** log10_probability(entries, context, word) for word in words)
            assert total == pytest.approx(1, abs=1e-5)


def test_bigrams_by_hand() -> None:
    # a b </s>, a c </s>: after <s> always a; after a once b, once c. All discounts are the fallback ones.
    entries = read_arpa(to_arpa(train_ngram(["ab", "ac"], 2)))
    # Unigrams count the words before: a 1, b 1, c 1, </s> 2, of 5; 3 * 0.5 + 1 * 1.0 is kept back for 5 words.
    kept = (3 * 0.5 + 1.0) / 5
    unigram = {"a": 0.5 / 5 + kept / 5, "b": 0.5 / 5 + kept / 5, "</s>": 1 / 5 + kept / 5, "<unk>": kept / 5}
    for word, probability in unigram.items():
        assert 10 ** entries[word,][0] == pytest.approx(probability, rel=1e-5)
    # `<s> a` was seen twice, which costs 1.0 of 2; `a b` once of 2, which costs 0.5, and 1.0 is kept back for all.
    assert 10 ** entries["<s>", "a"][0] == pytest.approx((2 - 1.0) / 2 + 0.5 * unigram["a"], rel=1e-5)
    assert 10 ** entries["a", "b"][0] == pytest.approx((1 - 0.5) / 2 + 0.5 * unigram["b"], rel=1e-5)
    assert 10 ** entries["a",][1] == pytest.approx(0.5, rel=1e-5)


def test_discounts_by_hand() -> None:
    # n1 = 4, n2 = 2, n3 = 1, n4 = 1: Y = 4 / (4 + 2 * 2) = 1/2
    discounts, estimated = estimate_discounts(np.array([1, 1, 1, 1, 2, 2, 3, 4, 9, 0]))
    assert estimated
    assert discounts == pytest.approx((1 - 2 * 0.5 * 2 / 4, 2 - 3 * 0.5 * 1 / 2, 3 - 4 * 0.5 * 1 / 1))


@pytest.mark.parametrize("counts", [[1, 1, 2], [2, 3, 4], [1, 2, 3, 3, 3, 3], []])
def test_discounts_that_cannot_be_estimated(counts: Sequence[int]) -> None:
    assert estimate_discounts(np.array(counts, dtype=np.int64)) == ((0.5, 1.0, 1.5), False)


def test_rare_words_are_unknown() -> None:
    model = train_ngram([["a", "b", "a"], ["a", "c"]], 2, min_count=2)
    assert model.words == ["<unk>", "<s>", "</s>", "a"]
    assert ("a", "<unk>") in read_arpa(to_arpa(model))


@pytest.mark.parametrize(
    ("sentences", "order", "min_count", "message"),
    [
        ([["a"]], 0, 1, "order: expected 1 to 6, found 0"),
        ([["a"]], 7, 1, "order: expected 1 to 6, found 7"),
        ([["a"]], 4, 1, "order 4: no sentence is that long"),
        ([], 2, 1, "no text"),
        ([[], []], 2, 1, "no text"),
        ([["a", "</s>"]], 2, 1, "cannot have '</s>' as a word"),
        ([["a", "b c"]], 2, 1, "cannot have 'b c' as a word"),
        ([["a", ""]], 2, 1, "cannot have '' as a word"),
        ([["a", "b"]], 2, 2, "min_count 2: no word occurs that often"),
    ],
)
def test_what_cannot_be_trained(sentences: list[list[str]], order: int, min_count: int, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        train_ngram(sentences, order, min_count)
