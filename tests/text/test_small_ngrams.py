"""Pruned, packed and mixed n-gram models, against ARPA's definition and sums over all words."""

import io
import math
import random
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from tests.text.arpa import Entries, log10_probability, read_arpa, to_arpa

from unichoir.errors import CheckpointError, TrainingError
from unichoir.text.mixing import PRIOR_SHARE, mix_ngrams
from unichoir.text.ngram import NgramModel, train_ngram
from unichoir.text.packed_ngram import PackedNgram, is_packed, write_packed
from unichoir.text.pruning import prune_ngrams

Sentences = list[list[str]]


def drawn(words: str, count: int, seed: int) -> Sentences:
    """Random sentences in which a word is often followed by the next one in the list."""
    choose = random.Random(seed)
    made = []
    for _ in range(count):
        sentence = [choose.choice(words)]
        while choose.random() < 0.8:
            following = words[(words.index(sentence[-1]) + 1) % len(words)]
            sentence.append(following if choose.random() < 0.6 else choose.choice(words))
        made.append(sentence)
    return made


TEXT = drawn("abcde", 60, seed=1)
OTHER = drawn("edxyz", 20, seed=2)


def entries_of(model: NgramModel) -> Entries:
    return read_arpa(to_arpa(model))


def predicted(entries: Entries) -> list[str]:
    """Return all words that can follow."""
    return [key[0] for key in entries if len(key) == 1 and key != ("<s>",)]


def packed(model: NgramModel, path: Path) -> PackedNgram:
    with path.open("wb") as file:
        write_packed(model, file)
    return PackedNgram(path)


def walk(lm: PackedNgram, words: Sequence[str]) -> list[float]:
    state, scores = lm.begin(), []
    for word in [*words, "</s>"]:
        state, score, known = lm.score(state, word)
        scores.append(score)
        assert known == (word in lm.words and word != "<unk>")
    return scores


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("kind", ["trained", "pruned", "mixed"])
def test_packed_models_score_as_arpa_says(tmp_path: Path, order: int, kind: str) -> None:
    model = train_ngram(TEXT, order, min_count=2)
    if kind == "pruned":
        model = prune_ngrams(model, 3e-3)
    elif kind == "mixed":
        model = mix_ngrams([model, train_ngram(OTHER, order)], [0.7, 0.3])
    entries = entries_of(model)
    lm = packed(model, tmp_path / "lm.bin")
    assert lm.order == order
    numbers = np.array([each for key, each in entries.items() if key != ("<s>",)])
    step = np.ptp(numbers, axis=0).max() / 255  # of the order with the widest range, no less than of any
    for sentence in [*TEXT[:20], *OTHER[:20], [], ["q"], ["a", "q", "b", "b", "b"]]:
        known = ["<s>", *(word if (word,) in entries else "<unk>" for word in sentence), "</s>"]
        for place, score in enumerate(walk(lm, sentence), start=1):
            context = tuple(known[max(0, place - order + 1) : place])
            # A probability and at most order - 1 backoffs, each rounded to the nearest step.
            expected = log10_probability(entries, context, known[place])
            assert score == pytest.approx(expected, abs=order * step / 2 + 1e-6)


def test_words_that_need_four_bytes(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(1 << 16)]
    lm = packed(train_ngram([words, ["w65535", "w0"]], 2), tmp_path / "lm.bin")
    state, _, _ = lm.score(lm.begin(), "w65535")
    _, seen, _ = lm.score(state, "w0")
    _, unseen, _ = lm.score(state, "w1")
    assert seen > unseen + 2


@pytest.mark.parametrize("at", [0, 5, 25, 60, 200, -1])
def test_files_cut_short_or_changed(tmp_path: Path, at: int) -> None:
    path = tmp_path / "lm.bin"
    packed(train_ngram(TEXT, 3), path)
    content = path.read_bytes()
    assert is_packed(path)
    path.write_bytes(content[:at])
    with pytest.raises(CheckpointError, match=r"lm\.bin: "):
        PackedNgram(path)


def test_wherever_a_file_is_damaged_it_is_refused_or_gives_numbers(tmp_path: Path) -> None:
    path = tmp_path / "lm.bin"
    packed(train_ngram(TEXT, 2), path)
    content = path.read_bytes()
    refused = 0
    for place in range(0, len(content), 4):
        path.write_bytes(content[:place] + b"\xff\xff\xff\x7f" + content[place + 4 :])
        try:
            lm = PackedNgram(path)
        except CheckpointError as error:
            refused += "lm.bin: " in str(error)
            continue
        state = lm.begin()
        for word in "abcdeqab":
            state, score, _ = lm.score(state, word)
            assert math.isfinite(score)
    assert refused > 20


def test_other_files_are_not_packed(tmp_path: Path) -> None:
    (tmp_path / "lm.arpa").write_text("\\data\\\n")
    assert not is_packed(tmp_path / "lm.arpa")
    assert not is_packed(tmp_path / "missing")
    with pytest.raises(CheckpointError, match="missing: No such file"):
        PackedNgram(tmp_path / "missing")


