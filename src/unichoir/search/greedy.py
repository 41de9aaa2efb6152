"""CTC greedy search: the most probable token of every frame."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unichoir.search.hypothesis import Hypothesis


def ctc_greedy_search(log_probs: NDArray[np.floating[Any]], blank_id: int = 0) -> Hypothesis:
    """Collapse the best alignment: runs of one token become one, blanks vanish.

    log_probs: (T', V) of one utterance without padding. The score is that of the alignment, not of all alignments of
    its tokens; a token's frame is the last of its run.
    """
    best = log_probs.argmax(axis=1)
    run_ends = np.append(best[1:] != best[:-1], True)[: len(best)]
    frames = np.flatnonzero(run_ends & (best != blank_id))
    score = float(log_probs[np.arange(len(best)), best].sum(dtype=np.float64))
    return Hypothesis(tokens=tuple(best[frames].tolist()), score=score, frames=tuple(frames.tolist()))
