"""Whisper's vocabulary: byte-level BPE, whose tokens have one character for each byte (GPT-2)."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from unichoir.errors import CheckpointError
from unichoir.formats.whisper.huggingface import read_json

END_OF_TEXT = "<|endoftext|>"
START = "<|startoftranscript|>"
START_OF_PREVIOUS = "<|startofprev|>"
FILES = ("tokenizer.json", "vocab.json", "vocabulary.json", "vocabulary.txt")
_TIMESTAMPS = 1501
# Tokens between the languages and the timestamps (`whisper/tokenizer.py`, `get_encoding`).
_TASKS = ("<|translate|>", "<|transcribe|>", "<|startoflm|>", START_OF_PREVIOUS, "<|nospeech|>", "<|notimestamps|>")


def read_vocabulary(folder: Path, vocab_size: int) -> dict[str, int]:
    """Read the ids of Whisper's tokens from the first existing file in `folder`.

    The files are tokenizer.json (Hugging Face), vocab.json with added_tokens.json, vocabulary.json or vocabulary.txt
    (CTranslate2), a single *.tiktoken (OpenAI). vocab_size: rows of the model's embedding. Raises CheckpointError if
    there is no vocabulary, or if it is unreadable, doesn't fit the model, or lacks a token that a decoder starts or
    ends with.
    """
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        ranks = sorted(folder.glob("*.tiktoken"))
        if len(ranks) != 1:
            names = f"{', '.join(FILES)} or one *.tiktoken"
            raise CheckpointError(f"{folder}: no Whisper vocabulary next to the checkpoint ({names})")
        path = ranks[0]
    tokens = _read_tiktoken(path, vocab_size) if path.suffix == ".tiktoken" else _read_file(path)
    for token, index in tokens.items():
        if type(index) is not int or not 0 <= index < vocab_size:
            raise CheckpointError(f"{path}: token '{token}' has id {index!r}, the model has {vocab_size} tokens")
    for token in (END_OF_TEXT, START_OF_PREVIOUS):
        if token not in tokens:
            raise CheckpointError(f"{path}: no token {token}: not a vocabulary of Whisper")
    return tokens


def byte_level(text: bytes) -> str:
    """Return the characters that represent bytes in the vocabulary's tokens: a space is U+0120."""
    return "".join(byte_characters()[byte] for byte in text)


@cache
def byte_characters() -> tuple[str, ...]:
    """Return the character for each byte: itself if printable, else one from U+0100 on (GPT-2)."""
    printing = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return tuple(chr(byte) if byte in printing else chr(next(others)) for byte in range(256))


def _read_file(path: Path) -> dict[str, Any]:
    if path.name == "vocabulary.txt":
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except UnicodeDecodeError:
            raise CheckpointError(f"{path}: not text in UTF-8") from None
        return _numbered(lines[:-1] if lines[-1] == "" else lines)
    content = read_json(path)
    if path.name == "vocabulary.json" and isinstance(content, list):
        return _numbered([str(token) for token in content])
    if path.name == "tokenizer.json":
        content = _tokens_of_tokenizer(content, path)
    elif path.name == "vocab.json" and path.with_name("added_tokens.json").is_file():
        content = {**content, **read_json(path.with_name("added_tokens.json"))}
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: no tokens with their ids")
    return content


def _numbered(tokens: Sequence[str]) -> dict[str, int]:
    return {token: index for index, token in enumerate(tokens)}


def _tokens_of_tokenizer(content: Any, path: Path) -> dict[str, Any]:
    try:
        added = {token["content"]: token["id"] for token in content["added_tokens"]}
        return {**content["model"]["vocab"], **added}
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: no tokens with their ids ({error})") from None


def _read_tiktoken(path: Path, vocab_size: int) -> dict[str, int]:
    """Read lines with a token's bytes in base64 and its id.

    The special tokens follow, in the order of OpenAI's code.
    """
    tokens = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line:
            continue
        try:
            encoded, index = line.split()
            tokens[byte_level(base64.b64decode(encoded, validate=True))] = int(index)
        except (ValueError, binascii.Error):
            raise CheckpointError(f"{path}, line {number}: expected a token in base64 and its id") from None
    first = max(tokens.values(), default=-1) + 1
    tasks = vocab_size - _TIMESTAMPS - len(_TASKS)
    special: Mapping[str, int] = {
        END_OF_TEXT: first,
        START: first + 1,
        **{token: tasks + place for place, token in enumerate(_TASKS)},
    }
    if tasks < first + 2:
        raise CheckpointError(f"{path}: {first} text tokens are too many for a model of {vocab_size} tokens")
    return {**tokens, **special}
