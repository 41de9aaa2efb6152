"""What all engines share: a decoder that computes nothing twice, padding, checks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unichoir.engine.backend import Floats, Ints, ModelInfo
from unichoir.errors import DecodingError


@dataclass(frozen=True)
class DecoderStep:
    """Tokens that a decoder has to compute, with its inputs for them."""

    tokens: Ints
    """(S,) token ids."""
    positions: Ints
    """(S,) number of tokens before each one in its hypothesis."""
    visible: NDArray[np.bool_]
    """(S, P + S) which past and new tokens each one sees: the earlier ones of its own hypothesis, and itself."""
    past: Floats
    """(P, ...) what the engine returned for the past tokens."""


Run = Callable[[DecoderStep], tuple[Floats, Floats]]
"""The engine's decoder for one utterance: returns the log-probabilities (S, V) of the token after each one, and what
later steps need of each one, (S, ...)."""


class TreeDecoder:
    """A `Decoder` that keeps all hypotheses as a tree and computes each of its tokens once.

    The hypotheses of one utterance differ in few tokens, and a search requests them again with one more token.
    """

    def __init__(self, run: Run, sos_id: int, empty: Floats) -> None:
        """Start with sos alone; empty: the past of no tokens, (0, ...)."""
        self._run = run
        self._tokens, self._parents, self._depths = [sos_id], [-1], [0]
        self._children: dict[tuple[int, int], int] = {}
        self._log_probs: list[Floats] = []
        self._states = empty
        """One row for each computed token, and spare rows."""

    def continuations(self, hyps: Sequence[Sequence[int]]) -> list[Floats]:
        """See `Decoder.continuations`."""
        paths = [self._path(hyp) for hyp in hyps]
        if len(self._log_probs) < len(self._tokens):
            self._compute(len(self._log_probs))
        return [np.stack([self._log_probs[place] for place in path]) for path in paths]

    def _path(self, hyp: Sequence[int]) -> list[int]:
        """Return the places of sos and of each token of a hypothesis in the tree; add new tokens to the tree."""
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
        """Compute the tokens from place `begin` on; the engine gets only the earlier tokens that they see."""
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
        if len(self._states) < new.stop:  # double the room, otherwise every step would copy all rows
            room = np.empty((2 * new.stop, *found.shape[1:]), found.dtype)
            room[:begin] = self._states[:begin]
            self._states = room
        self._states[new] = found

    def _ancestors(self, place: int) -> list[int]:
        """Return a place and all places before it."""
        found = []
        while place >= 0:
            found.append(place)
            place = self._parents[place]
        return found


def check_top_k(top_k: int | None, info: ModelInfo) -> None:
    """Raise DecodingError for a number of experts per frame that the model does not support."""
    if top_k is None:
        return
    if not info.top_k:
        raise DecodingError(f"top_k {top_k}: this model has no experts to choose from")
    if not 1 <= top_k <= info.top_k:
        raise DecodingError(f"top_k {top_k}: this model supports 1 to {info.top_k} experts per frame")


def zero_padding(feats: Floats, feats_lengths: Ints) -> Floats:
    """Return the feature frames (B, T, M) with zeros in the padding, where a NaN would spread through sums."""
    padding = np.arange(feats.shape[1]) >= np.asarray(feats_lengths)[:, None]
    return np.where(padding[:, :, None], np.float32(0), feats) if padding.any() else feats
