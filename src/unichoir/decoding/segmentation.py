"""Long recordings in pieces.

Attention over a whole recording costs time and memory with the square of its length, and models are trained on
utterances of some seconds. So audio beyond a limit is cut where a cut is least likely to hit a word: at the quietest
place of the second half of each window of the limit's length. The pieces follow each other without gap or overlap: no
sample is lost or heard twice. Each piece is recognised for itself, without memory of the one before.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

HOP_SECONDS = 0.01
QUIET_HOPS = 21
"""How long a place must be quiet, in hops: shorter than a pause between words, longer than the closure of a plosive."""


def split_at_pauses(
    samples: NDArray[np.float32], sample_rate: int, max_seconds: float | None
) -> Iterator[tuple[int, int]]:
    """(start, end) in samples of the pieces of `samples` (N,), in order; each at most `max_seconds` (>= 1) long.

    Only what does not fit is cut. The last piece is never a splinter: the cut before it leaves at least a quarter of
    the limit. One window is looked at at a time.
    """
    limit = len(samples) if max_seconds is None else int(max_seconds * sample_rate)
    start = 0
    while len(samples) - start > limit:
        left = len(samples) - start
        earliest = min(max(left - limit, limit // 4), limit // 2)
        latest = min(limit, left - limit // 4)
        end = start + _quietest(samples[start : start + limit], sample_rate, earliest, latest)
        yield start, end
        start = end
    yield start, len(samples)


def _quietest(window: NDArray[np.float32], sample_rate: int, earliest: int, latest: int) -> int:
    """The quietest sample from `earliest` to `latest`; among equally quiet ones that in their middle."""
    hop = int(HOP_SECONDS * sample_rate)
    first, last = -(-earliest // hop), latest // hop
    energy = np.square(window[: len(window) // hop * hop].reshape(-1, hop), dtype=np.float64).sum(axis=1)
    # Beyond the window nothing is known, so its edges count as loud.
    loud = np.full(QUIET_HOPS // 2, energy.max())
    around = np.convolve(np.concatenate([loud, energy, loud]), np.ones(QUIET_HOPS), mode="valid")[first:last]
    ties = np.flatnonzero(around == around.min())
    return (first + int(ties[len(ties) // 2])) * hop + hop // 2
