"""Punctuation and case by a model directory's own model: how any of its outputs become text."""

from pathlib import Path

import pytest
from tests.text.punctuation_models import CAPITAL, COMMA, LOWER, NOTHING, PERIOD, QUESTION, UPPER, save_english_model

from unichoir.errors import CheckpointError
from unichoir.loading import MODELS
from unichoir.text.marked import Context
from unichoir.text.punctuation import load_punctuator
from unichoir.text.word_features import NUM_BUCKETS, NUM_FEATURES, word_rows
from unichoir.text.written import WrittenForm

LABELS = {
    "hello": (LOWER, COMMA),
    "dogs": (LOWER, PERIOD),
    "who": (LOWER, QUESTION),
    "i": (CAPITAL, NOTHING),
    "mcdonald": (CAPITAL, NOTHING),
    "o'neill": (CAPITAL, NOTHING),
    "'tis": (CAPITAL, NOTHING),
    "nasa": (UPPER, NOTHING),
    "x": (LOWER, COMMA),
    "two": (LOWER, COMMA),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_english_model(
        tmp_path_factory.mktemp("models") / "english", LABELS, before={"but": COMMA, "then": PERIOD}
    )


@pytest.fixture(scope="module")
def written(folder: Path) -> WrittenForm:
    return WrittenForm(punctuation=folder)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("HELLO DOGS WE LIKE MCDONALD", "Hello, dogs. We like McDonald"),
        ("hello dogs we like nasa", "Hello, dogs. We like NASA"),
        ("nasa and o'neill and i like who", "NASA and O'neill and I like who?"),
        ("'tis dogs 'em", "'Tis dogs. 'Em"),
        ("he goes but i stay then he stays", "He goes, but I stay. Then he stays"),
        ("", ""),
    ],
)
def test_case_and_marks_are_those_of_the_model(written: WrittenForm, said: str, expected: str) -> None:
    assert written(said) == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("R U B O U T", "R U B O U T"),
        ("x i sixty one", "X I sixty one"),
        ("x x two two seven", "X X two two seven"),
        ("two", "Two"),
        ("a b c", "A B C"),
        ("my name is a l i", "My name is A L I"),
        ("a dog and i", "A dog and I"),
        ("two dogs two", "Two, dogs. Two"),
    ],
)
def test_letters_and_numbers_are_no_sentences(written: WrittenForm, said: str, expected: str) -> None:
    assert written(said) == expected


def test_text_that_has_its_case_already_and_other_scripts_stay(written: WrittenForm) -> None:
    for text in ("Hello dogs mcdonald", "iPhone", "\u4f60\u597d", "1 2 3", "hello dogs, who", "", "...", "HELLO. DOGS"):
        assert written(text) == text


def test_what_goes_on_from_an_utterance_before(written: WrittenForm) -> None:
    for before in ("", "He came.", "Who came?", "Come!", "X I", "Sixty one"):
        assert written("we like", Context(before=before)) == "We like"
    for before in ("He came,", "The", "A"):
        assert written("we like", Context(before=before)) == ("we like" if before != "A" else "We like")


def test_what_follows_decides_the_last_mark(written: WrittenForm) -> None:
    assert written("we like", Context(after="but not now")) == "We like,"
    assert written("we like", Context(after="THEN")) == "We like."
    assert written("we like", Context(after="it")) == "We like"
    assert written("we like hello", Context(after="it")) == "We like hello,"
    assert (written("we like hello"), written("hello")) == ("We like hello", "Hello.")  # broken off, and not


def test_marks_and_numbers_together(folder: Path) -> None:
    assert WrittenForm(itn="en", punctuation=folder)("WE HAVE TWENTY ONE DOGS I GO") == "We have 21 dogs. I go"


def test_the_file_may_be_named_itself(folder: Path) -> None:
    assert load_punctuator(folder / "punctuation.onnx")(["dogs"]) == load_punctuator(folder)(["dogs"])


def test_a_long_text_is_written_as_its_sentences_are(written: WrittenForm) -> None:
    assert written("hello mcdonald dogs " * 500) == "Hello, McDonald dogs. " * 499 + "Hello, McDonald dogs."


def test_every_word_has_rows_of_the_table() -> None:
    words = ["dogs", "dog", "", "\u00e9t\u00e9", "x" * 1000]
    rows = word_rows(words, {"dogs": 1, "cats": 2})
    assert rows.shape == (5, NUM_FEATURES)
    assert rows[:, 0].tolist() == [1, 0, 0, 0, 0]
    assert rows[:, 1:].min() >= 3
    assert rows[:, 1:].max() < 3 + NUM_BUCKETS
    assert (rows[0, 1], rows[0, 2] == rows[1, 2]) == (rows[1, 1], False)  # both begin with `do`, not with `dogs`
    assert word_rows([], {}).shape == (0, NUM_FEATURES)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "not a punctuation model of unichoir: its metadata has no unichoir_punctuation = 1"),
        ({"unichoir_punctuation": 2}, "has no unichoir_punctuation = 1"),
        (None, "not a model that ONNX Runtime loads"),
        ({"unichoir_punctuation": 1, "words": "dogs cats"}, "cannot be computed"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, metadata: dict[str, object] | None, message: str) -> None:
    words = {} if metadata and "words" in metadata else LABELS
    folder = save_english_model(tmp_path / "broken", words, metadata=metadata)
    if metadata is None:
        file = folder / "punctuation.onnx"
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=message):
        WrittenForm(punctuation=folder)


@pytest.mark.parametrize("file", sorted(MODELS.glob("*/punctuation.onnx")), ids=lambda file: file.parent.name)
@pytest.mark.parametrize(
    "text",
    [
        "Hello, how are you?",
        "My name is John Smith, and I live in London.",
        "Where is the station?",
        "I don't know what to say. He went to Paris on Monday.",
        "Yes.",
    ],
)
def test_the_included_model_writes_easy_sentences(file: Path, text: str) -> None:
    assert file.stat().st_size < 5_000_000
    bare = "".join(character for character in text.upper() if character not in ",.?")
    assert WrittenForm(punctuation=file)(bare) == text
