"""Tokenizers between text and token ids: characters or sentencepiece BPE over a `units.txt` in WeNet's format.

U+2581 marks the space before a word. A CJK character is one token and needs no space, so decoding joins the tokens,
turns U+2581 into spaces and applies `canonical_text`. It needs no tokenizer model.

With byte tokens any text can be expressed: a character without a token is spelled in its UTF-8 bytes. Frequent
characters stay tokens, and only rare ones are spelled. The other kind of byte-level BPE only merges bytes (GPT-2,
icefall), which cuts Han and Arabic characters where there is no acoustic boundary: their first bytes identify a Unicode
block, not a sound. CTC can align a token that is a character with a sound.
"""

from __future__ import annotations

import codecs
import io
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from unichoir.bundle.replacing import replace_text, replacing
from unichoir.errors import TokenizerError
from unichoir.text.normalize import canonical_text, find_words, is_cjk
from unichoir.text.units import BYTE_TOKENS, language_of, special_units, split_characters, split_runs
from unichoir.text.units import SPACE as SPACE
from unichoir.text.units import SPECIAL_TOKENS as SPECIAL_TOKENS
from unichoir.text.units import UNITS_FILE as UNITS_FILE
from unichoir.text.units import build_char_units as build_char_units
from unichoir.text.units import read_units as read_units

BPE_FILE = "bpe.model"

_BLANK_NAMES = ("<blank>", "<blk>", "<eps>")
_UNK_NAMES = ("<unk>", "<UNK>")
_SOS_NAMES = ("<sos/eos>", "<sos>")
_EOS_NAMES = ("<sos/eos>", "<eos>")


class Tokenizer(ABC):
    """A vocabulary, with encoding and decoding.

    Attributes: `tokens` (token of each id), `blank_id`, `unk_id`, `sos_id`, `eos_id`, `languages` (id of each language
    that has a token). Special tokens are found by name. Without `<sos/eos>`, `<sos>` or `<eos>` the last id serves as
    both, as in WeNet.
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
        languages = ((language_of(token), index) for index, token in enumerate(self.tokens))
        self.languages = {language: index for language, index in languages if language is not None}
        self._silent = {self.blank_id} | {self._ids[n] for n in _SOS_NAMES + _EOS_NAMES if n in self._ids}
        self._silent.update(self.languages.values())
        self._bytes = {self._ids[token]: byte for byte, token in enumerate(BYTE_TOKENS) if token in self._ids}
        self._starts = [token.startswith(SPACE) or is_cjk(token) for token in self.tokens]
        ordinary = "".join(token for token in self.tokens if not re.fullmatch("<.+>", token))
        self._upper = ordinary.upper() == ordinary
        self._lower = ordinary.lower() == ordinary

    @property
    def vocab_size(self) -> int:
        """Number of tokens, including special ones."""
        return len(self.tokens)

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the ids of a transcript, without blank, sos, eos and language.

        Text without a token is spelled in bytes, or becomes `unk_id` in a vocabulary without them. If the vocabulary
        only has one case, the text is converted to it.
        """

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids as `canonical_text`.

        Blank, sos, eos and languages are omitted, unknown is `<unk>`.

        Bytes that don't form a character (yet) are omitted too. Raises TokenizerError for an id outside the vocabulary.
        """
        return canonical_text("".join(text for text, _ in self._spell(ids)))

    def decode_words(self, ids: Sequence[int]) -> list[tuple[str, list[int]]]:
        """Return the words of `split_words(decode(ids))`, each with the places in `ids` of its tokens.

        Raises TokenizerError for an id outside the vocabulary.
        """
        text, owners = "", list[list[int]]()
        for part, places in self._spell(ids):
            text += part
            owners += [places] * len(part)
        return [
            (text[start:end], sorted({place for places in owners[start:end] for place in places}))
            for start, end in find_words(text)
        ]

    def is_word_start(self, index: int) -> bool:
        """Return whether this token begins a new word: it contains the space before it, or it is a CJK character.

        The first token of an utterance always begins a word. A word may be empty (a space alone). For bytes this
        depends on their neighbours, see `decode_words`.
        """
        self._token(index)
        return self._starts[index]

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write the files that `load_tokenizer` reads. The directory is created if it is missing."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{token} {index}\n" for index, token in enumerate(self.tokens))
        replace_text(Path(directory, UNITS_FILE), lines)

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

    def _spell(self, ids: Iterable[int]) -> Iterator[tuple[str, list[int]]]:
        """Yield each text, and the places in `ids` of its tokens: one token, or the bytes of a character.

        Invalid UTF-8 yields nothing: in a partial result the rest of a character may follow.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        waiting: list[int] = []
        for place, index in enumerate(ids):
            token = self._token(index)
            if index in self._bytes:
                waiting.append(place)
                text = decoder.decode(bytes([self._bytes[index]]))
                if text:
                    yield text.replace(SPACE, " "), waiting[-len(text.encode()) :]
                    waiting.clear()
            elif index not in self._silent:
                decoder.reset()
                waiting.clear()
                yield token.replace(SPACE, " "), [place]

    def _express(self, piece: str) -> list[int]:
        """Return the ids of a piece of text: its token, else its bytes, else unknown."""
        if piece in self._ids:
            return [self._ids[piece]]
        if len(self._bytes) < len(BYTE_TOKENS):
            return [self.unk_id]
        return [self._ids[BYTE_TOKENS[byte]] for byte in piece.encode("utf-8", "replace")]

    def _prepare(self, text: str) -> str:
        """Return canonical text in the vocabulary's case. A vocabulary without case letters doesn't change it."""
        text = text.replace(SPACE, " ")
        if self._upper != self._lower:
            text = text.upper() if self._upper else text.lower()
        return canonical_text(text)


