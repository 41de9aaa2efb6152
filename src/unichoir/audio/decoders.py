"""Detection of file formats and the interface of all decoders, with decoders for WAV and chained Ogg."""

import importlib.util
import io
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from unichoir.errors import AudioError

BLOCK_FRAMES = 1 << 16
BLOCK_BYTES = 1 << 20
UNKNOWN_LENGTH = 0x7F000000
"""Programs that write to a pipe use a number near the maximum as the length (sox 0x7f000000, ffmpeg 0xffffffff)."""
PLACEHOLDER = 2_000_000_000
HEADER_BYTES = 44
"""Some programs count their header as samples."""
MAX_BAD_LINKS = 100
"""Maximum number of consecutive undecodable links in a chained Ogg, because each takes time."""
MAX_CHUNKS = 10_000
"""Maximum number of chunks before the samples, which limits files of empty chunks."""
TRAILER_BYTES = 4096
"""Size of tags at the end of a file, which libsndfile leaves unread."""
SLACK_SECONDS = 0.05
"""Tolerance for lengths, because decoders disagree about the padding of the last frame."""
ERRORS = (TypeError, ValueError, OverflowError, OSError, soundfile.SoundFileError)
MP3, EXTENSIBLE = 0x55, 0xFFFE
SUBTYPES = {(1, 8): "PCM_U8", (3, 32): "FLOAT", (3, 64): "DOUBLE", (6, 8): "ALAW", (7, 8): "ULAW"}
SUBTYPES |= {(1, bits): f"PCM_{bits}" for bits in (16, 24, 32)}
"""libsndfile's name for a WAV's format tag and bits."""
MPEG = re.compile(rb"\xff[\xe2-\xe7\xea-\xef\xf2-\xf7\xfa-\xff]")
FLAC, HEAD_BYTES = b"fLaC", 64
"""The first bytes of FLAC, or of the second packet of its first page in an Ogg."""
FIRST_PAGE, MAX_PAGE_BYTES = re.compile(rb"OggS\0[\2\3\6\7]"), 65_307


@dataclass(frozen=True)
class Block:
    """A block of audio. Sample rate and number of channels may change from block to block."""

    samples: NDArray[np.float32]
    """(channels, N), nominally in [-1, 1]."""
    rate: int
    """Sample rate in Hz."""
    time: float
    """Start time in seconds from the beginning of the recording."""

    @property
    def end(self) -> float:
        """End time in seconds."""
        return self.time + int(self.samples.shape[1]) / self.rate

    def later(self, seconds: float) -> "Block":
        """Return the same block, `seconds` later."""
        return replace(self, time=self.time + seconds)


@dataclass(frozen=True)
class Loss:
    """A report of missing audio."""

    what: str
    """Message with a placeholder for `time` and optionally one for `end`."""
    time: float
    """Start time in seconds from the beginning of the recording."""
    end: float = 0.0
    """Second time of the message, in seconds."""

    def __str__(self) -> str:
        return self.what.format(self.time, self.end)

    def later(self, seconds: float) -> "Loss":
        """Return the same loss, `seconds` later."""
        return replace(self, time=self.time + seconds, end=self.end + seconds)


MORE_KINDS = "pip install 'unichoir[av]' reads more formats"
TRUNCATED = "truncated: the audio ends at {:.3f} s of {:.3f} s"
DAMAGED = "damaged at {:.3f} s"
NO_END = "damaged: no audio is found after {:.3f} s"


def to_float(values: NDArray[Any]) -> NDArray[np.float32]:
    """Convert integers of any width (uint8 around 128) or floats to C-ordered floats in [-1, 1]. The shape is kept."""
    with np.errstate(over="ignore"):  # `io` detects values that are not finite
        floats: NDArray[np.float32] = values.astype(np.float32, order="C", copy=False)
    if values.dtype == np.uint8:
        floats -= np.float32(128)
        floats /= np.float32(128)
    elif values.dtype.kind == "i":
        floats *= np.float32(-1 / float(np.iinfo(values.dtype).min))  # exact: a power of two
    return floats


