"""CTC greedy search: the most probable token of each frame."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unichoir.search.hypothesis import Hypothesis


def ctc_greedy_search(log_probs: NDArray[np.floating[Any]], blank_id: int = 0) -> Hypothesis:
    """Return the collapsed best alignment: runs of a token are merged, blanks are removed.

    log_probs: (T', V) of one utterance without padding. The score is for this alignment alone, not for all alignments
    of the tokens. The frame of a token is the last frame of its run.
    """
    best = log_probs.argmax(axis=1)
    run_ends = np.append(best[1:] != best[:-1], True)[: len(best)]
    frames = np.flatnonzero(run_ends & (best != blank_id))
    score = float(log_probs[np.arange(len(best)), best].sum(dtype=np.float64))
    return Hypothesis(tokens=tuple(best[frames].tolist()), score=score, frames=tuple(frames.tolist()))
