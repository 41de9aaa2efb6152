"""An uploaded recording, decoded while it is recognised. Small files can hold hours, which are never in memory."""

import threading
from collections.abc import Iterator
from typing import BinaryIO, cast

from unichoir.audio.io import Recording, Samples, open_recording
from unichoir.serving.uploads import UploadedFile

MAX_VALUES_PER_SECOND = 8 * 48_000
"""Most samples of all channels per allowed second. This limits the cost of decoding a recording."""


class Abandoned(Exception):
    """The recording is no longer wanted."""


class Sound:
    """One recording. max_seconds: longer ones are refused."""

    def __init__(self, file: UploadedFile, sample_rate: int, max_seconds: float) -> None:
        self.warnings: list[str] = []
        """Missing parts of the audio. Complete when all has been decoded."""
        self.seconds = 0.0
        """The duration: from the header (0 if unknown), and exact when all has been decoded."""
        self._file = file
        self._sample_rate = sample_rate
        self._max_seconds = max_seconds

    def blocks(self, stop: threading.Event) -> Iterator[Samples]:
        """Yield the samples in blocks (N,). Soon after `stop` is set, raises Abandoned or AudioError.

        Raises AudioTooLong and AudioError: at the beginning for a bad header, else where the fault is.
        """
        source = cast(BinaryIO, _Watched(self._file.source, stop))
        max_values = round(self._max_seconds * MAX_VALUES_PER_SECOND)
        with open_recording(source, self._file.name, max_seconds=self._max_seconds, max_values=max_values) as recording:
            self.seconds = recording.estimate()
            if self.seconds > self._max_seconds:  # refuse before recognition, but check: the header may be wrong
                for _ in self._decoded(recording, stop, []):
                    pass
            num_samples = 0
            for block in self._decoded(recording, stop, self.warnings):
                num_samples += len(block)
                yield block
            self.seconds = num_samples / self._sample_rate

    def _decoded(self, recording: Recording, stop: threading.Event, warnings: list[str]) -> Iterator[Samples]:
        for block in recording.blocks(self._sample_rate, warn=warnings.append, strict=False):
            if stop.is_set():
                raise Abandoned
            yield block


class _Watched:
    """A file that seems to end once `stop` is set. Some files make decoders read on without returning a block."""

    def __init__(self, file: BinaryIO, stop: threading.Event) -> None:
        self._file, self._stop = file, stop
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        return b"" if self._stop.is_set() else self._file.read(size)
