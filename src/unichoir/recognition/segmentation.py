"""Cut long recordings into pieces.

Attention over a whole recording takes time and memory with the square of its length, and models are trained on
utterances of a few seconds. Audio beyond a limit is therefore cut: at pauses that a voice activity detector finds or,
in speech without pauses, where a cut is least likely to hit a word. Pieces have no gaps and no overlaps. Pieces without
speech are marked; the others are recognised independently.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from unichoir.recognition.vad_options import VadOptions

HOP_SECONDS = 0.01
QUIET_HOPS = 21
"""The minimum length of a quiet place, in hops: shorter than a pause between words, longer than the closure of a
plosive."""


class VoiceActivityDetector(Protocol):
    """Gives the probability of speech, hop by hop, for one recording."""

    @property
    def hop_seconds(self) -> float:
        """Length of a hop."""

    def process(self, samples: NDArray[np.float32], last: bool = False) -> NDArray[np.float32]:
        """Return the probabilities (H,) of the hops known after `samples` (N,); after the `last`, of all hops."""


@dataclass(frozen=True)
class Piece:
    """A recording from sample `start` to sample `end`; `samples` (end - start,), or None if there is no speech."""

    start: int
    end: int
    samples: NDArray[np.float32] | None


class Segmenter:
    """Cuts audio that arrives in blocks into consecutive pieces of at most `max_seconds` (None: no limit).

    detector: None: all audio is speech. The sizes of blocks do not affect where speech is and how it is cut; silence is
    reported as soon as it is known. The segmenter keeps at most 1.5 times the longest piece of audio, and the last
    block.
    """

    def __init__(
        self, sample_rate: int, options: VadOptions, max_seconds: float | None, detector: VoiceActivityDetector | None
    ) -> None:
        self._rate = sample_rate
        self._options = options
        self._limit = None if max_seconds is None else int(max_seconds * sample_rate)
        self._detector = detector
        self._hop = HOP_SECONDS if detector is None else detector.hop_seconds
        self._pad = round(options.speech_pad_seconds * sample_rate)
        self._audio = np.zeros(0, dtype=np.float32)
        self._start = 0  # in samples: the start of the next piece and of `_audio`
        self._num_hops = 0
        self._quiet: list[bool] = []  # of the last hops: below the threshold even with hysteresis
        self._in_speech = detector is None
        self._num_loud = 0
        self._last_loud = 0  # the hop after the last one of the speech

    def process(self, samples: NDArray[np.float32], last: bool = False) -> Iterator[Piece]:
        """Yield the pieces that are known after the next samples (N,); `last`: the input ends here."""
        self._audio = np.concatenate([self._audio, samples])
        heard = self._start + len(self._audio)
        if self._detector is None:
            yield from self._cut(heard, is_whole=last)
        else:
            for probability in self._detector.process(samples, last):
                yield from self._hear(float(probability), heard)
        if not last:
            if not self._in_speech:
                yield from self._silence(self._position(self._num_hops) - self._pad)
            return
        if self._in_speech:
            yield from self._close(heard)
        yield from self._silence(heard)

    def _hear(self, probability: float, heard: int) -> Iterator[Piece]:
        """Process one more hop, which ends at sample `heard` at the latest."""
        options = self._options
        begin, end = self._position(self._num_hops), min(self._position(self._num_hops + 1), heard)
        self._num_hops += 1
        self._quiet.append(probability < options.threshold - options.hysteresis)
        if not self._in_speech:
            if probability < options.threshold:
                del self._quiet[:]
                return
            yield from self._silence(begin - self._pad)
            self._in_speech, self._num_loud = True, 0
        self._num_loud += probability >= options.threshold
        if not self._quiet[-1]:
            self._last_loud = self._num_hops
        if end - self._position(self._last_loud) >= options.min_silence_seconds * self._rate:
            yield from self._close(end)
        else:
            yield from self._cut(end, is_whole=False)

    def _close(self, heard: int) -> Iterator[Piece]:
        """End the speech, which is known up to `heard`."""
        if self._detector is not None:
            heard = min(self._position(self._last_loud) + self._pad, heard)
        if self._detector is None or self._num_loud * self._hop >= self._options.min_speech_seconds:
            yield from self._cut(heard, is_whole=True)
            if heard > self._start:
                yield self._take(heard, is_speech=True)
        self._in_speech = False
        del self._quiet[:]

    def _silence(self, end: int) -> Iterator[Piece]:
        """Yield a piece without speech up to `end`."""
        if end > self._start:
            yield self._take(end, is_speech=False)

    def _cut(self, end: int, is_whole: bool) -> Iterator[Piece]:
        """Yield the pieces to cut off from the speech, which is known up to `end`; is_whole: it ends there."""
        # Half a limit of the following audio decides where to cut; later audio makes no difference.
        while self._limit is not None and end - self._start > (self._limit if is_whole else self._limit * 3 // 2):
            left = end - self._start
            earliest = min(max(left - self._limit, self._limit // 4), self._limit // 2)
            latest = min(self._limit, left - self._limit // 4)
            pause = self._longest_pause(earliest, latest)
            if pause is None:
                pause = _quietest(self._audio[: self._limit], self._rate, earliest, latest)
            yield self._take(self._start + pause, is_speech=True)

    def _longest_pause(self, earliest: int, latest: int) -> int | None:
        """Return the middle of the longest quiet run between these samples after the start; None without one."""
        best, begin, first_hop = (0, 0), None, self._num_hops - len(self._quiet)
        for hop, is_quiet in enumerate([*self._quiet, False], first_hop):
            place = self._position(hop) - self._start
            if is_quiet and earliest <= place and self._position(hop + 1) - self._start <= latest:
                begin = place if begin is None else begin
            elif begin is not None:
                best, begin = max(best, (place - begin, -begin)), None
        length, begin = best
        return length // 2 - begin if length else None

    def _take(self, end: int, is_speech: bool) -> Piece:
        """Return the piece up to `end`; the next piece begins there."""
        length = end - self._start
        piece = Piece(self._start, end, self._audio[:length].copy() if is_speech else None)
        self._audio, self._start = self._audio[length:].copy(), end
        return piece

    def _position(self, hop: int) -> int:
        return round(hop * self._hop * self._rate)


def _quietest(window: NDArray[np.float32], sample_rate: int, earliest: int, latest: int) -> int:
    """Return the quietest sample from `earliest` to `latest`; on a tie, the middle one."""
    hop = int(HOP_SECONDS * sample_rate)
    first, last = -(-earliest // hop), latest // hop
    energy = np.square(window[: len(window) // hop * hop].reshape(-1, hop), dtype=np.float64).sum(axis=1)
    # Audio beyond the window is unknown and counts as loud.
    loud = np.full(QUIET_HOPS // 2, energy.max())
    around = np.convolve(np.concatenate([loud, energy, loud]), np.ones(QUIET_HOPS), mode="valid")[first:last]
    ties = np.flatnonzero(around == around.min())
    return (first + int(ties[len(ties) // 2])) * hop + hop // 2
