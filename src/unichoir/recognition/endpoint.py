"""The end of an utterance in a stream: WeNet's rules for the CTC blank, frame by frame."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unichoir.recognition.options import EndpointRules


class EndpointDetector:
    """Tracks silence and length of one utterance.

    frame_ms: length of an encoder frame.
    """

    def __init__(self, rules: EndpointRules, frame_ms: float) -> None:
        self._blank_threshold = rules.blank_threshold
        # In frames. Round first: 0.28 s are 7 frames of 40 ms, but the quotient is slightly more than 7.
        self._before_speech, self._after_speech, self._longest = (
            None if seconds is None else math.ceil(round(1000 * seconds / frame_ms, 6))
            for seconds in (rules.silence_before_speech, rules.silence_after_speech, rules.max_utterance)
        )
        self._silent: list[bool] = []
        self._trailing = 0

    @property
    def is_too_long(self) -> bool:
        """Whether the utterance has reached the maximum length."""
        return self._longest is not None and len(self._silent) >= self._longest

    def advance(self, blank_probability: float, has_words: bool) -> bool:
        """Process one frame; return whether it ends the utterance. has_words: something was recognised so far."""
        is_silent = blank_probability > self._blank_threshold
        self._silent.append(is_silent)
        self._trailing = self._trailing + 1 if is_silent else 0
        limit = self._after_speech if has_words else self._before_speech
        return self.is_too_long or (limit is not None and self._trailing >= limit)

    def longest_pause(self) -> int:
        """Return the number of frames up to the middle of the longest silence in the second half.

        On a tie, the last silence counts. Without any silence there, return the number of all frames.
        """
        silent: NDArray[Any] = np.array(self._silent, dtype=np.int8)
        half = len(silent) // 2
        edges = np.diff(np.concatenate([[0], silent[half:], [0]]))
        starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        if not len(starts):
            return len(silent)
        longest = int((ends - starts)[::-1].argmax())
        start, end = int(starts[::-1][longest]), int(ends[::-1][longest])
        return half + end if end == len(silent) - half else half + (start + end + 1) // 2