def sums_to_one(entries: Entries, contexts: Sequence[tuple[str, ...]]) -> None:
    for context in contexts:
        total = sum(10 ** log10_probability(entries, context, word) for word in predicted(entries))
        assert total == pytest.approx(1, abs=1e-5), context


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("threshold", [1e-4, 1e-3, 1e-2])
def test_pruned_models_are_probabilities(order: int, threshold: float) -> None:
    full, small = entries_of(train_ngram(TEXT, order)), entries_of(prune_ngrams(train_ngram(TEXT, order), threshold))
    assert small.keys() < full.keys()
    words = predicted(full)
    sums_to_one(small, [(), *product([*words, "<s>"], repeat=1), *product(["<s>", *words], repeat=2)])
    for key, (probability, _) in small.items():
        assert full[key][0] == probability
        if len(key) > 2:
            assert key[:-1] in small
            assert key[1:] in small


def test_nothing_is_pruned_at_zero_and_all_but_words_at_infinity() -> None:
    model = train_ngram(TEXT, 3)
    assert to_arpa(prune_ngrams(model, 0)) == to_arpa(model)
    assert all(len(key) == 1 for key in entries_of(prune_ngrams(model, math.inf)))
    for threshold in (-1.0, math.nan):
        with pytest.raises(TrainingError, match="threshold of at least 0"):
            prune_ngrams(model, threshold)


def test_an_ngram_goes_where_the_perplexity_changes_less_than_the_threshold() -> None:
    """The relative entropy by its definition: over all contexts of the text, and all words."""
    model = train_ngram(TEXT, 2)
    entries, words = entries_of(model), predicted(entries_of(model))
    contexts = Counter(word for sentence in TEXT for word in ["<s>", *sentence])
    total = sum(len(sentence) + 1 for sentence in TEXT)
    increase = {}
    for context, word in (key for key in entries if len(key) == 2):
        old = {each: 10 ** log10_probability(entries, (context,), each) for each in words}
        lower = {each: 10 ** entries[each,][0] for each in words}
        stay = [each for each in words if (context, each) in entries and each != word]
        backoff = (1 - sum(old[each] for each in stay)) / (1 - sum(lower[each] for each in stay))
        new = {each: old[each] if each in stay else backoff * lower[each] for each in words}
        divergence = sum(old[each] * math.log(old[each] / new[each]) for each in words)
        increase[context, word] = math.expm1(contexts[context] / total * divergence)
    ranked = sorted(increase.values())
    for lower_one, upper_one in ((ranked[4], ranked[5]), (ranked[12], ranked[13])):
        threshold = (lower_one + upper_one) / 2
        kept = {key for key in entries_of(prune_ngrams(model, threshold)) if len(key) == 2}
        assert kept == {key for key, value in increase.items() if value >= threshold}


@pytest.mark.parametrize("order", [2, 3])
def test_mixed_models_are_probabilities(order: int) -> None:
    mixed = entries_of(mix_ngrams([train_ngram(TEXT, order), train_ngram(OTHER, order)], [0.8, 0.2]))
    words = predicted(mixed)
    sums_to_one(mixed, [(), *product([*words, "<s>"], repeat=1), *product(["<s>", *words], repeat=2)])
    for part in (TEXT, OTHER):
        assert entries_of(train_ngram(part, order)).keys() <= mixed.keys()


def test_a_model_mixed_with_itself_is_itself() -> None:
    model = train_ngram(TEXT, 3)
    mixed, alone = entries_of(mix_ngrams([model, model], [0.3, 0.7])), entries_of(model)
    assert mixed.keys() == alone.keys()
    del mixed["<s>",], alone["<s>",]
    assert np.array([mixed[key] for key in alone]) == pytest.approx(np.array(list(alone.values())), abs=1e-5)


def test_what_a_model_counts_depends_on_the_context() -> None:
    models, weights = [train_ngram(TEXT, 2), train_ngram(OTHER, 2)], [0.75, 0.25]
    parts, mixed = [entries_of(model) for model in models], entries_of(mix_ngrams(models, weights))
    rates = []
    for text in (TEXT, OTHER):
        contexts = Counter(word for sentence in text for word in ["<s>", *sentence])
        total = sum(len(sentence) + 1 for sentence in text)
        rates.append({word: count / total for word, count in contexts.items()})
    for context, word in (key for key in mixed if len(key) == 2):
        probable = [weight * rate.get(context, 0) for weight, rate in zip(weights, rates, strict=True)]
        expected = 0.0
        for part, weight, each in zip(parts, weights, probable, strict=True):
            share = PRIOR_SHARE * weight + (1 - PRIOR_SHARE) * each / sum(probable)
            known = (word,) in part
            expected += share * 10 ** log10_probability(part, (context,), word) if known else 0.0
        assert mixed[context, word][0] == pytest.approx(math.log10(expected), abs=1e-5)


def test_mixing_needs_weights_and_one_order() -> None:
    two, three = train_ngram(TEXT, 2), train_ngram(TEXT, 3)
    for weights in ([0.5, 0.6], [1.0, 0.0], [1.0]):
        with pytest.raises(TrainingError, match="weights of texts"):
            mix_ngrams([two, two], weights)
    with pytest.raises(TrainingError, match=r"orders \[2, 3\]"):
        mix_ngrams([two, three], [0.5, 0.5])


def test_the_same_model_gives_the_same_bytes() -> None:
    files = [io.BytesIO(), io.BytesIO()]
    for file in files:
        write_packed(mix_ngrams([train_ngram(TEXT, 3), train_ngram(OTHER, 3)], [0.6, 0.4]), file)
    assert files[0].getvalue() == files[1].getvalue()
