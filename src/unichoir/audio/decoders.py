"""Files to blocks of samples: PCM WAV here, all else by FFmpeg's libraries (`ffmpeg`) or, without them, libsndfile."""

import importlib.util
import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from unichoir.errors import AudioError

BLOCK_FRAMES = 1 << 16
UNKNOWN_LENGTH = 0x7F000000
"""Writers to a pipe put a number near the largest one for the length (sox 0x7f000000, ffmpeg 0xffffffff)."""
PLACEHOLDER = 2_000_000_000
HEADER_BYTES = 44
"""Some writers count their header as samples."""
MAX_BAD_LINKS = 100
"""Links of a chained Ogg, one after the other, in which nothing can be decoded: each costs time."""
MAX_CHUNKS = 10_000
"""Before the samples; a file of nothing but empty chunks is not gone through to its end."""
TRAILER_BYTES = 4096
"""Tags at the end of a file, which libsndfile leaves unread."""
SNDFILE_SLACK_SECONDS, UNKNOWN_SECONDS = 0.25, 1e12
"""MP3 decoders disagree about padding; a length that libsndfile does not know is near 2^63 frames."""
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE

Lost = Callable[[float, str], None]
"""Called with the place, in seconds, and in words what is missing there."""


@dataclass(frozen=True)
class Block:
    """A stretch of sound. Rate and number of channels may change from block to block."""

    samples: NDArray[np.float32]
    """(channels, N), nominally in [-1, 1]."""
    rate: int
    """In Hz."""
    time: float
    """When it begins, in seconds from the beginning of the recording."""

    @property
    def end(self) -> float:
        """When it ends, in seconds."""
        return self.time + int(self.samples.shape[1]) / self.rate


