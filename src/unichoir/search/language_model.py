"""N-gram language models for the search, over words or tokens: packed models, and those that KenLM reads.

Heafield 2011, KenLM: Faster and Smaller Language Model Queries. The package `ufal.kenlm` provides KenLM as wheels;
packed models do not need it.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

from unichoir.errors import CheckpointError, DecodingError
from unichoir.search.arpa import KenlmNgram, spoken_words
from unichoir.search.options import STREAMING_MODES, Mode, SearchOptions
from unichoir.text.normalize import is_cjk, split_words
from unichoir.text.packed_ngram import PackedNgram, is_packed
from unichoir.text.tokenizer import SPACE, Tokenizer
from unichoir.text.units import BYTE_TOKENS

_BYTES = frozenset(BYTE_TOKENS)
UNKNOWN_FLOOR = -7.0
"""The lowest log10 probability of a word. Without it, a model without <unk> would forbid all unknown words."""
MAX_SPELLINGS = 1 << 17
"""Size of the cache of spelled words."""

State: TypeAlias = "tuple[Any, tuple[int, ...]]"
"""The n-gram model's state after the complete words, and the tokens of a word that may be incomplete."""


@dataclass(frozen=True, kw_only=True)
class FusionWeights:
    """The weights of a language model beside the CTC score; the defaults were the best ones on AN4 dev."""

    lm_weight: float = 0.4
    """Weight of the natural log-probability."""
    length_bonus: float = 1.0
    """Added for each word, or for each token if the model is over tokens."""
    oov_penalty: float = 0.0
    """Subtracted for each word that the model does not know; most misspellings are unknown."""


Weights: TypeAlias = Mapping[Mode, FusionWeights]
"""The weights of each mode with a prefix beam."""


class NgramLanguageModel:
    """An n-gram model over the words or the tokens of a tokenizer.

    The vocabulary shows which: only a model over tokens contains U+2581 or byte tokens. If the whole vocabulary is in
    upper or in lower case, words are converted to this case. `weights` come from the file beside the model
    (`weights_file`), if there is one. required: see `LanguageModel`.

    Raises CheckpointError for a file that is missing or malformed, with the line if it is known; DecodingError if the
    tokenizer cannot write most words of the model; UnichoirError if KenLM is needed and not installed.
    """

    def __init__(self, path: str | os.PathLike[str], tokenizer: Tokenizer, required: bool = True) -> None:
        self.path = os.fspath(path)
        self.required = required
        self._model = PackedNgram(self.path) if is_packed(self.path) else KenlmNgram(self.path)
        words = spoken_words(self._model.words, self.path)
        text = "\n".join(words)  # faster to search than each word
        self.order = self._model.order
        self.has_tokens = SPACE in text or not _BYTES.isdisjoint(words)
        """Whether the model is over tokens."""
        case = str if self.has_tokens else _case(text)
        _require_fit(words, tokenizer, None if self.has_tokens else case, self.path)
        self.weights = read_weights(self.path)
        self.begins = [tokenizer.is_word_start(index) for index in range(tokenizer.vocab_size)]
        """For each token, whether it completes the word before it."""
        self.completes = [self.has_tokens or (len(token) == 1 and is_cjk(token)) for token in tokenizer.tokens]
        """For each token, whether it is complete without the next token."""
        one_word = not any(
            is_cjk(character) or character.isspace() for token in tokenizer.tokens for character in token
        )
        self.completes_one = self.has_tokens or (one_word and _BYTES.isdisjoint(tokenizer.tokens))
        """Whether a token completes at most one word: itself or the word before it."""
        languages = frozenset(tokenizer.languages.values())

        @lru_cache(MAX_SPELLINGS)
        def spell(tokens: tuple[int, ...]) -> Sequence[str]:
            if self.has_tokens:
                return [tokenizer.tokens[index] for index in tokens if index not in languages]
            return split_words(case(tokenizer.decode(tokens)))

        self.spell: Callable[[tuple[int, ...]], Sequence[str]] = spell
        """Return the words of these tokens, in the case of the vocabulary; the tokens must be whole words."""

    def scorer(self, options: SearchOptions) -> "NgramScorer | None":
        """See `LanguageModel.scorer`; None if all weights are 0, since the search then needs no model."""
        own = self.weights[options.mode]
        given = {field.name: getattr(options, field.name) for field in dataclasses.fields(own)}
        weights = dataclasses.replace(own, **{name: value for name, value in given.items() if value is not None})
        return NgramScorer(self, weights) if any(dataclasses.astuple(weights)) else None

    def begin(self) -> Any:
        """Return the state after <s>. States are immutable."""
        return self._model.begin()

    def score(self, state: Any, word: str) -> tuple[Any, float, bool]:
        """Return the state after `word`, its log10 probability, at least `UNKNOWN_FLOOR`, and whether it is known."""
        after, score, known = self._model.score(state, word)
        if not score < 1:  # malformed model
            raise CheckpointError(f"{self.path}: the log-probability of '{word}' is {score}")
        return after, min(max(score, UNKNOWN_FLOOR), 0.0), known  # rounding may give more than 0


