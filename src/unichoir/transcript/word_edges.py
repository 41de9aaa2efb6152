"""Where words begin and end, which CTC does not say: it is certain of a token somewhere in it, for a frame or two.

Between the frames in which two neighbouring words are certain the sound decides: words reach to the quiet stretch
between them, or meet where it is least loud. Thresholds are relative to the loudness of the speech around.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unichoir.engine.backend import Floats, ModelInfo

MIN_QUIET = 6
"""Feature frames: a shorter stretch may be the closure of a plosive."""
PAUSE = 15
"""So long a stretch is a pause between words; shorter ones may lie in one of the two."""
MAX_REACH = 40
"""Feature frames between a certain frame of a word and its edge; beyond that the sound is not believed."""
WIDENING = 10
"""Then a word reaches so many feature frames beyond its certain frames."""
BACKGROUND_PERCENTILE = 1
"""Of levels: joined words leave little that is quiet."""
QUIET_SHARE = 0.4
"""What is quiet: so much of the way, in dB, from the background to the speech."""


class Loudness(NamedTuple):
    """Of feature frames, `rate` for each encoder frame: smoothed levels (L,) in dB, and which are quiet."""

    levels: Floats
    quiet: NDArray[np.bool_]
    rate: int


def measure_loudness(levels: Floats, info: ModelInfo, num_frames: int) -> Loudness:
    """levels: (T,) of each feature frame in dB (`FbankConfig.levels`); num_frames: T', how many encoder frames."""
    rate = info.subsampling_rate
    if not num_frames:
        return Loudness(np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.bool_), rate)
    first = (info.right_context - rate + 1) // 2
    places = np.arange(first, first + rate * num_frames).clip(0, len(levels) - 1)
    padded = np.pad(levels, 1, mode="edge")
    smooth = ((padded[:-2] + padded[1:-1] + padded[2:]) / 3)[places]
    background, speech = np.percentile(smooth, [BACKGROUND_PERCENTILE, 95])
    background = min(max(background, speech - 45), speech - 20)
    return Loudness(smooth, smooth < background + QUIET_SHARE * (speech - background), rate)


def join_loudness(parts: Sequence[Loudness]) -> Loudness:
    """Of consecutive encoder frames, each part judged by its own speech."""
    levels, quiet = (np.concatenate(rows) for rows in zip(*(part[:2] for part in parts), strict=True))
    return Loudness(levels, quiet, parts[0].rate)


def word_edges(certain: Sequence[tuple[int, int]], loudness: Loudness) -> list[tuple[float, float]]:
    """Where each word begins and ends, counted in frames of `loudness`; infinite at the ends of the sound.

    certain: frames of `loudness` in which the first and the last token of each word are certain.
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
    """The end of a word that is certain up to `before` and the start of the next, certain from `after`."""
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
    """The pauses between words among quiet stretches; where there is none the longest stretch."""
    return [one for one in pauses if one[1] - one[0] >= PAUSE] or sorted(pauses, key=lambda one: one[0] - one[1])[:1]


def _quiet_stretches(quiet: NDArray[np.bool_], begin: int, end: int) -> Iterator[tuple[int, int]]:
    """(first frame, frame after the last) of quiet stretches that have a frame from `begin` to `end`."""
    # What is farther away than any edge may be makes no difference.
    offset = max(0, begin - MAX_REACH - PAUSE)
    window = quiet[offset : end + MAX_REACH + PAUSE + 1]
    changes = np.flatnonzero(np.diff(np.concatenate([[False], window, [False]]))) + offset
    for first, after in zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True):
        if first <= end and after > begin and after - first >= MIN_QUIET:
            yield first, after
