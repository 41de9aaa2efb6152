"""Our tokens in Whisper's: which of its embeddings each piece of our vocabulary starts from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unichoir.formats.whisper.vocabulary import END_OF_TEXT, START_OF_PREVIOUS, byte_level
from unichoir.text.tokenizer import Tokenizer
from unichoir.text.units import BYTE_TOKENS, SPACE


@dataclass(frozen=True, kw_only=True)
class TokenMapping:
    """For each token of ours the ids of Whisper's whose embeddings are averaged; empty: those of all text."""

    inputs: tuple[tuple[int, ...], ...]
    """Of tokens that the decoder has read. That of the beginning is <|startofprev|>: of all, Whisper's decoder goes
    on best from that one alone (docs/training/whisper.md)."""
    outputs: tuple[tuple[int, ...], ...]
    """Of tokens that it may say next. That of the end is <|endoftext|>."""
    text: tuple[int, ...]
    """The ids of all tokens of text."""
    num_pieces: int
    """Our tokens that spell text."""
    num_found: int
    """Those of them that are tokens of Whisper's, too."""


def map_tokens(tokenizer: Tokenizer, vocabulary: Mapping[str, int]) -> TokenMapping:
    """Find each token of ours among Whisper's, which spell in bytes, or else the fewest that spell it, from the left.

    A vocabulary of capitals alone is looked up in lower case, as Whisper writes what is no name. A language `<|en|>`
    takes Whisper's token of that name; blank and unknown have no counterpart.
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
    """Means of rows of `table` (V', D), for each entry of `rows` one: (V, D). An empty one takes the rows of `text`."""
    mean = table[list(text)].mean(dim=0)
    return torch.stack([table[list(row)].mean(dim=0) if row else mean for row in rows])


def _bytes(token: str, lower: bool) -> bytes:
    """What a token of ours writes, a space for U+2581."""
    if token in BYTE_TOKENS:
        return bytes([BYTE_TOKENS.index(token)])
    text = token.replace(SPACE, " ")
    return (text.lower() if lower else text).encode("utf-8", "replace")


def _spell(text: bytes, vocabulary: Mapping[str, int]) -> tuple[int, ...]:
    """Ids of the tokens that spell it, each the longest that fits; empty where a byte is no token."""
    characters = byte_level(text)
    ids: list[int] = []
    while characters:
        length = next((n for n in range(len(characters), 0, -1) if characters[:n] in vocabulary), 0)
        if not length:
            return ()
        ids.append(vocabulary[characters[:length]])
        characters = characters[length:]
    return tuple(ids)
