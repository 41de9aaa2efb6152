"""Canonical text, its words, and the normalisation applied before scoring.

Chinese and Japanese are written without spaces, other scripts with them. One rule for both: every Han or kana character
is a word of its own, and everything else is split at spaces.
"""

import re
import unicodedata

# Han (with extensions and compatibility forms), kana, bopomofo, CJK and full-width punctuation. Hangul is not listed:
# Korean writes spaces between words. Full-width Latin letters are letters of a spaced script.
_CJK = (
    "\u2e80-\u2fdf\u3001-\u30ff\u3100-\u312f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff9f\U00020000-\U0003ffff"
)
_SPACE_AFTER_CJK = re.compile(f"(?<=[{_CJK}]) ")
_SPACE_BEFORE_CJK = re.compile(f" (?=[{_CJK}])")
_CJK_THEN_WORD = re.compile(rf"(?<=[{_CJK}])(?=[^\W_{_CJK}])")
_WORD_THEN_CJK = re.compile(rf"(?<=[^\W_{_CJK}])(?=[{_CJK}])")
_WORD = re.compile(f"[{_CJK}]|[^ {_CJK}]+")
_RAW_WORD = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+")
_CJK_CHARACTER = re.compile(f"[{_CJK}]")
# Tanwin, vowels, shadda, sukun and the marks after them, signs of the Quran, dagger alef, tatweel.
_ARABIC_MARKS = re.compile("[\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed]")
_ARABIC_LETTERS = str.maketrans(
    "\u0622\u0623\u0625\u0671\u0649\u0629\u0624\u0626", "\u0627\u0627\u0627\u0627\u064a\u0647\u0648\u064a"
)
_APOSTROPHES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'", "`": "'"})


def is_cjk(character: str) -> bool:
    """Whether one character belongs to a script written without spaces (Han, kana) or to its punctuation."""
    return _CJK_CHARACTER.fullmatch(character) is not None


def canonical_text(text: str) -> str:
    """The one way this project writes a transcript; applying it twice changes nothing more.

    Runs of white space become one space; none stands at either end or next to a CJK character, except between a CJK
    character and a letter or digit of another script, where there always is one: `我 们爱 python编程` becomes
    `我们爱 python 编程`.
    """
    text = " ".join(text.split())
    text = _SPACE_BEFORE_CJK.sub("", _SPACE_AFTER_CJK.sub("", text))
    return _WORD_THEN_CJK.sub(" ", _CJK_THEN_WORD.sub(" ", text))


def split_words(text: str) -> list[str]:
    """The words of a transcript: each CJK character is one, the rest is split at white space."""
    return _WORD.findall(canonical_text(text))


def find_words(text: str) -> list[tuple[int, int]]:
    """Where in a text, canonical or not, the words of `split_words` are: (start, end) of each."""
    return [match.span() for match in _RAW_WORD.finditer(text)]


def _fold_arabic(text: str) -> str:
    """One spelling where Arabic writers use several, as in the scoring of the MGB challenges: diacritics (with dagger
    alef) and tatweel removed, alef with hamza, madda or wasla as alef, alef maqsura as ya, ta marbuta as ha, hamza on
    waw or ya as that letter. A hamza of its own stays.
    """
    # Composed first: hamza and madda may come as combining marks. NFKC also undoes presentation forms.
    return _ARABIC_MARKS.sub("", unicodedata.normalize("NFKC", text)).translate(_ARABIC_LETTERS)


def normalize_for_scoring(text: str, language: str | None = None) -> str:
    """Reduce a transcript to what counts as recognised speech.

    Unicode NFKC, upper case, typographic apostrophes made plain, punctuation and symbols replaced by spaces except
    apostrophes between two letters or digits (`DON'T`), then `canonical_text`. Both sides of a comparison need it.

    language: a code such as `ar` or `zh-TW`. Arabic is also reduced to what writers agree on, see `_fold_arabic`. In
    Mandarin NFKC makes full-width letters and digits plain, and its characters are words of their own: digits stay
    digits and are not read out. All other languages, and None, get what is said above and no more.
    """
    if language and language.split("-")[0] == "ar":
        text = _fold_arabic(text)
    text = unicodedata.normalize("NFKC", text).translate(_APOSTROPHES).upper()
    # Upper-casing can leave decomposed sequences, so compose once more.
    text = unicodedata.normalize("NFKC", text)
    kept = []
    for position, character in enumerate(text):
        inside = 0 < position < len(text) - 1 and text[position - 1].isalnum() and text[position + 1].isalnum()
        kept.append(character if unicodedata.category(character)[0] in "LNM" or (character == "'" and inside) else " ")
    return canonical_text("".join(kept))
