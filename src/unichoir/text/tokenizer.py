"""Text to token ids and back: characters or sentencepiece BPE over a `units.txt` in WeNet's format.

U+2581 stands for the space before a word. A CJK character is always one token and needs no space, so decoding joins the
tokens, turns U+2581 into spaces and writes the result as `canonical_text`; no tokenizer model is needed for that.
"""

from __future__ import annotations

import io
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from unichoir.errors import TokenizerError
from unichoir.text.normalize import canonical_text, is_cjk, split_words

SPACE = "\u2581"
SPECIAL_TOKENS = ("<blank>", "<unk>", "<sos/eos>")
UNITS_FILE = "units.txt"
BPE_FILE = "bpe.model"

_BLANK_NAMES = ("<blank>", "<blk>", "<eps>")
_UNK_NAMES = ("<unk>", "<UNK>")
_SOS_NAMES = ("<sos/eos>", "<sos>")
_EOS_NAMES = ("<sos/eos>", "<eos>")


class Tokenizer(ABC):
    """A vocabulary and the way from text to its ids and back.

    Attributes: `tokens` (token of each id), `blank_id`, `unk_id`, `sos_id`, `eos_id`. Special tokens are found by name;
    without `<sos/eos>`, `<sos>` or `<eos>` the last id serves as both, as in WeNet.
    """

    def __init__(self, tokens: Sequence[str], name: str = "vocabulary") -> None:
        self.tokens = list(tokens)
        self._ids = {token: index for index, token in enumerate(self.tokens)}
        if len(self._ids) != len(self.tokens):
            repeated = next(token for token, count in Counter(self.tokens).items() if count > 1)
            raise TokenizerError(f"{name}: token '{repeated}' occurs twice")
        self.blank_id = self._find(_BLANK_NAMES, name)
        self.unk_id = self._find(_UNK_NAMES, name)
        self.sos_id = self._find(_SOS_NAMES, name, default=len(self.tokens) - 1)
        self.eos_id = self._find(_EOS_NAMES, name, default=len(self.tokens) - 1)
        self._silent = {self.blank_id} | {self._ids[n] for n in _SOS_NAMES + _EOS_NAMES if n in self._ids}
        self._starts = [token.startswith(SPACE) or is_cjk(token) for token in self.tokens]
        ordinary = "".join(token for token in self.tokens if not re.fullmatch("<.+>", token))
        self._upper = ordinary.upper() == ordinary
        self._lower = ordinary.lower() == ordinary

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return len(self.tokens)

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of a transcript, without blank, sos and eos; what the vocabulary cannot express becomes `unk_id`.

        A vocabulary that knows one case only gets the text in that case.
        """

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids as `canonical_text`; blank, sos and eos are silent, unknown shows as `<unk>`.

        Raises TokenizerError for an id outside the vocabulary.
        """
        pieces = [self._token(index) for index in ids if index not in self._silent]
        return canonical_text("".join(pieces).replace(SPACE, " "))

    def is_word_start(self, index: int) -> bool:
        """Whether this token begins a new word: it carries the space before it, or it is a CJK character.

        The first token of an utterance begins a word whatever this says. A group may be empty text (a space alone).
        """
        self._token(index)
        return self._starts[index]

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write the files that `load_tokenizer` reads; the directory is made if missing."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{token} {index}\n" for index, token in enumerate(self.tokens))
        Path(directory, UNITS_FILE).write_text(lines, encoding="utf-8", newline="\n")

    def _find(self, names: Sequence[str], where: str, default: int | None = None) -> int:
        for name in names:
            if name in self._ids:
                return self._ids[name]
        if default is None:
            raise TokenizerError(f"{where}: no token named {' or '.join(names)}")
        return default

    def _token(self, index: int) -> str:
        if not 0 <= index < len(self.tokens):
            raise TokenizerError(f"token id {index} is outside the vocabulary of {len(self.tokens)}")
        return self.tokens[index]

    def _prepare(self, text: str) -> str:
        """Canonical text in the vocabulary's case; a vocabulary without case letters leaves it alone."""
        text = text.replace(SPACE, " ")
        if self._upper != self._lower:
            text = text.upper() if self._upper else text.lower()
        return canonical_text(text)


class CharTokenizer(Tokenizer):
    """One token per character, U+2581 between words; nothing between CJK characters."""

    def encode(self, text: str) -> list[int]:
        return [self._ids.get(character, self.unk_id) for character in _characters(self._prepare(text))]


