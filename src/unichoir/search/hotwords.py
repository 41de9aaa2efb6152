"""Hotwords: phrases to expect, and the automaton that finds them in hypotheses, token by token."""

import math
import os
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from unichoir.errors import DecodingError
from unichoir.text.normalize import canonical_text, is_cjk
from unichoir.text.tokenizer import SPACE, Tokenizer
from unichoir.text.units import BYTE_TOKENS

DEFAULT_BOOST = 0.75
"""Chosen on dev sets (docs/results/hotwords.md)."""
MAX_BOOST = 100.0


@dataclass(frozen=True, slots=True)
class Hotword:
    """A phrase to expect. Raises DecodingError for a phrase without text and for a boost out of range."""

    phrase: str
    boost: float = DEFAULT_BOOST
    """What each token of the phrase adds to the score of a hypothesis: natural log, above 0 and at most 100."""

    def __post_init__(self) -> None:
        if not isinstance(self.phrase, str):
            raise DecodingError(f"hotwords: expected text, found {self.phrase!r}")
        if not canonical_text(self.phrase):
            raise DecodingError(f"hotwords: {self.phrase!r} has no text")
        if not isinstance(self.boost, (int, float)) or isinstance(self.boost, bool) or not 0 < self.boost <= MAX_BOOST:
            raise DecodingError(
                f"hotwords: {self.phrase!r}: expected a boost above 0 and at most {MAX_BOOST:g}, found {self.boost!r}"
            )


def parse_hotwords(items: "Iterable[Hotword | str | tuple[str, float]]") -> tuple[Hotword, ...]:
    """Return phrases or (phrase, boost) as hotwords. A phrase may end with its boost, as in a file (`read_hotwords`).

    Raises DecodingError with the invalid item.
    """
    if isinstance(items, (str, Mapping)) or not isinstance(items, Iterable):
        raise DecodingError(f"hotwords: expected a list of phrases or of (phrase, boost), found {items!r}")
    hotwords = []
    for item in items:
        if isinstance(item, Hotword):
            hotwords.append(item)
        elif isinstance(item, (tuple, list)) and len(item) == 2:
            hotwords.append(Hotword(*item))
        elif isinstance(item, str):
            hotwords.append(_parse_phrase(item, DEFAULT_BOOST))
        else:
            raise DecodingError(f"hotwords: expected a phrase or (phrase, boost), found {item!r}")
    return tuple(hotwords)


def read_hotwords(path: str | os.PathLike[str], boost: float = DEFAULT_BOOST) -> tuple[Hotword, ...]:
    """Return the hotwords of a UTF-8 file with one phrase per line, optionally followed by its boost: ` :2.5`.

    This is the format of sherpa-onnx. Empty lines and lines that begin with `#` are ignored. A phrase may occur twice
    if its boost is the same. boost: for lines without one. Raises DecodingError with the file and the line.
    """
    try:
        content = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise DecodingError(f"{path}: {error.strerror}") from None
    found: dict[str, tuple[int, Hotword]] = {}
    for number, raw in enumerate(content.splitlines(), start=1):
        try:
            line = raw.decode("utf-8").strip()
            if not line or line.startswith("#"):
                continue
            hotword = _parse_phrase(line, boost)
        except UnicodeDecodeError:
            raise DecodingError(f"{path}, line {number}: not UTF-8") from None
        except DecodingError as error:
            raise DecodingError(f"{path}, line {number}: {error}") from None
        first, known = found.setdefault(hotword.phrase, (number, hotword))
        if known != hotword:
            raise DecodingError(
                f"{path}, line {number}: {hotword.phrase!r} has the boost {hotword.boost:g} here and "
                f"{known.boost:g} in line {first}"
            )
    return tuple(hotword for _, hotword in found.values())


def _parse_phrase(text: str, boost: float) -> Hotword:
    fields = text.split()
    if fields and fields[-1].startswith(":"):
        number = fields.pop().removeprefix(":")
        try:
            boost = float(number)
        except ValueError:
            raise DecodingError(f"':{number}' is not a boost such as ':2.5'") from None
    return Hotword(canonical_text(" ".join(fields)), boost)


_State: TypeAlias = "tuple[int, tuple[float, ...]]"
"""The node of the longest phrase prefix that ends here, and the settled boost of each of its tokens; empty if none has
one."""

ROOT = 0
_BYTES = frozenset(BYTE_TOKENS)


