"""The edges of words. CTC does not give them: it is certain of a token in a frame or two, somewhere within the token.

Between the certain frames of two adjacent words, loudness decides: the words extend to the quiet stretch between them,
or meet at the quietest frame. Thresholds are relative to the loudness of the surrounding speech.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unichoir.engine.backend import Floats, ModelInfo

MIN_QUIET = 6
"""In feature frames. A shorter quiet stretch may be the closure of a plosive."""
PAUSE = 15
"""In feature frames. A quiet stretch of this length is a pause between words; a shorter one may be inside a word."""
MAX_REACH = 40
"""The largest distance, in feature frames, between a certain frame of a word and its edge in the sound."""
WIDENING = 10
"""Beyond `MAX_REACH`, a word extends by this many feature frames from its certain frames instead."""
BACKGROUND_PERCENTILE = 1
"""Percentile of the levels that counts as background; in fluent speech little is quiet."""
SPEECH_PERCENTILE = 95
"""Percentile of the levels that counts as speech."""
QUIET_SHARE = 0.4
"""A frame is quiet below this share of the way, in dB, from the background to the speech."""


class Loudness(NamedTuple):
    """Smoothed levels (L,) of feature frames in dB, and whether each is quiet; `rate` frames per encoder frame."""

    levels: Floats
    quiet: NDArray[np.bool_]
    rate: int


def measure_loudness(levels: Floats, info: ModelInfo, num_frames: int) -> Loudness:
    """Return the loudness of an utterance.

    levels: (T,) of each feature frame in dB (`FbankConfig.levels`); num_frames: T', number of encoder frames.
    """
    rate = info.subsampling_rate
    if not num_frames:
        return Loudness(np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.bool_), rate)
    first = (info.right_context - rate + 1) // 2
    places = np.arange(first, first + rate * num_frames).clip(0, len(levels) - 1)
    padded = np.pad(levels, 1, mode="edge")
    smooth = ((padded[:-2] + padded[1:-1] + padded[2:]) / 3)[places]
    background, speech = _percentiles(smooth, [BACKGROUND_PERCENTILE, SPEECH_PERCENTILE])
    background = min(max(background, speech - 45), speech - 20)
    return Loudness(smooth, smooth < background + QUIET_SHARE * (speech - background), rate)


def _percentiles(values: Floats, percents: Sequence[float]) -> NDArray[np.float64]:
    """Return what `np.percentile` does. That imports numpy's masked arrays, which takes 20 ms."""
    places = np.array(percents) / 100 * (len(values) - 1)
    return np.interp(places, np.arange(len(values)), np.sort(values))


def join_loudness(parts: Sequence[Loudness]) -> Loudness:
    """Join the loudness of consecutive pieces; each keeps its own thresholds."""
    levels, quiet = (np.concatenate(rows) for rows in zip(*(part[:2] for part in parts), strict=True))
    return Loudness(levels, quiet, parts[0].rate)


def word_edges(certain: Sequence[tuple[int, int]], loudness: Loudness) -> list[tuple[float, float]]:
    """Return start and end of each word in frames of `loudness`; infinite at the ends of the sound.

    certain: for each word, the frames of `loudness` in which its first and its last token are certain.
    """
    if not certain:
        return []
    starts, ends = [], []
    num = len(loudness.quiet)
    (first, _), (_, last) = certain[0], certain[-1]
    pauses = list(_quiet_stretches(loudness.quiet, 0, first))
    start = max(_long(pauses), key=lambda one: one[1])[1] if pauses else -np.inf
    starts.append(start if first - max(start, 0) <= MAX_REACH else first - WIDENING)
    for (_, before), (after, _) in pairwise(certain):
        end, start = _between(before, after, loudness)
        ends.append(end)
        starts.append(start)
    pauses = list(_quiet_stretches(loudness.quiet, last, num - 1))
    end = _long(pauses)[0][0] if pauses else np.inf
    ends.append(end if min(end, num) - last <= MAX_REACH else last + WIDENING)
    return list(zip(starts, ends, strict=True))


def _between(before: int, after: int, loudness: Loudness) -> tuple[float, float]:
    """Return the end of a word that is certain up to `before`, and the start of the next, certain from `after` on."""
    pauses = _long(list(_quiet_stretches(loudness.quiet, before, after)))
    if not pauses:
        meeting = before + int(np.argmin(loudness.levels[before : after + 1]))
        return meeting, meeting
    end, start = pauses[0][0], pauses[-1][1]
    return (
        end if end - before <= MAX_REACH else before + WIDENING,
        start if after - start <= MAX_REACH else after - WIDENING,
    )


def _long(pauses: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the quiet stretches that are pauses; if there is none, the longest stretch."""
    return [one for one in pauses if one[1] - one[0] >= PAUSE] or sorted(pauses, key=lambda one: one[0] - one[1])[:1]


def _quiet_stretches(quiet: NDArray[np.bool_], begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (first frame, frame after the last) of the quiet stretches with a frame from `begin` to `end`."""
    # Frames beyond the reach of any edge make no difference.
    offset = max(0, begin - MAX_REACH - PAUSE)
    window = quiet[offset : end + MAX_REACH + PAUSE + 1]
    changes = np.flatnonzero(np.diff(np.concatenate([[False], window, [False]]))) + offset
    for first, after in zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True):
        if first <= end and after > begin and after - first >= MIN_QUIET:
            yield first, after
