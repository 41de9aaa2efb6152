"""Canonical text and the normalisation before scoring."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unichoir.text.normalize import canonical_text, find_words, is_cjk, normalize_for_scoring, split_words

ascii_text = st.text(alphabet=st.characters(max_codepoint=127), max_size=20)
mixed = st.text(alphabet="aZ9é' \t\u3000-,!。，你好の한ل_ﬁ\u0301", max_size=20)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  HELLO \t WORLD\n", "HELLO WORLD"),
        ("今 天　天气", "今天天气"),
        ("我爱python编程", "我爱 python 编程"),
        ("我 爱 python  编程 3次", "我爱 python 编程 3 次"),
        ("カラオケ box", "カラオケ box"),
        ("안녕 하세요", "안녕 하세요"),
        ("مرحبا  بك", "مرحبا بك"),
        ("", ""),
    ],
)
def test_canonical_text(text: str, expected: str) -> None:
    assert canonical_text(text) == expected


@given(st.one_of(mixed, st.text(max_size=20)))
@settings(deadline=None)
def test_canonical_text_is_idempotent_and_changes_only_white_space(text: str) -> None:
    once = canonical_text(text)
    assert canonical_text(once) == once
    assert "".join(once.split()) == "".join(text.split())


@given(st.one_of(mixed, ascii_text))
@settings(deadline=None)
def test_words_are_cjk_characters_and_runs_of_everything_else(text: str) -> None:
    naive: list[str] = []
    for chunk in text.split():
        joined = False
        for character in chunk:
            if is_cjk(character) or not joined:
                naive.append(character)
            else:
                naive[-1] += character
            joined = not is_cjk(character)
    assert split_words(text) == naive
    assert [text[start:end] for start, end in find_words(text)] == naive


FIRST_USE = """
import re
from concurrent.futures import ThreadPoolExecutor
from unichoir.text.normalize import canonical_text, is_cjk, split_words

assert split_words(canonical_text(" HELLO  WORLD")) == ["HELLO", "WORLD"] and not is_cjk("\u2581")
assert not [pattern for _, pattern, *_ in re._cache if "\u4e00" in str(pattern)]
with ThreadPoolExecutor(16) as pool:
    found = list(pool.map(split_words, ["\u4f60 \u597dpython  box"] * 200))
assert found == [["\u4f60", "\u597d", "python", "box"]] * 200
"""


def test_patterns_are_compiled_when_text_that_needs_them_comes_from_any_thread() -> None:
    subprocess.run([sys.executable, "-c", FIRST_USE], check=True, timeout=60)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't stop, 'please'!", "DON'T STOP PLEASE"),
        ("it\u2019s the dogs' bone", "IT'S THE DOGS BONE"),
        ("twenty-one  (21)", "TWENTY ONE 21"),
        ("ＡＢＣ １２", "ABC 12"),
        ("cafe\u0301", "CAFÉ"),
        ("你好，世界。Hello!", "你好世界 HELLO"),
        ("straße", "STRASSE"),
        ("नमस्ते", "नमस्ते"),
        ("...", ""),
    ],
)
def test_normalize_for_scoring(text: str, expected: str) -> None:
    assert normalize_for_scoring(text) == expected


@given(st.one_of(mixed, st.text(max_size=20)))
@settings(deadline=None)
def test_normalisation_is_idempotent(text: str) -> None:
    once = normalize_for_scoring(text)
    assert normalize_for_scoring(once) == once


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "\u0645\u064f\u062d\u064e\u0645\u0651\u064e\u062f\u064c",
            "\u0645\u062d\u0645\u062f",
        ),  # vowels, shadda, tanwin
        ("\u0627\u0644\u0640\u0640\u0633\u0644\u0627\u0645", "\u0627\u0644\u0633\u0644\u0627\u0645"),  # tatweel
        ("\u0623\u0625\u0622\u0671", "\u0627\u0627\u0627\u0627"),  # alef with hamza, madda, wasla
        ("\u0627\u0654\u0627\u0653", "\u0627\u0627"),  # the same in two characters
        ("\u0645\u062f\u0631\u0633\u0629", "\u0645\u062f\u0631\u0633\u0647"),  # ta marbuta
        ("\u0639\u0644\u0649", "\u0639\u0644\u064a"),  # alef maqsura
        ("\u0633\u0624\u0627\u0644 \u0628\u0626\u0631", "\u0633\u0648\u0627\u0644 \u0628\u064a\u0631"),  # on waw, on ya
        ("\u0645\u0627\u0621", "\u0645\u0627\u0621"),  # a hamza of its own
        ("\u0647\u0670\u0630\u0627\u061f \u0646\u0639\u0645\u060c", "\u0647\u0630\u0627 \u0646\u0639\u0645"),
        ("\ufefb", "\u0644\u0627"),  # a presentation form
        ("\u0663 books, don't", "\u0663 BOOKS DON'T"),
    ],
)
def test_arabic_is_reduced_to_what_writers_agree_on(text: str, expected: str) -> None:
    assert normalize_for_scoring(text, "ar") == normalize_for_scoring(text, "ar-EG") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\uff21\uff22 \uff11\uff12 \uff0c", "AB 12"),
        ("今天\uff0c天气 很好\u3002", "今天天气很好"),
        ("我有3个 app", "我有 3 个 APP"),
        ("2026年", "2026 年"),
    ],
)
def test_mandarin(text: str, expected: str) -> None:
    assert normalize_for_scoring(text, "zh") == expected


def test_other_languages_keep_their_marks() -> None:
    for language in (None, "", "en", "fa", "xx"):
        assert normalize_for_scoring("\u0623\u0629 caf\u00e9", language) == "\u0623\u0629 CAF\u00c9"


@given(st.text(alphabet="aB \u0623\u0627\u0653\u0654\u0629\u0649\u0640\u064b\u0670\ufefb3'", max_size=12))
@settings(deadline=None)
def test_normalisation_of_arabic_is_idempotent(text: str) -> None:
    once = normalize_for_scoring(text, "ar")
    assert normalize_for_scoring(once, "ar") == once
