"""Decoding MP3 and FLAC with miniaudio. Unlike libsndfile, it ignores lengths in headers and writes no messages.

It always decodes from the beginning, even for a later part: an hour of FLAC takes less than a second, an hour of MP3
several seconds.
"""

import re
from collections.abc import Generator
from typing import Any

import miniaudio
import numpy as np
from miniaudio import FileFormat, SampleFormat, SeekOrigin
from numpy.typing import NDArray

from unichoir.audio.decoders import BLOCK_FRAMES, FLAC, HEAD_BYTES, Section, after_tags

PART_BYTES, LAST_BYTES, XING_BYTES = 1 << 16, 1 << 13, 256
XING = re.compile(rb"(?:Xing|Info)\0\0\0.(?:.{133}(..))?", re.DOTALL)
"""The header in the first frame of MP3: the number of frames and, later, the encoder's delay."""
DECODER_DELAY = 529
"""Delay of every MP3 decoder, in samples."""


class Reader:
    """A file, or several concatenated ones, with the used part of soundfile.SoundFile's interface.

    Raises ValueError if it is damaged.
    """

    def __init__(self, file: Section) -> None:
        begin = after_tags(file, 0)
        head = file.at(begin, PART_BYTES)
        self._delay = 0
        place = head.find(FLAC, 0, HEAD_BYTES)
        if place >= 0:
            self._format, told = FileFormat.FLAC, int.from_bytes(head[place + 18 :][:8].ljust(8, b"\0"), "big")
            self.samplerate, self._channels, self.frames = told >> 44, (told >> 41 & 7) + 1, told & (1 << 36) - 1
        else:
            first, last = _mp3(head), _mp3(file.at(max(begin, file.size - LAST_BYTES), LAST_BYTES))
            if first is None:
                raise ValueError("damaged")
            if last is not None and first[:2] != last[:2]:
                raise ValueError("its rate or number of channels changes")
            self._format, (self.samplerate, self._channels, self.frames) = FileFormat.MP3, first
            # dr_mp3 would stop after the number of frames in the header, although other files may follow.
            if xing := XING.search(head[:XING_BYTES]):
                self._delay, begin = (int.from_bytes(xing[1] or b"", "big") >> 4) + DECODER_DELAY, begin + 4
        self._parts = self._read(Section(file, begin))

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *error: object) -> None:
        self._parts.close()

    def seek(self, frames: int) -> int:
        """Return the current position without moving."""
        return 0

    def read(self, frames: int, **options: Any) -> NDArray[np.float32]:
        """Return the next samples (N, channels), in decoder-sized blocks; none at the end."""
        return next(self._parts, np.zeros((0, self._channels), np.float32))

    def _read(self, section: Section) -> Generator[NDArray[np.float32], None, None]:
        options = (self._format, SampleFormat.FLOAT32, self._channels, self.samplerate, BLOCK_FRAMES)
        try:
            for values in miniaudio.stream_any(_Source(section), *options):
                samples = np.frombuffer(values, np.float32).reshape(-1, self._channels)[self._delay :]
                self._delay = 0
                yield samples
        except miniaudio.MiniaudioError:
            raise ValueError("damaged") from None


class _Source(miniaudio.StreamableSource):  # type: ignore[misc]
    """A section with the interface that miniaudio requires."""

    def __init__(self, section: Section) -> None:
        self._section = section

    def read(self, num_bytes: int) -> bytes:
        return self._section.read(num_bytes)

    def seek(self, offset: int, origin: SeekOrigin) -> bool:
        self._section.seek(offset, origin.value)
        return True


def _mp3(data: bytes) -> tuple[int, int, int] | None:
    """Return rate, channels and frames, from a header or else from the data."""
    try:
        info = miniaudio.mp3_get_info(data)
    except miniaudio.DecodeError:
        return None
    return info.sample_rate, info.nchannels, info.num_frames
