"""What a search may know of token sequences beyond the audio: phrases to expect, a language model."""

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol
from weakref import WeakValueDictionary

from unichoir.errors import DecodingError
from unichoir.search.hotwords import ContextGraph, Hotword
from unichoir.search.options import STREAMING_MODES, SearchOptions, require_prefix_beam
from unichoir.text.tokenizer import Tokenizer

MAX_GRAPHS = 16
"""Lists of hotwords that are kept ready though nobody uses them: those that were asked for last."""


class PrefixScorer(Protocol):
    """Adds to the CTC scores of prefixes, in natural log. Immutable: what it remembers of a prefix is a state."""

    most: float
    """`extend` never adds more; infinite where nobody knows. With it searches ask for fewer extensions."""

    def start(self) -> Any:
        """The state of the empty prefix."""
        ...

    def extend(self, state: Any, token: int) -> tuple[Any, float]:
        """The state after one token more, and what that token adds."""
        ...

    def finish(self, state: Any) -> float:
        """What it adds that the utterance ends here; partial results are ranked without it."""
        ...


class LanguageModel(Protocol):
    """What knows how probable texts are."""

    required: bool
    """Whether modes that cannot use it are errors: somebody asked for it. Else they go without it."""

    def scorer(self, options: SearchOptions) -> PrefixScorer | None:
        """What it adds with the options' weights or its own; None where that is nothing."""
        ...


class JointScorer:
    """Several scorers as one: what they add is summed."""

    def __init__(self, scorers: Sequence[PrefixScorer]) -> None:
        self._scorers = tuple(scorers)
        self.most = sum(scorer.most for scorer in scorers)

    def start(self) -> tuple[Any, ...]:
        """The states of all."""
        return tuple(scorer.start() for scorer in self._scorers)

    def extend(self, state: tuple[Any, ...], token: int) -> tuple[tuple[Any, ...], float]:
        """See `PrefixScorer.extend`."""
        steps = [scorer.extend(each, token) for scorer, each in zip(self._scorers, state, strict=True)]
        return tuple(each for each, _ in steps), sum(added for _, added in steps)

    def finish(self, state: tuple[Any, ...]) -> float:
        """See `PrefixScorer.finish`."""
        return sum(scorer.finish(each) for scorer, each in zip(self._scorers, state, strict=True))


class Scorers:
    """The scorers of one tokenizer and, if there is one, language model, as options want them.

    The graph of a list of hotwords is built once, and is there as long as somebody holds what `of` has returned. For
    any thread.
    """

    def __init__(self, tokenizer: Tokenizer, language_model: LanguageModel | None = None) -> None:
        self._tokenizer = tokenizer
        self._language_model = language_model
        self._graphs: WeakValueDictionary[tuple[Hotword, ...], ContextGraph] = WeakValueDictionary()
        self._recent: deque[ContextGraph] = deque(maxlen=MAX_GRAPHS)

    def of(self, options: SearchOptions) -> PrefixScorer | None:
        """None where nothing is to be added.

        Raises DecodingError for hotwords that the tokenizer cannot write, for weights of a language model without one,
        and for a mode that cannot use the one there is; `lm_weight` 0 is the way not to.
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