class BpeTokenizer(Tokenizer):
    """Sentencepiece pieces for spaced scripts, single characters for CJK; ids come from the units, not from the model.

    `model`: the sentencepiece model's bytes, or None when text only has to be decoded.
    """

    def __init__(self, tokens: Sequence[str], model: bytes | None, name: str = "vocabulary") -> None:
        super().__init__(tokens, name)
        self.model = model
        self._name = name

    def encode(self, text: str) -> list[int]:
        """As in Tokenizer. Raises TokenizerError without sentencepiece or without a sentencepiece model."""
        ids: list[int] = []
        for run in _runs(self._prepare(text)):
            pieces = [run] if is_cjk(run) else self._processor.encode(run, out_type=str)
            ids.extend(self._ids.get(piece, self.unk_id) for piece in pieces)
        return ids

    def save(self, directory: str | os.PathLike[str]) -> None:
        """As in Tokenizer, with the sentencepiece model when there is one."""
        super().save(directory)
        if self.model is not None:
            Path(directory, BPE_FILE).write_bytes(self.model)

    @cached_property
    def _processor(self) -> Any:
        if self.model is None:
            raise TokenizerError(f"{self._name}: encoding text needs {BPE_FILE} beside {UNITS_FILE}")
        try:
            return _sentencepiece().SentencePieceProcessor(model_proto=self.model)
        except RuntimeError:
            raise TokenizerError(f"{self._name}: {BPE_FILE} is not a sentencepiece model") from None


def load_tokenizer(directory: str | os.PathLike[str]) -> CharTokenizer | BpeTokenizer:
    """Read the tokenizer of a model directory: `units.txt` and, for BPE, `bpe.model`.

    Without `bpe.model`, units such as `▁THE` still make a BpeTokenizer, which then only decodes. Raises TokenizerError.
    """
    units, model = Path(directory, UNITS_FILE), Path(directory, BPE_FILE)
    tokens = read_units(units)
    if model.is_file():
        return BpeTokenizer(tokens, model.read_bytes(), str(units))
    if any(token.startswith(SPACE) and len(token) > 1 for token in tokens):
        return BpeTokenizer(tokens, None, str(units))
    return CharTokenizer(tokens, str(units))


def read_units(path: str | os.PathLike[str]) -> list[str]:
    """Tokens of a `units.txt` (`token id` per line, any order) by id.

    Raises TokenizerError naming file and line: not UTF-8, not two fields, no number as id, a repeated id, a gap.
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


def build_char_units(texts: Iterable[str], *, min_count: int = 1) -> list[str]:
    """Tokens of a character vocabulary: the special ones, U+2581, then the texts' characters by code point.

    Characters that occur less than `min_count` times are left out. Raises TokenizerError when nothing is left.
    """
    counts = Counter(character for text in texts for character in _characters(canonical_text(text.replace(SPACE, " "))))
    characters = sorted(c for c, count in counts.items() if count >= min_count and c != SPACE)
    if not characters:
        raise TokenizerError("no text to build a vocabulary from")
    return [*SPECIAL_TOKENS, SPACE, *characters]


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    directory: str | os.PathLike[str],
    *,
    model_type: Literal["bpe", "unigram"] = "bpe",
) -> BpeTokenizer:
    """Train a sentencepiece model and write `bpe.model` and `units.txt`; the same texts give the same bytes.

    `vocab_size` counts everything: three special tokens, the pieces of spaced scripts and, after them, one token for
    every CJK character of the texts. Raises TokenizerError when the texts cannot fill or fit that size.
    """
    runs = [run for text in texts for run in _runs(canonical_text(text.replace(SPACE, " ")))]
    cjk = sorted({run for run in runs if is_cjk(run)})
    spaced = [run for run in runs if not is_cjk(run)]
    if not spaced:
        raise TokenizerError("no text in a spaced script to train BPE on; use characters")
    writer = io.BytesIO()
    try:
        _sentencepiece().SentencePieceTrainer.train(
            sentence_iterator=iter(spaced),
            model_writer=writer,
            model_type=model_type,
            vocab_size=vocab_size - len(SPECIAL_TOKENS) - len(cjk) + 1,  # sentencepiece counts its own <unk>
            character_coverage=1.0,
            normalization_rule_name="identity",
            max_sentence_length=1 << 20,
            num_threads=1,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise TokenizerError(f"cannot train BPE with a vocabulary of {vocab_size}: {reason}") from None
    model = writer.getvalue()
    processor = _sentencepiece().SentencePieceProcessor(model_proto=model)
    pieces = [processor.id_to_piece(index) for index in range(1, processor.get_piece_size())]
    tokenizer = BpeTokenizer([*SPECIAL_TOKENS, *pieces, *cjk], model, "trained BPE")
    tokenizer.save(directory)
    return tokenizer


def _characters(text: str) -> list[str]:
    """Canonical text as characters, U+2581 before every word of a spaced script but the first."""
    spaced = "".join(run if is_cjk(run) else SPACE + run.replace(" ", SPACE) for run in _runs(text))
    return list(spaced.removeprefix(SPACE))


def _runs(text: str) -> list[str]:
    """Canonical text as single CJK characters and runs of words of spaced scripts."""
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


def _sentencepiece() -> Any:
    try:
        import sentencepiece
    except ImportError:
        raise TokenizerError("BPE needs sentencepiece: pip install 'unichoir[train]'") from None
    return sentencepiece