class Sound(NamedTuple):
    """The audio of a file or an array: functions of the decoder that was chosen for it."""

    blocks: Callable[[float], Iterator[Block | Loss]]
    """Decodes from a time in seconds or somewhat earlier, and reports losses when it notices them.

    Raises AudioError, without the name of the file, if nothing can be decoded.
    """
    seconds: Callable[[], float | None]
    """Returns the length that the header states, for progress only; None if it states none."""


class Section:
    """The bytes `begin` to `end` of a file, as a file without a name, so decoders don't rely on its suffix.

    begin, end: in bytes; None is the end of the file.
    """

    def __init__(self, file: "BinaryIO | Section", begin: int = 0, end: int | None = None) -> None:
        self._file = file
        self._begin = begin
        self._position = 0
        self.size = (file.seek(0, io.SEEK_END) if end is None else end) - begin

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, at most `size`."""
        left = max(0, self.size - self._position)
        self._file.seek(self._begin + self._position)
        data = self._file.read(left if size < 0 else min(size, left))
        self._position += len(data)
        return data

    def readinto(self, buffer: memoryview) -> int:
        """Fill a buffer, as libsndfile requires."""
        data = self.read(len(buffer))
        memoryview(buffer).cast("B")[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to another position and return it."""
        self._position = max(0, offset + (0, self._position, self.size)[whence])
        return self._position

    def tell(self) -> int:
        """Return the position of the next byte."""
        return self._position

    def at(self, position: int, size: int) -> bytes:
        """Return at most `size` bytes from `position` on."""
        self.seek(position)
        return self.read(size)


def has(library: str) -> bool:
    """Return whether a library is installed."""
    return importlib.util.find_spec(library) is not None


def open_sound(file: BinaryIO) -> Sound:
    """Choose the decoder of a seekable file. Raises AudioError for an empty file."""
    whole = Section(file)
    if not whole.size:
        raise AudioError("the file is empty")
    return _wav(whole) or _ogg(whole) or _library(whole)


def _library(file: Section) -> Sound:
    """Decode everything but PCM with FFmpeg's libraries or, without them, with miniaudio and libsndfile.

    MP3 never goes to libsndfile, which trusts the length in headers and writes to standard error.
    """
    if has("av"):
        from unichoir.audio import ffmpeg

        return Sound(partial(ffmpeg.blocks, file), partial(ffmpeg.seconds, file))
    head = file.at(after_tags(file, 0), HEAD_BYTES)
    if (FLAC in head or MPEG.match(head)) and has("miniaudio"):
        from unichoir.audio.miniature import Reader

        return _plain(partial(Reader, file), file)
    if MPEG.match(head):
        raise AudioError(f"cannot be decoded (MP3); {MORE_KINDS}")
    return _plain(partial(soundfile.SoundFile, file), file)


def _plain(opened: Callable[[], Any], file: Section, promised: float | None = None) -> Sound:
    """Use a decoder that can't report damage except for the place where it stopped.

    opened: makes a soundfile.SoundFile or a compatible object. promised: the expected seconds; None if the decoder
    knows.
    """
    return Sound(partial(_plain_blocks, opened, file, promised), partial(_plain_seconds, opened, file))


def _plain_seconds(opened: Callable[[], Any], file: Section) -> float | None:
    try:
        file.seek(0)
        with opened() as sound:
            return float(sound.frames / sound.samplerate)
    except ERRORS:
        return None


def _plain_blocks(
    opened: Callable[[], Any], file: Section, promised: float | None, start: float
) -> Iterator[Block | Loss]:
    place = 0.0
    try:
        file.seek(0)
        with opened() as sound:
            rate = sound.samplerate
            position = sound.seek(min(int(start * rate), sound.frames)) if start else 0
            while len(samples := sound.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):
                # Channels are contiguous, because numpy computes the mean of this layout in a sixth of the time.
                yield Block(np.ascontiguousarray(samples.T), rate, position / rate)
                position += len(samples)
                place = position / rate
            told = sound.frames / rate - SLACK_SECONDS if promised is None else promised
            rest = file.size - file.tell()
        if place < told:
            yield Loss(TRUNCATED, place, promised or sound.frames / rate)
        elif rest > TRAILER_BYTES:
            yield Loss(f"{rest} bytes are not read: pip install 'unichoir[av]' reads more", place)
    except ERRORS as error:
        if not place:
            reason = str(getattr(error, "error_string", error)).strip().rstrip(".")
            raise AudioError(f"cannot be decoded ({reason}); {MORE_KINDS}") from None
        yield Loss(f"{NO_END}; pip install 'unichoir[av]' reads more", place)


