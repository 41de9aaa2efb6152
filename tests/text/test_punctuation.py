"""Punctuation and case with the real sherpa-onnx, from models whose weights are simple tables of words."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.text.punctuation_models import (
    CAPITAL,
    CASED_METADATA,
    COMMA,
    LOWER,
    NOTHING,
    PERIOD,
    QUESTION,
    UPPER,
    save_cased_model,
    save_cjk_model,
)

from unichoir.errors import CheckpointError, UnichoirError
from unichoir.text.punctuation import Marked, load_punctuator

ENGLISH = {"hello": (CAPITAL, COMMA), "i": (UPPER, NOTHING), "dogs": (LOWER, PERIOD), "usa": (UPPER, QUESTION)}
CHINESE = {"你": "_", "好": "，", "吗": "？", "的": "。", "hello": "，", "dogs": "、"}


@pytest.fixture(scope="module")
def cased(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cased_model(tmp_path_factory.mktemp("models") / "english", ENGLISH)


@pytest.fixture(scope="module")
def cjk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cjk_model(tmp_path_factory.mktemp("models") / "chinese", CHINESE)


def test_a_cased_model_gives_marks_and_case(cased: Path) -> None:
    expected = [Marked("Hello", ","), Marked("USA", "?"), Marked("we'll"), Marked("I"), Marked("dogs", ".")]
    assert load_punctuator(cased)(["HELLO", "USA", "WE'LL", "I", "DOGS"]) == expected
    assert load_punctuator(cased)(["hello", "usa", "we'll", "i", "dogs"]) == expected
    assert load_punctuator(cased)([]) == []


def test_a_cased_model_takes_no_capitals_away(cased: Path) -> None:
    assert load_punctuator(cased)(["hello", "McDonald", "usa"]) == [
        Marked("Hello", ","),
        Marked("McDonald"),
        Marked("USA", "?"),
    ]


def test_words_beside_one_beyond_the_models_row_keep_their_marks(cased: Path) -> None:
    """sherpa-onnx alone gives the marks of a text with such a word to other words."""
    words = ["hello", "x" * 500, "dogs", "\u3042" * 300, "ok\u3000\x00", "usa"] * 400  # of more words than go at once
    marked = load_punctuator(cased)(words)
    assert [word.mark for word in marked] == [",", "", ".", "", "", "?"] * 400
    assert [word.text for word in marked][:5] == ["Hello", *words[1:5]]


def test_a_chinese_model_gives_marks_in_the_words_script(cjk: Path) -> None:
    assert load_punctuator(cjk)([*"你好你吗", "Hello", "dogs", "你"]) == [
        Marked("你"),
        Marked("好", "，"),
        Marked("你"),
        Marked("吗", "？"),
        Marked("Hello", ","),
        Marked("dogs", ","),
        Marked("你", "。"),
    ]
    assert load_punctuator(cjk)([]) == []
    odd = ["h\u00e9llo", "\ud800", "、", "\U0001f600", "", "a\tb"]
    assert [word.text for word in load_punctuator(cjk)(odd)] == odd


def without(key: str) -> dict[str, int]:
    return {name: value for name, value in CASED_METADATA.items() if name != key}


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:200])


BROKEN: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: folder.mkdir(), "broken: no punctuation model"),
    (lambda folder: truncate(save_cased_model(folder, ENGLISH) / "model.onnx"), "model.onnx: not a model that ONNX"),
    (lambda folder: save_cased_model(folder, ENGLISH, without("CAP")), "its metadata has no CAP = 2"),
    (lambda folder: save_cased_model(folder, ENGLISH, {**CASED_METADATA, "COMMA": 3}), "has no COMMA = 1"),
    (lambda folder: (save_cased_model(folder, ENGLISH) / "bpe.vocab").unlink(), "no tokens .*comes with bpe.vocab"),
    (lambda folder: (save_cased_model(folder, ENGLISH) / "bpe.vocab").write_bytes(b"\xff\xfe"), "not text in UTF-8"),
    (lambda folder: (save_cased_model(folder, ENGLISH) / "bpe.vocab").write_text("a b\n"), "a piece and its score"),
    (lambda folder: (save_cased_model(folder, ENGLISH) / "bpe.vocab").write_text(""), "no pieces except"),
    (lambda folder: (save_cjk_model(folder, CHINESE) / "bpe.vocab").write_text("a 1\n" * 4), "has no COMMA = 1"),
    (lambda folder: save_cjk_model(folder, CHINESE, {"vocab_size": 3}), "7 tokens, but vocab_size 3"),
    (lambda folder: save_cjk_model(folder, CHINESE, {"unk_symbol": "<no>"}), "unk_symbol '<no>' is not one of its"),
    (lambda folder: save_cjk_model(folder, CHINESE, {"punctuations": "_|，|？|、"}), "its punctuations lack 。"),
    (lambda folder: save_cjk_model(folder, CHINESE, {"punctuations": "_|，|？|、|。"}), r"not \[\(1, 2, 5\)\]"),
]


@pytest.mark.parametrize(("make", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_a_model_that_would_end_the_process_is_refused(
    make: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    make(tmp_path / "broken")
    with pytest.raises(CheckpointError, match=message):
        load_punctuator(tmp_path / "broken")


def test_without_the_extra_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sherpa_onnx", None)
    with pytest.raises(UnichoirError, match=r"pip install 'unichoir\[punctuation\]'"):
        load_punctuator(save_cjk_model(tmp_path / "model", CHINESE))
