"""Language tokens: they take part in searches as other tokens do, but are not part of the text.

A model with language tokens begins each utterance with one of them. For the right-to-left decoder it is the last token,
so this decoder judges whether the words belong to the language.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from unichoir.engine.backend import Floats
from unichoir.errors import DecodingError
from unichoir.search.hypothesis import Hypothesis


@dataclass(frozen=True)
class LanguageTokens:
    """The language tokens of a vocabulary. Without any, every method returns its input unchanged."""

    ids: Mapping[str, int] = field(default_factory=dict)
    """Token id by language."""

    def check(self, language: str | None) -> None:
        """Raise DecodingError, with the known languages, for a language without a token; None: any language."""
        if language is not None and language not in self.ids:
            known = f"this model has {', '.join(self.ids)}" if self.ids else "this model has no language tokens"
            raise DecodingError(f"language: {language!r} is not known: {known}")

    def restrict(self, log_probs: Floats, language: str | None) -> Floats:
        """Return log-probabilities (..., V) that allow only the language token of `language`; None: unchanged.

        This token gets the probability of all language tokens, so every row still sums to one. Raises DecodingError as
        `check` does.
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
        """Return the first language in the tokens, or None, and the places of all other tokens."""
        if not self.ids:
            return None, list(range(len(tokens)))
        names = {index: language for language, index in self.ids.items()}
        named = (names[token] for token in tokens if token in names)
        return next(named, None), [place for place, token in enumerate(tokens) if token not in names]

    def spoken(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Return the tokens without language tokens."""
        return tuple(tokens[place] for place in self.split(tokens)[1])

    def distinct(self, hyps: Sequence[Hypothesis]) -> list[Hypothesis]:
        """Return the hypotheses, best first, without those that differ from a better one only in language tokens."""
        if not self.ids:
            return list(hyps)
        best: dict[tuple[int, ...], Hypothesis] = {}
        for hyp in hyps:
            best.setdefault(self.spoken(hyp.tokens), hyp)
        return list(best.values())
