"""Where lines can be broken."""

import pytest

from unichoir.text.breaks import break_cost, display_width, ends_sentence, plain_line


@pytest.mark.parametrize(
    "word", ["cold.", "cold?", "COLD!", "cold.\u201d", "well...", "5.", "\u597d\u3002", "\u597d\uff1f", "it's.", "A."]
)
def test_ends_of_sentences(word: str) -> None:
    assert ends_sentence(word)


@pytest.mark.parametrize("word", ["cold", "cold,", "Dr.", "Mrs.", "p.m.", "U.S.", "J.", "3.5", "\u597d\uff0c", ""])
def test_what_is_no_end_of_a_sentence(word: str) -> None:
    assert not ends_sentence(word)


def test_places_from_good_to_bad() -> None:
    """A sentence's end, a mark, before a phrase, within one, after an article or preposition, before a mark."""
    places = [
        ("cold.", "We"),
        ("cold,", "we"),
        ("stood", "in"),
        ("old", "man"),
        ("the", "man"),
        ("good", "\u3002"),
    ]
    costs = [break_cost(*place, 0) for place in places]
    assert costs == sorted({*costs})
    assert break_cost("THE", "MAN", 0) == break_cost("the", "man", 0) == break_cost("of", "men", 0)


@pytest.mark.parametrize("place", [("cold,", "we"), ("stood", "in"), ("old", "man"), ("the", "man")])
def test_the_longer_a_pause_the_better_the_place(place: tuple[str, str]) -> None:
    costs = [break_cost(*place, pause / 4) for pause in range(5)]
    assert costs == sorted({*costs}, reverse=True)
    assert costs[-1] > 0


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("ABC", 3),
        ("\u4eca\u5929", 4),
        ("\ud55c\uae00", 4),
        ("e\u0301", 1),
        ("\uff21", 2),
        ("\uff76", 1),
        ("", 0),
        ("\u0643\u064e", 1),
    ],
)
def test_widths(text: str, width: int) -> None:
    assert display_width(text) == width


def test_a_line_is_one() -> None:
    assert plain_line(" a\tb\r\nc\x0bd\x85e\u2028f\u2029g\x00h\x1b[1m ") == "a b c d e f g h [1m"