class CharTokenizer(Tokenizer):
    """A tokenizer with one token per character and U+2581 between words, but not between CJK characters."""

    def encode(self, text: str) -> list[int]:
        return [index for character in split_characters(self._prepare(text)) for index in self._express(character)]


class BpeTokenizer(Tokenizer):
    """Sentencepiece pieces for spaced scripts, single characters for CJK. Ids come from the units, not from the model.

    `model`: the bytes of the sentencepiece model, or None if text only has to be decoded.
    """

    def __init__(self, tokens: Sequence[str], model: bytes | None, name: str = "vocabulary") -> None:
        super().__init__(tokens, name)
        self.model = model
        self._name = name

    def encode(self, text: str) -> list[int]:
        """Encode as in Tokenizer. Raises TokenizerError without sentencepiece or without a sentencepiece model."""
        ids: list[int] = []
        for run in split_runs(self._prepare(text)):
            pieces = [run] if is_cjk(run) else self._processor.encode(run, out_type=str)
            ids.extend(index for piece in pieces for index in self._express(piece))
        return ids

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write the files as in Tokenizer, and the sentencepiece model if there is one."""
        super().save(directory)
        if self.model is not None:
            with replacing(Path(directory, BPE_FILE)) as file:
                file.write(self.model)

    @cached_property
    def _processor(self) -> Any:
        if self.model is None:
            raise TokenizerError(f"{self._name}: encoding text needs {BPE_FILE} next to {UNITS_FILE}")
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


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    directory: str | os.PathLike[str],
    *,
    model_type: Literal["bpe", "unigram"] = "bpe",
    min_count: int = 1,
    languages: Sequence[str] = (),
    byte_fallback: bool = False,
) -> BpeTokenizer:
    """Train a sentencepiece model and write `bpe.model` and `units.txt`. The result is deterministic.

    `vocab_size` includes special tokens (see `special_units`), the pieces of spaced scripts and, after them, one token
    for every CJK character of the texts. Characters that occur less than `min_count` times get no text token. Raises
    TokenizerError if the texts have too few or too many units for that size.
    """
    specials = special_units(languages, byte_fallback)
    runs = _frequent_runs(texts, min_count)
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
            # sentencepiece counts its own <unk>, and the bytes
            vocab_size=vocab_size - len(SPECIAL_TOKENS) - len(languages) - len(cjk) + 1,
            byte_fallback=byte_fallback,
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
    pieces = [piece for piece in pieces if piece not in BYTE_TOKENS]
    tokenizer = BpeTokenizer([*specials, *pieces, *cjk], model, "trained BPE")
    tokenizer.save(directory)
    return tokenizer


def _frequent_runs(texts: Iterable[str], min_count: int) -> list[str]:
    """Return the `split_runs` of the texts without their rare characters."""
    runs = [run for text in texts for run in split_runs(canonical_text(text.replace(SPACE, " ")))]
    counts = Counter("".join(runs))
    rare = {ord(character): " " for character, count in counts.items() if count < min_count}
    return [run for rest in runs if (run := canonical_text(rest.translate(rare)))]


def _sentencepiece() -> Any:
    try:
        import sentencepiece
    except ImportError:
        raise TokenizerError("BPE needs sentencepiece: pip install sentencepiece") from None
    return sentencepiece