def after_tags(file: Section, position: int) -> int:
    """Return the end of the ID3 tags at `position`, which precede MP3."""
    while (head := file.at(position, 10))[:3] == b"ID3" and len(head) == 10:
        position += 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    return position


def _wav(file: Section) -> Sound | None:
    """Decode PCM in WAV. Returns None for other files.

    If header and file disagree about the length, the file decides.
    """
    head = file.at(0, 12)
    if head[:4] not in (b"RIFF", b"RF64") or head[8:] != b"WAVE":
        return None
    position, form, told = 12, b"", None
    for _ in range(MAX_CHUNKS):
        name, size = struct.unpack("<4sI", file.at(position, 8).ljust(8, b"\0"))
        position += 8
        if name == b"ds64":  # for WAV beyond 4 GB (EBU Tech 3306)
            told = int.from_bytes(file.read(16)[8:], "little")
        elif name == b"fmt ":
            form = file.read(min(size, 40))
        elif name == b"data" or position > file.size:
            break
        position += size + size % 2
    if name != b"data" or len(form) < 16:
        return None
    tag, channels, rate, _, width, bits = struct.unpack_from("<HHIIHH", form)
    if tag == EXTENSIBLE and len(form) >= 26:
        tag = int.from_bytes(form[24:26], "little")
    found, promised = max(0, file.size - position), size if told is None else told
    unknown = UNKNOWN_LENGTH if told is None else 1 << 60
    is_unknown = promised < width or promised == PLACEHOLDER or promised >= unknown
    samples = Section(file, position, position + (found if is_unknown else min(found, promised)))
    if tag == MP3:
        return _library(samples)
    subtype = SUBTYPES.get((tag, bits))
    if subtype is None or not channels or width != channels * bits // 8 or not rate:
        return None
    is_cut = not is_unknown and promised - found > HEADER_BYTES
    options = {"format": "RAW", "subtype": subtype, "endian": "LITTLE", "samplerate": rate, "channels": channels}
    return _plain(partial(soundfile.SoundFile, samples, **options), samples, promised / width / rate if is_cut else 0.0)


def _ogg(file: Section) -> Sound | None:
    """Decode an Ogg. Returns None for other files."""
    return Sound(partial(_ogg_blocks, file), _library(file).seconds) if file.at(0, 4) == b"OggS" else None


def _ogg_blocks(file: Section, start: float) -> Iterator[Block | Loss]:
    """Decode all links of an Ogg, each of which is an independent recording (RFC 3533)."""
    time, bad = 0.0, 0
    for link in _ogg_links(file):
        shift = time
        try:
            for each in _library(link).blocks(start if link.size == file.size else 0.0):
                each = each.later(shift)
                if isinstance(each, Block):
                    time, bad = each.end, 0
                yield each
        except AudioError as error:
            if not time:
                raise
            yield Loss(f"{DAMAGED}: {error}", time)
            bad += 1
            if bad > MAX_BAD_LINKS:
                break
    # An Ogg that stops between two pages is complete: live recordings have no page marked as the last.
    tail = max(0, file.size - MAX_PAGE_BYTES)
    last = file.at(tail, MAX_PAGE_BYTES).rfind(b"OggS")
    if last >= 0 and _page_end(file, tail + last) > file.size:
        yield Loss("truncated: the last Ogg page is incomplete, the audio ends at {:.3f} s", time)


def _ogg_links(file: Section) -> Iterator[Section]:
    """Yield the links. A link starts with one or several first pages that follow another kind of page."""
    begin = after = 0
    for place in range(0, file.size, BLOCK_BYTES):
        for found in FIRST_PAGE.finditer(file.at(place, BLOCK_BYTES + 5)):
            position = place + found.start()
            if position > after:
                yield Section(file, begin, position)
                begin = position
            if position >= after:
                after = _page_end(file, position)
    yield Section(file, begin, file.size)


def _page_end(file: Section, position: int) -> int:
    header = file.at(position, 27).ljust(27, b"\0")
    return position + 27 + header[26] + sum(file.read(header[26]))
