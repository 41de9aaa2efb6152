"""Numbers, punctuation and case combined."""

import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.text.punctuation_models import CAPITAL, COMMA, LOWER, NOTHING, PERIOD, UPPER, save_cased_model

from unichoir.errors import CheckpointError, ConfigError
from unichoir.text.normalize import canonical_text, split_words
from unichoir.text.written import WrittenForm, written_words

WORDS = (
    *("twenty", "ONE", "five", "July", "third", "of", "p", "m", "dollars", "hundred", "dot", "二", "十", "百"),
    *("年", "a", "。", "point", "<unk>", "www.", "I'M", "oh", '"', "x\\y", "&"),
)


@pytest.fixture(scope="module")
def punctuation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = {"dogs": (LOWER, PERIOD), "we": (CAPITAL, NOTHING), "i": (UPPER, NOTHING), "fourth": (LOWER, COMMA)}
    return save_cased_model(tmp_path_factory.mktemp("models") / "english", labels)


def test_without_options_text_stays_but_for_its_spaces() -> None:
    assert WrittenForm()("  HELLO   twenty ONE.  ") == "HELLO twenty ONE."
    assert WrittenForm()("") == ""


def test_marks_and_numbers_together(punctuation: Path) -> None:
    written = WrittenForm(itn="en", punctuation=punctuation)
    assert written("WE HAVE TWENTY ONE DOGS I GO JULY FOURTH NINETEEN SEVENTY SIX") == (
        "We have 21 dogs. I go july 4, 1976"
    )
    assert WrittenForm(punctuation=str(punctuation))("TWENTY DOGS") == "twenty dogs."


def test_no_number_goes_across_a_mark() -> None:
    assert WrittenForm(itn="en")("we are twenty, one is old: thirty. five left") == (
        "we are 20, one is old: 30. five left"
    )


def test_marks_that_are_there_stay_alone(punctuation: Path) -> None:
    written = WrittenForm(itn="en", punctuation=punctuation)
    assert written("dogs, dogs. dogs? . dogs") == "dogs, dogs. dogs? . dogs."
    assert written("at three p m.") == "at 03:00 p.m."


def test_a_word_that_the_grammar_cannot_read_stays() -> None:
    assert WrittenForm(itn="en")('twenty one "twenty one" two\x07 thirty two') == '21 "twenty one" two\x07 32'


def test_words_of_chinese_keep_their_marks() -> None:
    assert WrittenForm(itn="zh")("我有二十一块钱。百分之五十") == "我有 21 块钱。 50%"
    assert written_words("你好。21 块, ok") == ["你", "好。", "21", "块", ",", "ok"]


def test_it_goes_to_other_processes(punctuation: Path) -> None:
    written = WrittenForm(itn="en", punctuation=punctuation)
    copy = pickle.loads(pickle.dumps(written))
    assert copy == written
    assert hash(copy) == hash(written)
    assert copy("TWENTY ONE DOGS") == "21 dogs."


def test_what_cannot_be_is_known_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="itn: 'de'"):
        WrittenForm(itn="de")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=f"{tmp_path}: no punctuation model"):
        WrittenForm(punctuation=tmp_path)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["en", "ja", "zh"]),
    st.booleans(),
    st.one_of(st.text(max_size=40), st.lists(st.sampled_from(WORDS), max_size=20).map(" ".join)),
)
def test_no_word_is_lost_in_any_text(punctuation: Path, itn: str, marks: bool, text: str) -> None:
    written = WrittenForm(itn=itn, punctuation=punctuation if marks else None)  # type: ignore[arg-type]
    words = split_words(text)
    spans = written.spans(words)
    assert [place for span in spans for place in range(span.first, span.end)] == list(range(len(words)))
    assert all(written_words(span.text) for span in spans)
    assert canonical_text(" ".join(span.text for span in spans)) == written(text)