class DefaultLanguageModel:
    """The language model in a model directory, used by default. It is loaded when a search first needs it.

    `scorer` raises as `NgramLanguageModel` does.
    """

    required = False

    def __init__(self, path: str | os.PathLike[str], tokenizer: Tokenizer) -> None:
        self.path = os.fspath(path)
        self._tokenizer = tokenizer
        self._model: NgramLanguageModel | None = None
        self._lock = Lock()

    def scorer(self, options: SearchOptions) -> "NgramScorer | None":
        """See `LanguageModel.scorer`."""
        with self._lock:
            if self._model is None:
                self._model = NgramLanguageModel(self.path, self._tokenizer, required=False)
        return self._model.scorer(options)


class NgramScorer:
    """A `PrefixScorer` that scores each word as soon as it is complete, and </s> at the end."""

    def __init__(self, model: NgramLanguageModel, weights: FusionWeights) -> None:
        self._model = model
        self._scale = weights.lm_weight * math.log(10)
        self._word_bonus = weights.length_bonus
        self._unknown_bonus = weights.length_bonus - weights.oov_penalty
        self.most = max(0.0, self._word_bonus) if model.completes_one else math.inf

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

    def _complete(self, state: Any, tokens: tuple[int, ...]) -> tuple[Any, float]:
        added = 0.0
        for word in self._model.spell(tokens) if tokens else ():
            state, score, is_known = self._model.score(state, word)
            added += self._scale * score + (self._word_bonus if is_known else self._unknown_bonus)
        return state, added


def weights_file(path: str | os.PathLike[str]) -> Path:
    """Return the file with the weights of a language model: `lm.arpa.gz.json` beside `lm.arpa.gz`."""
    return Path(f"{os.fspath(path)}.json")


def read_weights(path: str | os.PathLike[str]) -> Weights:
    """Return the weights beside a language model, or the defaults. A mode without weights gets those of the other mode.

    Raises CheckpointError for a malformed file.
    """
    file = weights_file(path)
    if not file.exists():
        return dict.fromkeys(STREAMING_MODES, FusionWeights())
    names = [field.name for field in dataclasses.fields(FusionWeights)]
    try:
        content = json.loads(file.read_bytes())
        modes = {mode: content[mode] for mode in STREAMING_MODES if mode in content}
        found = {mode: {name: float(each[name]) for name in names} for mode, each in modes.items()}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{file}: not the weights of a language model ({error!r})") from None
    if not found:
        raise CheckpointError(f"{file}: no weights for {' or '.join(STREAMING_MODES)}; remove it and tune again")
    for mode, weights in found.items():
        if not all(map(math.isfinite, weights.values())) or min(weights["lm_weight"], weights["oov_penalty"]) < 0:
            reason = "expected finite numbers, and lm_weight and oov_penalty at least 0"
            raise CheckpointError(f"{file}: {mode}: {reason}, found {weights}")
    other = next(iter(found.values()))
    return {mode: FusionWeights(**found.get(mode, other)) for mode in STREAMING_MODES}


def _case(text: str) -> Callable[[str], str]:
    """Return the function that converts words to the case of the vocabulary. text: all its words."""
    if text == text.upper():
        return str.upper
    return str.lower if text == text.lower() else str


def _require_fit(words: Sequence[str], tokenizer: Tokenizer, case: Callable[[str], str] | None, path: str) -> None:
    """Raise DecodingError if the tokenizer cannot write most words; case: of the words; None: they are tokens."""
    if case is None:
        tokens = set(tokenizer.tokens)
        foreign = [word for word in words if word not in tokens]
    elif BYTE_TOKENS[0] in tokenizer.tokens:
        return
    else:
        letters = set(case("".join(token for token in tokenizer.tokens if not token.startswith("<"))))
        foreign = [] if letters.issuperset("".join(words)) else [word for word in words if not letters.issuperset(word)]
    if 2 * len(foreign) > len(words):
        raise DecodingError(
            f"{path}: {len(foreign)} of its {len(words)} words cannot be written by the model, such as "
            f"'{foreign[0]}'; use `unichoir lm train --model` to build a language model that fits"
        )