class ContextGraph:
    """An Aho-Corasick automaton (1975) over the tokens of hotwords, as a PrefixScorer.

    Its total for a finished sequence is a sum over the tokens. Each token adds the highest boost among the occurrences
    of hotwords that contain it, or 0, so that overlapping phrases count once. In an occurrence the tokens of the
    phrase, as the tokenizer encodes it, stand in a row as whole words: the text begins, ends or has a word border
    before and after them. CJK characters have a border on both sides.

    During the search, tokens that begin a phrase count as if the phrase were complete; if several phrases begin so, the
    highest boost counts. If the phrase is not completed, the token that breaks it, or `finish`, takes this back.

    Word borders are symbols of the automaton like tokens, never two in a row. Tokens without text, such as language
    tokens, are ignored. If a phrase begins or ends with a byte token, no border is required there.

    Raises DecodingError for a phrase that the vocabulary cannot write, TokenizerError if the tokenizer cannot encode
    text. `len` is the number of nodes.
    """

    def __init__(self, hotwords: Sequence[Hotword], tokenizer: Tokenizer) -> None:
        self.most = math.inf
        self._border = tokenizer.vocab_size
        self._width = tokenizer.vocab_size + 1
        self._spelling = _spelling(tokenizer)
        self._goto: dict[int, int] = {}
        self._fail, self._output, self._last, self._num_tokens = [ROOT], [ROOT], [-1], [0]
        self._hope, self._boost = [0.0], [0.0]
        self._start = self._insert([self._border], 0.0)
        for hotword in hotwords:
            self._insert(self._phrase(hotword, tokenizer), hotword.boost)
        self._link()
        self._worth = [hope * count for hope, count in zip(self._hope, self._num_tokens, strict=True)]

    def __len__(self) -> int:
        return len(self._fail)

    def start(self) -> _State:
        """See `PrefixScorer.start`: a text begins with a word border."""
        return self._start, ()

    def extend(self, state: _State, token: int) -> tuple[_State, float]:
        """See `PrefixScorer.extend`."""
        first, settled = state
        if not settled:  # the common case: no phrase is complete, and none is completed
            node = first
            for symbol in self._spelling[token]:
                node = self._next(node, symbol)
                if self._boost[node] or self._output[node]:
                    break
            else:
                return (node, ()), self._worth[node] - self._worth[first]
        added = 0.0
        for symbol in self._spelling[token]:
            state, more = self._step(state, symbol)
            added += more
        return state, added

    def finish(self, state: _State) -> float:
        """See `PrefixScorer.finish`: a text ends with a word border, and incomplete phrases are taken back."""
        (node, settled), added = self._step(state, self._border)
        return added + sum(settled) - self._value(node, settled)

    def _step(self, state: _State, symbol: int) -> tuple[_State, float]:
        """Advance by one symbol; return the new state and the change in value of the tokens in view."""
        before, settled = state
        node = self._next(before, symbol)
        seen = settled or (0.0,) * self._num_tokens[before]
        if symbol != self._border:
            seen = (*seen, 0.0)
        out = len(seen) - self._num_tokens[node]
        added = sum(seen[:out]) - self._value(before, settled)
        settled, found = seen[out:], node if self._boost[node] else self._output[node]
        while found:
            boost, first = self._boost[found], len(settled) - self._num_tokens[found]
            settled = settled[:first] + tuple(max(boost, value) for value in settled[first:])
            found = self._output[found]
        return (node, settled if any(settled) else ()), added + self._value(node, settled)

    def _value(self, node: int, settled: tuple[float, ...]) -> float:
        """Return the value of the tokens in view, as if the phrase that they begin were complete."""
        hope = self._hope[node]
        return sum(max(hope, value) for value in settled) if settled else self._worth[node]

    def _next(self, node: int, symbol: int) -> int:
        """Return the node after one more symbol; a border after a border is ignored."""
        if symbol == self._border == self._last[node]:
            return node
        while (found := self._goto.get(node * self._width + symbol)) is None:
            if node == ROOT:
                return ROOT
            node = self._fail[node]
        return found

    def _phrase(self, hotword: Hotword, tokenizer: Tokenizer) -> list[int]:
        tokens = tokenizer.encode(hotword.phrase)
        if tokenizer.unk_id in tokens:
            unknown = next((c for c in hotword.phrase if tokenizer.unk_id in tokenizer.encode(c)), hotword.phrase)
            raise DecodingError(f"hotwords: {hotword.phrase!r}: this model's vocabulary cannot write {unknown!r}")
        border, symbols = self._border, list[int]()
        spellings = [self._spelling[token] for token in tokens]
        for symbol in [border, *(symbol for spelling in spellings for symbol in spelling), border]:
            if not (symbol == border and symbols and symbols[-1] == border):
                symbols.append(symbol)
        if symbols == [border]:
            raise DecodingError(f"hotwords: {hotword.phrase!r} has no text")
        first, last = (tokenizer.tokens[tokens[end]] in _BYTES for end in (0, -1))
        return symbols[int(first) : -1 if last else None]

    def _insert(self, symbols: Sequence[int], boost: float) -> int:
        node = ROOT
        for symbol in symbols:
            key = node * self._width + symbol
            child = self._goto.get(key)
            if child is None:
                child = self._goto[key] = len(self._fail)
                self._fail.append(ROOT)
                self._output.append(ROOT)
                self._last.append(symbol)
                self._num_tokens.append(self._num_tokens[node] + (symbol != self._border))
                self._hope.append(0.0)
                self._boost.append(0.0)
            node = child
            self._hope[node] = max(self._hope[node], boost)
        self._boost[node] = max(self._boost[node], boost)
        return node

    def _link(self) -> None:
        """Link each node to its longest proper suffix in the tree, and to the longest one that is a phrase."""
        children: dict[int, list[tuple[int, int]]] = {}
        for key, child in self._goto.items():
            node, symbol = divmod(key, self._width)
            children.setdefault(node, []).append((symbol, child))
        waiting = deque([ROOT])
        while waiting:
            node = waiting.popleft()
            for symbol, child in children.get(node, ()):
                if node != ROOT:
                    self._fail[child] = self._next(self._fail[node], symbol)
                suffix = self._fail[child]
                self._output[child] = suffix if self._boost[suffix] else self._output[suffix]
                waiting.append(child)


@lru_cache(maxsize=16)
def _spelling(tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """Return the symbols of each token: the token and its word borders."""
    border, spelling = tokenizer.vocab_size, list[tuple[int, ...]]()
    for index, token in enumerate(tokenizer.tokens):
        if token in _BYTES:
            spelling.append((index,))
        elif not token.strip(SPACE):
            spelling.append((border,))
        elif not tokenizer.decode([index]):
            spelling.append(())
        else:
            before = (border,) if tokenizer.is_word_start(index) else ()
            after = (border,) if is_cjk(token) or token.endswith(SPACE) else ()
            spelling.append((*before, index, *after))
    return spelling