class Section:
    """The bytes of a file from `begin` to `end`, as a file without a name: a suffix is no reason to believe anything.

    begin, end: in bytes; None is the end of the file.
    """

    def __init__(self, file: BinaryIO, begin: int = 0, end: int | None = None) -> None:
        self._file = file
        self._begin = begin
        self._position = 0
        self.size = (file.seek(0, io.SEEK_END) if end is None else end) - begin

    def read(self, size: int = -1) -> bytes:
        """The next bytes, at most `size` of them."""
        left = max(0, self.size - self._position)
        self._file.seek(self._begin + self._position)
        data = self._file.read(left if size < 0 else min(size, left))
        self._position += len(data)
        return data

    def readinto(self, buffer: memoryview) -> int:
        """As libsndfile wants it."""
        data = self.read(len(buffer))
        memoryview(buffer).cast("B")[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go on elsewhere; returns where."""
        self._position = max(0, offset + (0, self._position, self.size)[whence])
        return self._position

    def tell(self) -> int:
        """Where the next bytes are."""
        return self._position

    def at(self, position: int, size: int) -> bytes:
        """At most `size` bytes from `position` on."""
        self.seek(position)
        return self.read(size)


def decode(file: BinaryIO, start: float, lost: Lost) -> Iterator[Block]:
    """The sound of a file that can be gone back in, from `start`, in seconds, or from somewhat earlier.

    Raises AudioError, which does not name the file, where there is nothing that can be decoded.
    """
    whole = Section(file)
    if not whole.size:
        raise AudioError("the file is empty")
    wav = _find_pcm(whole)
    if wav is not None:
        yield from wav.blocks(whole, start, lost)
        return
    ends, is_cut = _ogg_links(whole) if whole.at(0, 4) == b"OggS" else ([whole.size], False)
    begin, time, bad = 0, 0.0, 0
    for end in ends:
        section = Section(file, begin, end)
        found = _decode(section, start if len(ends) == 1 else 0.0, partial(_lost_later, lost, time))
        shift = time
        try:
            for block in found:
                yield replace(block, time=shift + block.time)
                time, bad = shift + block.end, 0
        except AudioError as error:
            if not time:
                raise
            lost(time, f"damaged at {time:.3f} s: {error}")
            bad += 1
            if bad > MAX_BAD_LINKS:
                break
        begin = end
    if is_cut:
        lost(time, f"truncated: the last page of its Ogg is cut, the audio ends at {time:.3f} s")


def header_seconds(file: BinaryIO) -> float | None:
    """The length as the header tells it, for progress only; None where it tells none."""
    whole = Section(file)
    wav = _find_pcm(whole)
    if wav is not None:
        return wav.size / wav.width / wav.rate
    whole.seek(0)
    if has_ffmpeg():
        from unichoir.audio import ffmpeg

        return ffmpeg.header_seconds(whole)
    try:
        with soundfile.SoundFile(whole) as sound:
            return float(sound.frames / sound.samplerate)
    except (TypeError, soundfile.SoundFileError):
        return None


def has_ffmpeg() -> bool:
    """Whether PyAV is installed, the extra `av`."""
    return importlib.util.find_spec("av") is not None


def _lost_later(lost: Lost, seconds: float, place: float, what: str) -> None:
    lost(seconds + place, what)


def _decode(section: Section, start: float, lost: Lost) -> Iterator[Block]:
    if not has_ffmpeg():
        return _sndfile_blocks(section, start, lost)
    from unichoir.audio import ffmpeg

    return ffmpeg.blocks(section, start, lost)


@dataclass(frozen=True)
class _Wav:
    """Where the samples of a PCM WAV are. Header and file may disagree: then the file counts."""

    begin: int
    size: int
    """Bytes that there are."""
    missing: int
    """Bytes that the header promises beyond them."""
    rate: int
    channels: int
    dtype: str
    width: int
    """Bytes of a frame."""

    def blocks(self, file: Section, start: float, lost: Lost) -> Iterator[Block]:
        frames, first = self.size // self.width, int(start * self.rate)
        for place in range(first, frames, BLOCK_FRAMES):
            count = min(BLOCK_FRAMES, frames - place)
            data = file.at(self.begin + place * self.width, count * self.width)
            yield Block(self._floats(data), self.rate, place / self.rate)
        if self.missing > HEADER_BYTES:
            found, promised = frames / self.rate, (self.size + self.missing) / self.width / self.rate
            lost(found, truncated(found, promised))

    def _floats(self, data: bytes) -> NDArray[np.float32]:
        """(channels, N)"""
        if self.dtype == "i3":  # to 32 bits, the lowest byte zero
            wide = np.zeros((len(data) // 3, 4), np.uint8)
            wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
            values: NDArray[Any] = wide.view("<i4")[:, 0]
        else:
            values = np.frombuffer(data, "<" + self.dtype)
        return to_float(values.reshape(-1, self.channels).T)


def to_float(values: NDArray[Any]) -> NDArray[np.float32]:
    """Integers of any width, uint8 around 128, or floats, to floats in [-1, 1], in the order of C; the shape stays."""
    with np.errstate(over="ignore"):  # what is not finite, `io` finds
        floats: NDArray[np.float32] = values.astype(np.float32, order="C", copy=False)
    if values.dtype == np.uint8:
        floats -= np.float32(128)
        floats /= np.float32(128)
    elif values.dtype.kind == "i":
        floats *= np.float32(-1 / float(np.iinfo(values.dtype).min))  # exact: a power of two
    return floats


def truncated(found: float, promised: float) -> str:
    """In words, that so many seconds were found of those that a header promises."""
    return f"truncated: the audio ends at {found:.3f} s of {promised:.3f} s"


_DTYPES = {(PCM, 8): "u1", (PCM, 16): "i2", (PCM, 24): "i3", (PCM, 32): "i4", (FLOAT, 32): "f4", (FLOAT, 64): "f8"}


def _find_pcm(file: Section) -> _Wav | None:
    """None for what is no WAV, or a WAV of compressed samples."""
    head = file.at(0, 12)
    if head[:4] not in (b"RIFF", b"RF64") or head[8:] != b"WAVE":
        return None
    position, form, told = 12, None, None
    for _ in range(MAX_CHUNKS):
        header = file.at(position, 8)
        if len(header) < 8:
            return None
        name, size = struct.unpack("<4sI", header)
        position += 8
        if name == b"ds64":  # of WAV beyond 4 GB (EBU Tech 3306)
            told = int.from_bytes(file.read(16)[8:], "little")
        elif name == b"fmt ":
            form = file.read(min(size, 40))
        elif name == b"data":
            return None if form is None else _pcm(form, position, size if told is None else told, file.size, told)
        position += size + size % 2
    return None


def _pcm(form: bytes, begin: int, promised: int, file_size: int, told: int | None) -> _Wav | None:
    if len(form) < 16:
        return None
    tag, channels, rate, _, width, bits = struct.unpack_from("<HHIIHH", form)
    if tag == EXTENSIBLE and len(form) >= 26:
        tag = int.from_bytes(form[24:26], "little")
    dtype = _DTYPES.get((tag, bits))
    if dtype is None or not channels or width != channels * bits // 8 or not rate:
        return None
    found = max(0, file_size - begin)
    is_unknown = (
        promised < width or promised == PLACEHOLDER or promised >= (UNKNOWN_LENGTH if told is None else 1 << 60)
    )
    size = found if is_unknown else min(found, promised)
    missing = 0 if is_unknown else max(0, promised - found)
    return _Wav(begin, size, missing, rate, channels, dtype, width)


def _ogg_links(file: Section) -> tuple[list[int], bool]:
    """Where the links of a chained Ogg end, each a recording of its own (RFC 3533), and if the last page is cut.

    An Ogg that stops between two pages is whole: a live recording has no page marked as the last.
    """
    ends: list[int] = []
    position, was_first = 0, True
    while position < file.size:
        header = file.at(position, 27).ljust(27, b"\0")
        if header[:4] != b"OggS":
            found = _find_page(file, position)
            if found is None:
                break
            position = found
            continue
        is_first = bool(header[5] & 2)
        if is_first and not was_first:
            ends.append(position)
        was_first = is_first
        position += 27 + header[26] + sum(file.read(header[26]))
    return [*ends, file.size], position > file.size


def _find_page(file: Section, position: int) -> int | None:
    while data := file.at(position, BLOCK_FRAMES):
        found = data.find(b"OggS", 1)
        if found >= 0:
            return position + found
        position += max(1, len(data) - 4)
    return None


def _sndfile_blocks(file: Section, start: float, lost: Lost) -> Iterator[Block]:
    """What libsndfile reads of WAV, FLAC, Ogg, MP3 and others. It knows little of damage, but where it has stopped."""
    file.seek(0)
    place = 0.0
    try:
        with soundfile.SoundFile(file) as sound:
            rate, promised = sound.samplerate, sound.frames / sound.samplerate
            position = sound.seek(min(int(start * rate), sound.frames)) if start else 0
            while len(samples := sound.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):
                yield Block(samples.T, rate, position / rate)
                position += len(samples)
                place = position / rate
            rest = file.size - file.tell()
            if place + SNDFILE_SLACK_SECONDS < promised < UNKNOWN_SECONDS:
                lost(place, truncated(place, promised))
            elif rest > TRAILER_BYTES:
                lost(place, f"{rest} bytes are not read: pip install 'unichoir[av]' reads more")
    except (TypeError, OSError, soundfile.SoundFileError) as error:
        reason = str(getattr(error, "error_string", error)).strip().rstrip(".")
        if not place:
            raise AudioError(f"cannot be decoded ({reason}); pip install 'unichoir[av]' reads more kinds") from None
        lost(place, f"damaged: nothing is found after {place:.3f} s; pip install 'unichoir[av]' reads more")
