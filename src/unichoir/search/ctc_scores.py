"""The CTC log-probability of given token sequences."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def ctc_score(log_probs: NDArray[np.floating[Any]], tokens: Sequence[int], blank_id: int = 0) -> float:
    """Return the CTC log-probability of a token sequence, over all its alignments (Graves et al. 2006, section 4.1).

    log_probs: (T', V). The result is minus infinity if there is no alignment, because there are too few frames or the
    blank is among the tokens.
    """
    return ctc_scores(log_probs, [tokens], blank_id)[0]


def ctc_scores(
    log_probs: NDArray[np.floating[Any]], sequences: Sequence[Sequence[int]], blank_id: int = 0
) -> list[float]:
    """Return the `ctc_score` of several sequences."""
    if not sequences:
        return []
    if not len(log_probs):
        return [-np.inf if tokens else 0.0 for tokens in sequences]
    # Rows of labels, padded with blanks to one length: states after a row's own end don't change those before it.
    labels = np.full((len(sequences), 2 * max(map(len, sequences)) + 1), blank_id)
    for row, tokens in zip(labels, sequences, strict=True):
        row[1 : 2 * len(tokens) : 2] = tokens
    may_skip = np.full(labels.shape, -np.inf)
    may_skip[:, 3::2] = np.where(labels[:, 3::2] != labels[:, 1:-2:2], 0.0, -np.inf)
    # Two unreachable states come first, so every state has two predecessors.
    alpha = np.full((len(sequences), 2 + labels.shape[1]), -np.inf)
    alpha[:, 2:4] = log_probs[0][labels[:, :2]]
    for row in log_probs[1:].astype(np.float64):
        skipped = alpha[:, :-2] + may_skip
        alpha[:, 2:] = np.logaddexp(np.logaddexp(alpha[:, 2:], alpha[:, 1:-1]), skipped) + row[labels]
    ends = [alpha[place, 2 * len(tokens) + 1 : 2 * len(tokens) + 3] for place, tokens in enumerate(sequences)]
    return [
        -np.inf if blank_id in tokens else float(np.logaddexp.reduce(end))
        for tokens, end in zip(sequences, ends, strict=True)
    ]
