"""Canonical text, its words, and the normalisation applied before scoring.

Chinese and Japanese are written without spaces, other scripts with them. One rule covers both: every Han or kana
character is a word, and everything else is split at spaces.
"""

import re
import unicodedata

# Han (with extensions and compatibility forms), kana, bopomofo, CJK and full-width punctuation. Hangul is not included:
# Korean writes spaces between words. Full-width Latin letters are letters of a spaced script.
_CJK = (
    "\u2e80-\u2fdf\u3001-\u30ff\u3100-\u312f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff9f\U00020000-\U0003ffff"
)
# `re` compiles a pattern when it is first used, and keeps it. These take 2 ms each, and ASCII text needs none.
_SPACE_AFTER_CJK = f"(?<=[{_CJK}]) "
_SPACE_BEFORE_CJK = f" (?=[{_CJK}])"
_CJK_THEN_WORD = rf"(?<=[{_CJK}])(?=[^\W_{_CJK}])"
_WORD_THEN_CJK = rf"(?<=[^\W_{_CJK}])(?=[{_CJK}])"
_WORD = rf"[{_CJK}]|[^\s{_CJK}]+"
_CJK_CHARACTER = f"[{_CJK}]"
# Tanwin, vowels, shadda, sukun and the following marks, Quranic signs, dagger alef, tatweel.
_ARABIC_MARKS = re.compile("[\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed]")
_ARABIC_LETTERS = str.maketrans(
    "\u0622\u0623\u0625\u0671\u0649\u0629\u0624\u0626", "\u0627\u0627\u0627\u0627\u064a\u0647\u0648\u064a"
)
_APOSTROPHES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'", "`": "'"})


def is_cjk(character: str) -> bool:
    """Return whether a character belongs to a script written without spaces (Han, kana) or to its punctuation."""
    return character >= _CJK[0] and re.fullmatch(_CJK_CHARACTER, character) is not None


def canonical_text(text: str) -> str:
    """Return the canonical form of a transcript. The function is idempotent.

    Runs of white space become one space. There is no space at either end or next to a CJK character, except that
    there is always one between a CJK character and a letter or digit of another script: `我 们爱 python编程`
    becomes `我们爱 python 编程`.
    """
    text = " ".join(text.split())
    if text.isascii():
        return text
    text = re.sub(_SPACE_BEFORE_CJK, "", re.sub(_SPACE_AFTER_CJK, "", text))
    return re.sub(_WORD_THEN_CJK, " ", re.sub(_CJK_THEN_WORD, " ", text))


def split_words(text: str) -> list[str]:
    """Split a transcript into words: each CJK character is a word, the rest is split at white space."""
    text = canonical_text(text)
    return text.split() if text.isascii() else re.findall(_WORD, text)


def find_words(text: str) -> list[tuple[int, int]]:
    """Return (start, end) in a text, canonical or not, of each word of `split_words`."""
    return [match.span() for match in re.finditer(r"\S+" if text.isascii() else _WORD, text)]


def _fold_arabic(text: str) -> str:
    """Unify spellings on which Arabic writers differ, as in the scoring of the MGB challenges.

    Diacritics (with dagger alef) and tatweel are removed. Alef with hamza, madda or wasla becomes alef, alef maqsura
    becomes ya, ta marbuta becomes ha, and hamza on waw or ya becomes that letter. An isolated hamza stays.
    """
    # Compose first, because hamza and madda may be combining marks. NFKC also removes presentation forms.
    return _ARABIC_MARKS.sub("", unicodedata.normalize("NFKC", text)).translate(_ARABIC_LETTERS)


def normalize_for_scoring(text: str, language: str | None = None) -> str:
    """Normalise a transcript for scoring. Apply it to both sides of a comparison.

    The steps are Unicode NFKC, upper case, plain apostrophes, spaces in place of punctuation and symbols except
    apostrophes between two letters or digits (`DON'T`), then `canonical_text`.

    language: a code such as `ar` or `zh-TW`. For Arabic, spellings are also unified, see `_fold_arabic`. In Mandarin,
    NFKC converts full-width letters and digits, and each character is a word; digits are not converted to words. All
    other languages, and None, have no further steps.
    """
    if language and language.split("-")[0] == "ar":
        text = _fold_arabic(text)
    text = unicodedata.normalize("NFKC", text).translate(_APOSTROPHES).upper()
    # Upper-casing can create decomposed sequences, so compose again.
    text = unicodedata.normalize("NFKC", text)
    kept = []
    for position, character in enumerate(text):
        inside = 0 < position < len(text) - 1 and text[position - 1].isalnum() and text[position + 1].isalnum()
        kept.append(character if unicodedata.category(character)[0] in "LNM" or (character == "'" and inside) else " ")
    return canonical_text("".join(kept))
