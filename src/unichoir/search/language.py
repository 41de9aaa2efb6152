"""Tokens that say which language is spoken: they take part in searches as words do, but are none.

A model with such tokens begins what it recognises with one of them. The right-to-left decoder meets it last, after all
the words: it judges whether they are of that language.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from unichoir.engine.backend import Floats
from unichoir.errors import DecodingError
from unichoir.search.hypothesis import Hypothesis


@dataclass(frozen=True)
class LanguageTokens:
    """The language tokens of a vocabulary; with none of them every method leaves things as they are."""

    ids: Mapping[str, int] = field(default_factory=dict)
    """By language."""

    def check(self, language: str | None) -> None:
        """Raises DecodingError, naming those there are, for a language without a token; None is any language."""
        if language is not None and language not in self.ids:
            known = f"this model has {', '.join(self.ids)}" if self.ids else "this model has no tokens of languages"
            raise DecodingError(f"language: {language!r} is not known: {known}")

    def restrict(self, log_probs: Floats, language: str | None) -> Floats:
        """Log-probabilities (..., V) in which the only possible language token is that of `language`; None: as given.

        It gets the probability of all, so that what was a language token stays one, and every row still sums to one.
        Raises DecodingError as `check` does.
        """
        self.check(language)
        if language is None:
            return log_probs
        every = list(self.ids.values())
        restricted: Floats = log_probs.copy()
        restricted[..., every] = -np.inf
        restricted[..., self.ids[language]] = np.logaddexp.reduce(log_probs[..., every], axis=-1)
        return restricted

    def split(self, tokens: Sequence[int]) -> tuple[str | None, list[int]]:
        """The first language named, None without any; and the places of the tokens that are no language."""
        if not self.ids:
            return None, list(range(len(tokens)))
        names = {index: language for language, index in self.ids.items()}
        named = (names[token] for token in tokens if token in names)
        return next(named, None), [place for place, token in enumerate(tokens) if token not in names]

    def spoken(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """The tokens that are no language."""
        return tuple(tokens[place] for place in self.split(tokens)[1])

    def distinct(self, hyps: Sequence[Hypothesis]) -> list[Hypothesis]:
        """The hypotheses without those that differ from a better one in languages alone; `hyps`: best first."""
        if not self.ids:
            return list(hyps)
        best: dict[tuple[int, ...], Hypothesis] = {}
        for hyp in hyps:
            best.setdefault(self.spoken(hyp.tokens), hyp)
        return list(best.values())
