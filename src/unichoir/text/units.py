"""Units, the lines of a `units.txt`: names of special tokens, and functions that read and build the list.

Besides text, a vocabulary may have tokens for bytes (`<0x00>` to `<0xFF>`, sentencepiece's names), which spell other
text in UTF-8, and tokens for the spoken language (`<|en|>`, Whisper's names).
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from unichoir.errors import TokenizerError
from unichoir.text.normalize import canonical_text, is_cjk, split_words

SPACE = "\u2581"
SPECIAL_TOKENS = ("<blank>", "<unk>", "<sos/eos>")
BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))
UNITS_FILE = "units.txt"

_LANGUAGE = r"[a-z]{2,3}(?:-[A-Za-z0-9]{2,8})*"
_LANGUAGE_TOKEN = re.compile(rf"<\|({_LANGUAGE})\|>")


def language_of(token: str) -> str | None:
    """Return the language that a token stands for; None for all other tokens."""
    match = _LANGUAGE_TOKEN.fullmatch(token)
    return match[1] if match else None


def special_units(languages: Sequence[str] = (), byte_fallback: bool = False) -> list[str]:
    """Return the tokens before those of text: the three that every model needs, languages in order, then bytes.

    languages: codes such as `en` or `zh-TW`. Raises TokenizerError for invalid and repeated codes.
    """
    for language in languages:
        if not re.fullmatch(_LANGUAGE, language):
            raise TokenizerError(f"language '{language}': expected a code such as en or zh-TW")
        if languages.count(language) > 1:
            raise TokenizerError(f"language '{language}' was given twice")
    tokens = [f"<|{language}|>" for language in languages]
    return [*SPECIAL_TOKENS, *tokens, *(BYTE_TOKENS if byte_fallback else ())]


def build_char_units(
    texts: Iterable[str], *, min_count: int = 1, languages: Sequence[str] = (), byte_fallback: bool = False
) -> list[str]:
    """Return the tokens of a character vocabulary: the special ones, U+2581, then the texts' characters by code point.

    Characters that occur less than `min_count` times are left out. languages, byte_fallback: see `special_units`.
    Raises TokenizerError if no characters remain.
    """
    counts = Counter(
        character for text in texts for character in split_characters(canonical_text(text.replace(SPACE, " ")))
    )
    characters = sorted(c for c, count in counts.items() if count >= min_count and c != SPACE)
    if not characters:
        raise TokenizerError("no text to build a vocabulary from")
    return [*special_units(languages, byte_fallback), SPACE, *characters]


def read_units(path: str | os.PathLike[str]) -> list[str]:
    """Read the tokens of a `units.txt` (`token id` per line, any order) by id.

    Raises TokenizerError, naming file and line, for invalid UTF-8, lines without two fields, invalid or repeated ids,
    and gaps.
    """
    try:
        content = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise TokenizerError(f"{path}: {error.strerror}") from None
    tokens: dict[int, str] = {}
    lines: dict[int, int] = {}
    for number, raw in enumerate(content.removesuffix(b"\n").split(b"\n"), start=1):
        where = f"{path}, line {number}"
        try:
            fields = raw.decode("utf-8").split()
        except UnicodeDecodeError:
            raise TokenizerError(f"{where}: not UTF-8") from None
        if len(fields) != 2 or not (fields[1].isascii() and fields[1].isdecimal()):
            raise TokenizerError(f"{where}: expected a token and its id")
        token, index = fields[0], int(fields[1])
        if index in tokens:
            raise TokenizerError(f"{where}: id {index} was given before, in line {lines[index]}")
        tokens[index], lines[index] = token, number
    for expected, index in enumerate(sorted(tokens)):
        if index != expected:
            raise TokenizerError(f"{path}, line {lines[index]}: id {index}, but no line has id {expected}")
    return [tokens[index] for index in range(len(tokens))]


def split_characters(text: str) -> list[str]:
    """Return canonical text as characters, with U+2581 before every word of a spaced script except the first."""
    spaced = "".join(run if is_cjk(run) else SPACE + run.replace(" ", SPACE) for run in split_runs(text))
    return list(spaced.removeprefix(SPACE))


def split_runs(text: str) -> list[str]:
    """Return canonical text as single CJK characters and runs of words of spaced scripts."""
    runs: list[str] = []
    extend = False
    for word in split_words(text):
        if is_cjk(word):
            runs.append(word)
        elif extend:
            runs[-1] += " " + word
        else:
            runs.append(word)
        extend = not is_cjk(word)
    return runs
