"""The mapping from our tokens to the Whisper embeddings that they start from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unichoir.formats.whisper.vocabulary import END_OF_TEXT, START_OF_PREVIOUS, byte_level
from unichoir.text.tokenizer import Tokenizer
from unichoir.text.units import BYTE_TOKENS, SPACE


@dataclass(frozen=True, kw_only=True)
class TokenMapping:
    """For each of our tokens, the Whisper ids whose embeddings are averaged; empty: all text tokens."""

    inputs: tuple[tuple[int, ...], ...]
    """Ids for tokens that the decoder has read. The start token uses <|startofprev|>: of all tokens, Whisper's decoder
    only continues well from this one (docs/training/whisper.md)."""
    outputs: tuple[tuple[int, ...], ...]
    """Ids for tokens that the decoder may predict. The end token uses <|endoftext|>."""
    text: tuple[int, ...]
    """The ids of all text tokens."""
    num_pieces: int
    """Number of our tokens that spell text."""
    num_found: int
    """Number of these that are also Whisper tokens."""


def map_tokens(tokenizer: Tokenizer, vocabulary: Mapping[str, int]) -> TokenMapping:
    """Find each of our tokens among Whisper's byte-level tokens, or else a greedy spelling from the left.

    A vocabulary in capitals is looked up in lower case, as Whisper writes most words. A language `<|en|>` uses
    Whisper's token of that name. Blank and unknown have no counterpart.
    """
    silent = {tokenizer.blank_id, tokenizer.unk_id, tokenizer.sos_id, tokenizer.eos_id}
    pieces = [index for index in range(tokenizer.vocab_size) if index not in silent]
    pieces = [index for index in pieces if index not in tokenizer.languages.values()]
    spelled = "".join(tokenizer.tokens[index] for index in pieces if tokenizer.tokens[index] not in BYTE_TOKENS)
    lower = spelled == spelled.upper()
    rows: list[tuple[int, ...]] = [()] * tokenizer.vocab_size
    for index in pieces:
        rows[index] = _spell(_bytes(tokenizer.tokens[index], lower), vocabulary)
    for language, index in tokenizer.languages.items():
        token = f"<|{language}|>"
        rows[index] = (vocabulary[token],) if token in vocabulary else ()
    inputs, outputs = list(rows), list(rows)
    inputs[tokenizer.sos_id] = outputs[tokenizer.sos_id] = (vocabulary[START_OF_PREVIOUS],)
    outputs[tokenizer.eos_id] = (vocabulary[END_OF_TEXT],)
    if tokenizer.eos_id != tokenizer.sos_id:
        inputs[tokenizer.eos_id] = outputs[tokenizer.eos_id]
    return TokenMapping(
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        text=tuple(index for token, index in vocabulary.items() if not token.startswith("<|")),
        num_pieces=len(pieces),
        num_found=sum(len(rows[index]) == 1 for index in pieces),
    )


def mean_rows(table: Tensor, rows: Sequence[Sequence[int]], text: Sequence[int]) -> Tensor:
    """Return the mean of rows of `table` (V', D) for each entry of `rows`: (V, D).

    An empty entry uses the rows of `text`.
    """
    mean = table[list(text)].mean(dim=0)
    return torch.stack([table[list(row)].mean(dim=0) if row else mean for row in rows])


def _bytes(token: str, lower: bool) -> bytes:
    """Return the bytes that one of our tokens writes, with a space for U+2581."""
    if token in BYTE_TOKENS:
        return bytes([BYTE_TOKENS.index(token)])
    text = token.replace(SPACE, " ")
    return (text.lower() if lower else text).encode("utf-8", "replace")


def _spell(text: bytes, vocabulary: Mapping[str, int]) -> tuple[int, ...]:
    """Return the ids of tokens that spell the text, each the longest that fits; empty if a byte has no token."""
    characters = byte_level(text)
    ids: list[int] = []
    while characters:
        length = next((n for n in range(len(characters), 0, -1) if characters[:n] in vocabulary), 0)
        if not length:
            return ()
        ids.append(vocabulary[characters[:length]])
        characters = characters[length:]
    return tuple(ids)
