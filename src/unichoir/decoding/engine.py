"""What the engines behind `Backend` share: padding, hypotheses as a tree for a decoder, its output as scores."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unichoir.decoding.backend import Floats, Ints, ModelInfo
from unichoir.errors import DecodingError


@dataclass(frozen=True)
class PrefixTree:
    """Hypotheses as a decoder's input, every beginning that some of them share computed once.

    An n-best list differs in few tokens: its tree has a third of the tokens of its hypotheses, or less.
    """

    tokens: Ints
    """(S,) token ids, sos first."""
    positions: Ints
    """(S,) how many tokens come before each."""
    visible: NDArray[np.bool_]
    """(S, S) True where the second is the first or comes before it."""
    paths: list[Ints]
    """Of each hypothesis the places of sos and of its tokens, (U_i + 1,)."""


def prefix_tree(hyps: Sequence[Sequence[int]], sos_id: int) -> PrefixTree:
    """The tree of hypotheses (token ids without sos), of any lengths, even 0."""
    parents, tokens, positions = [0], [sos_id], [0]
    children: dict[tuple[int, int], int] = {}
    paths = []
    for hyp in hyps:
        path = [0]
        for token in hyp:
            step = (path[-1], token)
            if step not in children:
                children[step] = len(tokens)
                parents.append(path[-1])
                tokens.append(token)
                positions.append(len(path))
            path.append(children[step])
        paths.append(np.array(path))
    visible = np.eye(len(tokens), dtype=np.bool_)
    for place in range(1, len(tokens)):  # parents come before their children
        visible[place] |= visible[parents[place]]
    return PrefixTree(np.array(tokens), np.array(positions), visible, paths)


class DecoderScores(ABC):
    """The two ways in which `Backend` asks its decoders, on top of the engine's one way to run them."""

    info: ModelInfo

    def score_hypotheses(self, encoder_out: Floats, hyps: Sequence[Sequence[int]], reverse: bool) -> list[Floats]:
        """See `Backend.score_hypotheses`. Raises DecodingError for `reverse` without a right-to-left decoder."""
        if not hyps:
            return []
        ordered = [hyp[::-1] for hyp in hyps] if reverse else hyps
        tree = prefix_tree(ordered, self.info.sos_id)
        log_probs = self._decode(encoder_out, tree, reverse)
        return [log_probs[path, [*hyp, self.info.eos_id]] for path, hyp in zip(tree.paths, ordered, strict=True)]

    def continuations(self, encoder_out: Floats, hyps: Sequence[Sequence[int]]) -> list[Floats]:
        """See `Backend.continuations`."""
        tree = prefix_tree(hyps, self.info.sos_id)
        log_probs = self._decode(encoder_out, tree, reverse=False)
        return [log_probs[path] for path in tree.paths]

    def next_token_log_probs(self, encoder_out: Floats, prefixes: Ints) -> Floats:
        """See `Backend.next_token_log_probs`."""
        tree = prefix_tree(prefixes[:, 1:].tolist(), self.info.sos_id)
        return self._decode(encoder_out, tree, reverse=False)[[path[-1] for path in tree.paths]]

    @abstractmethod
    def _decode(self, encoder_out: Floats, tree: PrefixTree, reverse: bool) -> Floats:
        """Log-probabilities (S, V) of what follows each token of the tree; encoder_out: (T', D)."""


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
