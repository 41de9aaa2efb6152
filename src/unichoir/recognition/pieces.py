"""The pieces of a recording, and the batches in which they are recognised."""

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice, zip_longest
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from unichoir.audio.vad import SileroDetector, silero_is_installed
from unichoir.engine.backend import Floats
from unichoir.recognition.options import DecodingOptions
from unichoir.recognition.segmentation import Piece, Segmenter, VoiceActivityDetector
from unichoir.transcript.timing import FrameClock

BLOCK_SECONDS = 5.0
"""Detectors process blocks of this length, so other work in the same thread never waits longer."""
BATCH_SECONDS = 80.0
"""The most padded audio in one batch; this limits memory."""
BATCH_PIECES = 8
"""The most pieces in one batch; larger batches are not faster (docs/results/long-recordings.md)."""
GROUP_PIECES = 32
"""This many pieces are sorted by length before they are batched, to reduce padding."""
WINDOW_SECONDS, CONTEXT_SECONDS = 10.0, 1.0
"""Audio that the CTC detector classifies at a time, and the context before and after it."""
REACH_SECONDS = 0.12
"""CTC is certain of a token in only a frame or two; this much around them also counts as speech."""

Row = TypeVar("Row")


def find_pieces(
    blocks: Iterable[NDArray[np.float32]],
    sample_rate: int,
    options: DecodingOptions,
    ctc_detector: Callable[[], VoiceActivityDetector],
) -> Iterator[Piece]:
    """Yield the pieces of a recording in `blocks` (N,), from its beginning to its end, without gaps.

    With `auto`, a recording that is not longer than a segment is one piece. Raises UnichoirError for `silero` if it is
    not installed.
    """
    limit, vad = options.max_segment_seconds, options.vad
    blocks = _cut_blocks(blocks, int(BLOCK_SECONDS * sample_rate))
    if vad == "auto":
        if limit is None:
            vad = "none"
        else:
            begin = list(islice(blocks, int(limit / BLOCK_SECONDS) + 1))
            vad = "silero" if silero_is_installed() else "ctc"
            blocks = chain(begin, blocks)
            if sum(map(len, begin)) <= int(limit * sample_rate):
                vad = "none"
    detector = None
    if vad != "none":
        detector = SileroDetector(sample_rate) if vad == "silero" else ctc_detector()
    segmenter = Segmenter(sample_rate, options.vad_options, limit, detector)
    for block in blocks:
        yield from segmenter.process(block)
    yield from segmenter.process(np.zeros(0, dtype=np.float32), last=True)


def _cut_blocks(blocks: Iterable[NDArray[np.float32]], size: int) -> Iterator[NDArray[np.float32]]:
    """Yield the same audio in blocks of `size`; the last one may be shorter."""
    rest = np.zeros(0, dtype=np.float32)
    for block in blocks:
        rest = np.concatenate([rest, block])
        for start in range(0, len(rest) - size + 1, size):
            yield rest[start : start + size]
        rest = rest[len(rest) // size * size :]
    if len(rest):
        yield rest


def take_turns(sources: Iterable[Iterable[Row]]) -> Iterator[tuple[int, Row]]:
    """Yield one row of each source in rotation, with the number of its source."""
    for rows in zip_longest(*sources):
        yield from ((place, row) for place, row in enumerate(rows) if row is not None)


def batched_by_length(pieces: Iterable[tuple[int, Piece]], sample_rate: int) -> Iterator[list[tuple[int, Piece]]]:
    """Yield pieces of numbered recordings in batches of similar length; pieces without speech one by one."""
    group: list[tuple[int, Piece]] = []
    for place, piece in pieces:
        if piece.samples is None:
            yield [(place, piece)]
            continue
        group.append((place, piece))
        if len(group) == GROUP_PIECES:
            yield from _batches(group, BATCH_SECONDS * sample_rate)
            group = []
    yield from _batches(group, BATCH_SECONDS * sample_rate)


def _batches(group: list[tuple[int, Piece]], max_samples: float) -> Iterator[list[tuple[int, Piece]]]:
    batch: list[tuple[int, Piece]] = []
    for place, piece in sorted(group, key=lambda row: row[1].end - row[1].start):
        # A batch is padded to the length of its last piece, the longest.
        if batch and (len(batch) == BATCH_PIECES or (len(batch) + 1) * (piece.end - piece.start) > max_samples):
            yield batch
            batch = []
        batch.append((place, piece))
    if batch:
        yield batch


class CtcDetector:
    """A voice activity detector that uses the model's own CTC: frames of blank are not speech.

    It encodes windows of `WINDOW_SECONDS` with `CONTEXT_SECONDS` on both sides. A hop is one encoder frame.

    clock: the times of encoder frames; log_probs: returns the CTC log-probabilities (T', V) of samples (N,) at
    `sample_rate`.
    """

    def __init__(
        self,
        clock: FrameClock,
        sample_rate: int,
        blank_id: int,
        log_probs: Callable[[NDArray[np.float32]], Floats],
    ) -> None:
        self.hop_seconds = clock.step_ms / 1000
        self._window_hops, self._context_hops, self._reach_hops = (
            max(1, round(seconds / self.hop_seconds)) for seconds in (WINDOW_SECONDS, CONTEXT_SECONDS, REACH_SECONDS)
        )
        self._rate = sample_rate
        self._blank_id = blank_id
        self._log_probs = log_probs
        # Frame 0 begins this many samples after the start of the audio; before it if there are lead frames.
        self._lead = round(clock.first_ms * sample_rate / 1000)
        # Hops at the beginning of `_audio` that are already classified, or that begin before the audio.
        self._context = max(0, math.ceil(-clock.first_ms / clock.step_ms))
        self._audio = np.zeros(self._lead + self._samples(self._context), dtype=np.float32)

    def process(self, samples: NDArray[np.float32], last: bool = False) -> NDArray[np.float32]:
        """Return the probabilities (H,) of the hops known after `samples` (N,); after the `last`, of all hops."""
        self._audio = np.concatenate([self._audio, samples])
        width = self._samples(self._window_hops + self._context_hops)
        found = [np.zeros(0, dtype=np.float32)]
        while len(self._audio) >= self._samples(self._context) + width:
            found.append(self._judge(self._window_hops))
        if last:
            while (left := self._hops_left()) > 0:
                found.append(self._judge(min(left, self._window_hops)))
        return np.concatenate(found)

    def _judge(self, num_hops: int) -> NDArray[np.float32]:
        """Return the probabilities of the next hops; drop their audio except the context of later hops."""
        context, end = self._context, self._context + num_hops
        window = self._audio[: self._samples(end + self._context_hops)]
        # Padding, so that the last frames are complete.
        silence = np.zeros(self._samples(self._context_hops), dtype=np.float32)
        speech = 1 - np.exp(self._log_probs(np.concatenate([window, silence]))[:, self._blank_id])
        around = np.pad(speech, self._reach_hops)
        reached = np.lib.stride_tricks.sliding_window_view(around, 2 * self._reach_hops + 1).max(axis=1)
        self._context = min(end, self._context_hops)
        self._audio = self._audio[self._samples(end - self._context) :]
        found: NDArray[np.float32] = reached[context:end].astype(np.float32)
        return found

    def _hops_left(self) -> int:
        left = len(self._audio) - self._lead - self._samples(self._context)
        return -(-left // self._samples(1))

    def _samples(self, num_hops: int) -> int:
        return round(num_hops * self.hop_seconds * self._rate)
