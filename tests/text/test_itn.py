"""Numbers in written form against numbers spelled out by the tests."""

import random
import re
import sys

import pytest

from unichoir.errors import ConfigError, UnichoirError
from unichoir.text.itn import Span, load_grammar, write_numbers

BELOW_20 = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)


def english(number: int) -> str:
    for unit, name in ((1000, "thousand"), (100, "hundred")):
        if number >= unit:
            rest = f" {english(number % unit)}" if number % unit else ""
            return f"{english(number // unit)} {name}{rest}"
    if number < 20:
        return BELOW_20[number]
    return TENS[number // 10] + (f" {BELOW_20[number % 10]}" if number % 10 else "")


def chinese(number: int) -> str:
    """10 to 9999."""
    digits, text = "零一二三四五六七八九", ""
    for unit, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        if digit := number // unit % 10:
            text += digits[digit] + name
        elif text and number % unit and not text.endswith("零"):
            text += "零"
    return text.removeprefix("一") if number < 20 else text


def digits(text: str) -> str:
    """Return the digits of a text: numbers below 100 in words (longest match first, `forty two` is 42) or in digits."""
    for number in sorted(range(100), key=lambda number: -len(english(number))):
        text = re.sub(rf"\b{english(number)}\b", str(number), text)
    return re.sub(r"\D", "", re.sub(r"\b0(\d:)", r"\1", text))


def write(text: str, language: str = "en") -> str:
    spans = write_numbers(text.split() if language == "en" else list(text), language)  # type: ignore[arg-type]
    return (" " if language == "en" else "").join(span.text for span in spans)


@pytest.mark.parametrize(("before", "after"), [("", ""), ("we have ", " dogs")])
def test_cardinal_numbers(before: str, after: str) -> None:
    choice = random.Random(1)
    for number in [*range(13, 1000, 17), *(choice.randrange(1000, 1000000) for _ in range(50))]:
        assert write(f"{before}{english(number)}{after}") == f"{before}{number}{after}"


def test_amounts_dates_and_years() -> None:
    for number in range(2, 999, 71):
        assert write(f"{english(number)} dollars") == f"${number}"
        assert write(f"{english(number)} percent") == f"{number} %"
        assert write(f"{english(number)} point five") == f"{number}.5"
    for month in MONTHS:
        assert write(f"on {month} fourth nineteen {english(76)}") == f"on {month} 4 1976"
    for year in range(10, 100, 7):
        assert write(f"in nineteen {english(year)} we") == f"in 19{year} we"


def test_a_time_is_the_one_said_or_stays_in_words() -> None:
    """wetext alone writes 01:29 for `one thirty one`."""
    written = 0
    for hour in range(1, 13):
        for minute in range(10, 60, 7):
            said = f"at {english(hour)} {english(minute)}"
            assert write(said) in {said, f"at {hour:02}:{minute}", f"at {hour}{minute}"}
            written += write(said) != said
            assert write(f"{english(minute)} past {english(hour)}") == f"{hour:02}:{minute}"
    assert written > 20
    assert write("three thirty p m") == "03:30 p.m."
    assert write("one thirty one p m") == "one thirty one p m"


def test_digits_are_those_said_or_stay_in_words() -> None:
    """wetext alone writes 9809 for `nine eighty nine` and 704-60-3202 for `seventy four sixty three twenty two`."""
    choice, written = random.Random(2), 0
    for _ in range(60):
        said = " ".join(english(choice.randrange(100)) for _ in range(choice.randrange(3, 6)))
        assert digits(write(said)) == digits(said), said
        written += write(said) != said
    assert written > 20
    assert write("nine eighty nine") == "nine eighty nine"
    assert write("one five two one three") == "15213"
    assert write("call four one two five five five one two one two") == "call 412-555-1212"


def test_letters_are_not_digits() -> None:
    assert write("R Q Z H FOUR") == "RQZH4"
    assert write("rubout O Q I M I THIRTY TWO") == "rubout O Q I M I THIRTY TWO"
    assert write("o one nine") == "019"


@pytest.mark.parametrize("text", ["I POINTED OUT MARS A BRIGHT DOT OF LIGHT", "look at the dot on the map"])
def test_a_sentence_is_no_address(text: str) -> None:
    assert write(text) == text


def test_chinese_and_japanese_numbers() -> None:
    for number in range(13, 9999, 197):
        assert write(f"我有{chinese(number)}", "zh") == f"我有{number}"
    assert write("百分之五十", "zh") == "50%"
    assert write("百二十三です", "ja") == "123です"


def test_case_of_what_was_said_stays() -> None:
    assert write("MEET ME JULY FOURTH AT THREE THIRTY P M") == "MEET ME JULY 4 AT 03:30 P.M."
    assert write("Mister Smith came on the third of May") == "Mr. Smith came on 3 May"


def test_spans_cover_the_words_in_order() -> None:
    words = ["on", "the", "third", "of", "may", "twenty", "one", "dogs", "and", "one", "cat"]
    assert write_numbers(words, "en") == [
        Span(0, 1, "on"),
        Span(1, 5, "3 may"),
        Span(5, 7, "21"),
        *(Span(place, place + 1, words[place]) for place in range(7, 11)),
    ]


def test_a_long_text_is_written_as_its_sentences_are() -> None:
    """Numbers lie across all ends of the pieces that a long text is cut into."""
    sentence = "then we counted one hundred thousand four hundred and some of them had gone by may fourth"
    assert write(" ".join([sentence] * 20)) == " ".join([write(sentence)] * 20)


def test_what_is_wrong_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="itn: 'xx' is not one of en, ja, zh"):
        load_grammar("xx")  # type: ignore[arg-type]
    load_grammar.cache_clear()
    monkeypatch.setitem(sys.modules, "wetext", None)
    with pytest.raises(UnichoirError, match=r"pip install 'unichoir\[itn\]'"):
        load_grammar("en")
