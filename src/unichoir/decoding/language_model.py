"""N-gram language models in the search, over words or over tokens, read by KenLM.

Heafield 2011, KenLM: Faster and Smaller Language Model Queries. The package `ufal.kenlm` is KenLM as wheels; the core
imports without it.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

from unichoir.decoding.arpa import import_kenlm, open_model
from unichoir.errors import CheckpointError, DecodingError
from unichoir.text.normalize import is_cjk, split_words
from unichoir.text.tokenizer import SPACE, Tokenizer
from unichoir.text.units import BYTE_TOKENS

_BYTES = frozenset(BYTE_TOKENS)
UNKNOWN_FLOOR = -7.0
"""The least log10 probability of a word: a model without <unk> would forbid every word that it does not know."""
MAX_SPELLINGS = 1 << 17
"""Words whose spelling is remembered."""

State: TypeAlias = "tuple[Any, tuple[int, ...]]"
"""KenLM's state after the complete words, and the tokens of what may not be complete."""


@dataclass(frozen=True, kw_only=True)
class FusionWeights:
    """How a language model adds to the CTC score; the defaults are what served AN4 dev best over all settings."""

    lm_weight: float = 0.4
    """Weight of its natural log-probability."""
    length_bonus: float = 1.0
    """What every word adds, or every token for a model of tokens."""


class NgramLanguageModel:
    """An n-gram model over the words, or the tokens, that a tokenizer writes.

    Which of both shows in its vocabulary: only a model of tokens has U+2581 or tokens of bytes in it. Words are looked
    up in the vocabulary's case where that is one case only. `weights` are those beside the file (see `weights_file`),
    if any.

    Raises CheckpointError for a file that is missing or malformed, with the line where it is known; DecodingError for a
    model most of whose words the tokenizer cannot write; UnichoirError where KenLM is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], tokenizer: Tokenizer) -> None:
        self.path = os.fspath(path)
        self._model, words = open_model(self.path)
        self._state = import_kenlm().State
        self.order: int = self._model.order
        self.has_tokens = any(SPACE in word for word in words) or not _BYTES.isdisjoint(words)
        """Whether it is a model of tokens."""
        case = str if self.has_tokens else _case(words)
        _require_fit(words, tokenizer, None if self.has_tokens else case, self.path)
        self.weights = read_weights(self.path)
        self.begins = [tokenizer.is_word_start(index) for index in range(tokenizer.vocab_size)]
        """Of each token, whether what came before it is complete."""
        self.completes = [self.has_tokens or (len(token) == 1 and is_cjk(token)) for token in tokenizer.tokens]
        """Of each token, whether nothing after it can belong to it."""
        languages = frozenset(tokenizer.languages.values())

        @lru_cache(MAX_SPELLINGS)
        def spell(tokens: tuple[int, ...]) -> Sequence[str]:
            if self.has_tokens:
                return [tokenizer.tokens[index] for index in tokens if index not in languages]
            return split_words(case(tokenizer.decode(tokens)))

        self.spell: Callable[[tuple[int, ...]], Sequence[str]] = spell
        """The words that these tokens make, none of them cut, as the vocabulary writes them."""

    def scorer(self, weight: float | None = None, word_bonus: float | None = None) -> "NgramScorer | None":
        """Adds `weight` times the natural log-probability, and `word_bonus` for every word (token); None: `weights`.

        None where both are 0, as tuning may find best: the search is the same as without a model.
        """
        weight = self.weights.lm_weight if weight is None else weight
        word_bonus = self.weights.length_bonus if word_bonus is None else word_bonus
        return NgramScorer(self, weight, word_bonus) if weight or word_bonus else None

    def begin(self) -> Any:
        """KenLM's state after <s>. States are never changed."""
        state = self._state()
        self._model.BeginSentenceWrite(state)
        return state

    def score(self, state: Any, word: str) -> tuple[Any, float]:
        """KenLM's state after `word`, and its log10 probability, or `UNKNOWN_FLOOR` if that is more."""
        after = self._state()
        score: float = self._model.BaseScore(state, word, after)
        if not score < 1:  # no well-formed model; rounding may exceed 0
            raise CheckpointError(f"{self.path}: the log-probability of '{word}' is {score}")
        return after, max(score, UNKNOWN_FLOOR)


class NgramScorer:
    """A `PrefixScorer`: every word is scored as soon as it is known to be complete, and </s> at the end."""

    def __init__(self, model: NgramLanguageModel, weight: float, word_bonus: float) -> None:
        self._model = model
        self._scale = weight * math.log(10)
        self._word_bonus = word_bonus

    def start(self) -> State:
        """See `PrefixScorer.start`."""
        return self._model.begin(), ()

    def extend(self, state: State, token: int) -> tuple[State, float]:
        """See `PrefixScorer.extend`."""
        known, tokens = state
        added = 0.0
        if tokens and self._model.begins[token]:
            known, added = self._complete(known, tokens)
            tokens = ()
        tokens = (*tokens, token)
        if not self._model.completes[token]:
            return (known, tokens), added
        known, more = self._complete(known, tokens)
        return (known, ()), added + more

    def finish(self, state: State) -> float:
        """See `PrefixScorer.finish`."""
        known, added = self._complete(*state)
        return added + self._scale * self._model.score(known, "</s>")[1]

    def _complete(self, known: Any, tokens: tuple[int, ...]) -> tuple[Any, float]:
        added = 0.0
        for word in self._model.spell(tokens) if tokens else ():
            known, score = self._model.score(known, word)
            added += self._scale * score + self._word_bonus
        return known, added


def weights_file(path: str | os.PathLike[str]) -> Path:
    """Where the weights of a language model are kept: `lm.arpa.gz.json` beside `lm.arpa.gz`."""
    return Path(f"{os.fspath(path)}.json")


def read_weights(path: str | os.PathLike[str]) -> FusionWeights:
    """The weights beside a language model, or the defaults. Raises CheckpointError for a file that is none."""
    file = weights_file(path)
    if not file.exists():
        return FusionWeights()
    try:
        content = json.loads(file.read_bytes())
        weights = {field.name: float(content[field.name]) for field in dataclasses.fields(FusionWeights)}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{file}: not the weights of a language model ({error!r})") from None
    if not all(math.isfinite(value) for value in weights.values()) or weights["lm_weight"] < 0:
        raise CheckpointError(f"{file}: expected finite numbers, and lm_weight at least 0, found {weights}")
    return FusionWeights(**weights)


def _case(words: Sequence[str]) -> Callable[[str], str]:
    """What makes words as in the vocabulary: upper or lower case where it has no other."""
    if all(word == word.upper() for word in words):
        return str.upper
    return str.lower if all(word == word.lower() for word in words) else str


def _require_fit(words: Sequence[str], tokenizer: Tokenizer, case: Callable[[str], str] | None, path: str) -> None:
    """`case`: of words; None: they are tokens."""
    if case is None:
        tokens = set(tokenizer.tokens)
        foreign = [word for word in words if word not in tokens]
    elif BYTE_TOKENS[0] in tokenizer.tokens:
        return
    else:
        letters = set(case("".join(token for token in tokenizer.tokens if not token.startswith("<"))))
        foreign = [word for word in words if not letters.issuperset(word)]
    if 2 * len(foreign) > len(words):
        raise DecodingError(
            f"{path}: {len(foreign)} of its {len(words)} words are none that the model can write, such as "
            f"'{foreign[0]}'; `unichoir lm train --model` makes one that fits"
        )
