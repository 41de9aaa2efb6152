"""Error counts against a memoised recursion and against known cases."""

import functools
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from unichoir.text.wer import ErrorCounts, align, char_errors, count_errors, format_alignment, word_errors

words = st.lists(st.sampled_from("abcd"), max_size=9)


def fewest_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> tuple[int, int]:
    """Return (errors, substitutions) of the best alignment, straight from the definition."""

    @functools.cache
    def best(i: int, j: int) -> tuple[int, int]:
        if i == len(reference) or j == len(hypothesis):
            return len(reference) - i + len(hypothesis) - j, 0
        wrong = int(reference[i] != hypothesis[j])
        options = [(best(i + 1, j + 1), wrong, wrong), (best(i + 1, j), 1, 0), (best(i, j + 1), 1, 0)]
        return min((errors + more, subs + sub) for (errors, subs), more, sub in options)

    return best(0, 0)


@given(words, words)
@settings(deadline=None)
def test_alignment_is_the_best_one_and_spells_both_sides(reference: list[str], hypothesis: list[str]) -> None:
    pairs = align(reference, hypothesis)
    assert [pair.reference for pair in pairs if pair.reference is not None] == reference
    assert [pair.hypothesis for pair in pairs if pair.hypothesis is not None] == hypothesis
    for pair in pairs:
        assert (pair.kind == "correct") == (pair.reference == pair.hypothesis)
        assert (pair.kind == "insertion") == (pair.reference is None)
        assert (pair.kind == "deletion") == (pair.hypothesis is None)
    counts = count_errors(pairs)
    assert (counts.errors, counts.substitutions) == fewest_errors(reference, hypothesis)
    assert counts.reference == len(reference)
    assert counts.correct + counts.substitutions + counts.insertions == len(hypothesis)


def test_ties_prefer_correct_words() -> None:
    assert word_errors("A B", "B C") == ErrorCounts(deletions=1, insertions=1, reference=2)


def test_word_errors_of_known_cases() -> None:
    assert word_errors("THE CAT SAT", "THE CAT SAT") == ErrorCounts(reference=3)
    assert word_errors("THE CAT SAT", "A CAT SAT DOWN") == ErrorCounts(substitutions=1, insertions=1, reference=3)
    assert word_errors("", "UM") == ErrorCounts(insertions=1)
    assert word_errors("", "UM").rate == 1.0
    assert word_errors("", "").rate == 0.0
    assert word_errors("A B", "").rate == 1.0


def test_chinese_is_scored_by_characters_whatever_its_spacing() -> None:
    assert word_errors("今天 天气 OK", "今 天天汽 OK") == ErrorCounts(substitutions=1, reference=5)


def test_characters_are_counted_without_spaces() -> None:
    assert char_errors("AN  EAR", "A NEAR") == ErrorCounts(reference=5)
    assert char_errors("KITTEN", "SITTING") == ErrorCounts(substitutions=2, insertions=1, reference=6)


def test_counts_of_a_set_add_up() -> None:
    pairs = [("A B C", "A X C"), ("A B", "A B C"), ("A", "")]
    total = sum((word_errors(*pair) for pair in pairs), ErrorCounts())
    assert total == ErrorCounts(substitutions=1, deletions=1, insertions=1, reference=6)
    assert total.rate == 0.5


def test_alignment_for_display_is_in_columns() -> None:
    shown = format_alignment(align(["THE", "CAT", "SAT", "我", "UP"], ["THE", "CATS", "SAT", "UP", "NOW"]))
    assert shown.splitlines() == [
        "REF: THE CAT  SAT 我 UP ***",
        "HYP: THE CATS SAT ** UP NOW",
        "         S        D     I",
    ]
