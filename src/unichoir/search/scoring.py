"""Scores of token sequences that do not depend on the audio: hotwords and language models."""

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol
from weakref import WeakValueDictionary

from unichoir.errors import DecodingError
from unichoir.search.hotwords import ContextGraph, Hotword
from unichoir.search.options import STREAMING_MODES, SearchOptions, require_prefix_beam
from unichoir.text.tokenizer import Tokenizer

MAX_GRAPHS = 16
"""Number of recent hotword lists whose graphs are kept although they are not in use."""


class PrefixScorer(Protocol):
    """Adds to the CTC scores of prefixes, in natural log. It is immutable; each prefix has a state."""

    most: float
    """An upper bound of what `extend` adds, or infinity; with it, searches compute fewer extensions."""

    def start(self) -> Any:
        """Return the state of the empty prefix."""
        ...

    def extend(self, state: Any, token: int) -> tuple[Any, float]:
        """Return the state after one more token, and the score that the token adds."""
        ...

    def finish(self, state: Any) -> float:
        """Return the score that the end of the utterance adds; partial results do not include it."""
        ...


class LanguageModel(Protocol):
    """A language model that searches can use."""

    required: bool
    """Whether modes that cannot use it are errors, because the user asked for it. Otherwise they ignore it."""

    def scorer(self, options: SearchOptions) -> PrefixScorer | None:
        """Return a scorer with the options' weights or its own; None if it adds nothing."""
        ...


class JointScorer:
    """The sum of several scorers."""

    def __init__(self, scorers: Sequence[PrefixScorer]) -> None:
        self._scorers = tuple(scorers)
        self.most = sum(scorer.most for scorer in scorers)

    def start(self) -> tuple[Any, ...]:
        """Return the states of all scorers."""
        return tuple(scorer.start() for scorer in self._scorers)

    def extend(self, state: tuple[Any, ...], token: int) -> tuple[tuple[Any, ...], float]:
        """See `PrefixScorer.extend`."""
        steps = [scorer.extend(each, token) for scorer, each in zip(self._scorers, state, strict=True)]
        return tuple(each for each, _ in steps), sum(added for _, added in steps)

    def finish(self, state: tuple[Any, ...]) -> float:
        """See `PrefixScorer.finish`."""
        return sum(scorer.finish(each) for scorer, each in zip(self._scorers, state, strict=True))


class Scorers:
    """Makes the scorers of options, for one tokenizer and, if there is one, its language model. Thread-safe.

    The graph of a list of hotwords is built once and kept as long as a scorer that `of` returned is in use.
    """

    def __init__(self, tokenizer: Tokenizer, language_model: LanguageModel | None = None) -> None:
        self._tokenizer = tokenizer
        self._language_model = language_model
        self._graphs: WeakValueDictionary[tuple[Hotword, ...], ContextGraph] = WeakValueDictionary()
        self._recent: deque[ContextGraph] = deque(maxlen=MAX_GRAPHS)

    def of(self, options: SearchOptions) -> PrefixScorer | None:
        """Return the scorer for these options; None if nothing is to be added.

        Raises DecodingError for hotwords that the tokenizer cannot write, for weights without a language model, and for
        a mode that cannot use the language model; set `lm_weight` to 0 to disable it.
        """
        scorers: list[PrefixScorer] = [self._graph(options.hotwords)] if options.hotwords else []
        if self._language_model is not None:
            wanted = options.lm_weight != 0 or options.length_bonus or options.oov_penalty
            if wanted and (self._language_model.required or options.mode in STREAMING_MODES):
                require_prefix_beam("a language model", options.mode)
                scorer = self._language_model.scorer(options)
                scorers += [] if scorer is None else [scorer]
        else:
            for name in ("lm_weight", "length_bonus", "oov_penalty"):
                if getattr(options, name) is not None:
                    raise DecodingError(f"{name}: there is no language model")
        return scorers[0] if len(scorers) == 1 else JointScorer(scorers) if scorers else None

    def _graph(self, hotwords: tuple[Hotword, ...]) -> ContextGraph:
        graph = self._graphs.get(hotwords)
        if graph is None:
            graph = self._graphs.setdefault(hotwords, ContextGraph(hotwords, self._tokenizer))
        if graph not in self._recent:
            self._recent.append(graph)
        return graph
