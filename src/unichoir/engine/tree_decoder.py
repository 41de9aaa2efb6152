"""What the engines behind `Backend` share: a decoder that knows what it has computed, padding, checks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unichoir.engine.backend import Floats, Ints, ModelInfo
from unichoir.errors import DecodingError


@dataclass(frozen=True)
class DecoderStep:
    """Tokens that a decoder has to compute, and what it needs for it."""

    tokens: Ints
    """(S,) token ids."""
    positions: Ints
    """(S,) how many tokens come before each in its hypothesis."""
    visible: NDArray[np.bool_]
    """(S, P + S) which of the past tokens and of these each one sees: those of its hypothesis before it, and itself."""
    past: Floats
    """(P, ...) what the engine has returned for the tokens before these."""


Run = Callable[[DecoderStep], tuple[Floats, Floats]]
"""The engine's decoder on one utterance: log-probabilities (S, V) of what follows each token, and (S, ...) what later
steps need of it."""


class TreeDecoder:
    """`decoding.backend.Decoder`: the hypotheses asked for so far as a tree, every token of which is computed once.

    Hypotheses of one utterance differ in few tokens, and a search asks for the same ones again with one token more.
    """

    def __init__(self, run: Run, sos_id: int, empty: Floats) -> None:
        """empty: the past of no tokens, (0, ...)."""
        self._run = run
        self._tokens, self._parents, self._depths = [sos_id], [-1], [0]
        self._children: dict[tuple[int, int], int] = {}
        self._log_probs: list[Floats] = []
        self._states = empty
        """A row for each token computed, and room for more."""

    def continuations(self, hyps: Sequence[Sequence[int]]) -> list[Floats]:
        """See `Decoder.continuations`."""
        paths = [self._path(hyp) for hyp in hyps]
        if len(self._log_probs) < len(self._tokens):
            self._compute(len(self._log_probs))
        return [np.stack([self._log_probs[place] for place in path]) for path in paths]

    def _path(self, hyp: Sequence[int]) -> list[int]:
        """The places of sos and of each token of a hypothesis in the tree, into which new ones are put."""
        path = [0]
        for token in hyp:
            step = (path[-1], int(token))
            place = self._children.setdefault(step, len(self._tokens))
            if place == len(self._tokens):
                self._tokens.append(step[1])
                self._parents.append(step[0])
                self._depths.append(len(path))
            path.append(place)
        return path

    def _compute(self, begin: int) -> None:
        """The tokens from place `begin` on; of those before, only what they see goes to the engine."""
        new = range(begin, len(self._tokens))
        seen = [self._ancestors(place) for place in new]
        past = sorted({place for places in seen for place in places if place < begin})
        column = {place: number for number, place in enumerate([*past, *new])}
        visible = np.zeros((len(new), len(column)), np.bool_)
        for row, places in zip(visible, seen, strict=True):
            row[[column[place] for place in places]] = True
        tokens, positions = (np.array(each[begin:], np.int64) for each in (self._tokens, self._depths))
        log_probs, found = self._run(DecoderStep(tokens, positions, visible, self._states[past]))
        self._log_probs += list(log_probs)
        if len(self._states) < new.stop:  # twice the room, or every step would copy all that came before
            room = np.empty((2 * new.stop, *found.shape[1:]), found.dtype)
            room[:begin] = self._states[:begin]
            self._states = room
        self._states[new] = found

    def _ancestors(self, place: int) -> list[int]:
        """The place itself and all before it."""
        found = []
        while place >= 0:
            found.append(place)
            place = self._parents[place]
        return found


def check_top_k(top_k: int | None, info: ModelInfo) -> None:
    """Raises DecodingError for a number of experts per frame that the model cannot be limited to."""
    if top_k is None:
        return
    if not info.top_k:
        raise DecodingError(f"top_k {top_k}: this model has no experts to choose among")
    if not 1 <= top_k <= info.top_k:
        raise DecodingError(f"top_k {top_k}: this model was made for 1 to {info.top_k} experts of a frame")


def zero_padding(feats: Floats, feats_lengths: Ints) -> Floats:
    """Feature frames (B, T, M) with 0 from `feats_lengths` (B,) on: a NaN in the padding would spread through sums."""
    padding = np.arange(feats.shape[1]) >= np.asarray(feats_lengths)[:, None]
    return np.where(padding[:, :, None], np.float32(0), feats) if padding.any() else feats
