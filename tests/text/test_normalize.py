"""Canonical text and the normalisation before scoring."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unichoir.text.normalize import canonical_text, is_cjk, normalize_for_scoring, split_words

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


@given(mixed)
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
