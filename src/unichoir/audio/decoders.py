"""Which decoder reads a file, and what they have in common; WAV, and the links of an Ogg."""

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
SLACK_SECONDS = 0.05
"""Decoders disagree about the padding of the last frame."""
ERRORS = (TypeError, ValueError, OverflowError, OSError, soundfile.SoundFileError)
MP3, EXTENSIBLE = 0x55, 0xFFFE
SUBTYPES = {(1, 8): "PCM_U8", (3, 32): "FLOAT", (3, 64): "DOUBLE", (6, 8): "ALAW", (7, 8): "ULAW"}
SUBTYPES |= {(1, bits): f"PCM_{bits}" for bits in (16, 24, 32)}
"""What libsndfile calls a WAV's tag and bits."""
MPEG = re.compile(rb"\xff[\xe2-\xe7\xea-\xef\xf2-\xf7\xfa-\xff]")
FLAC, HEAD_BYTES = b"fLaC", 64
"""How FLAC begins, or the second packet of its first page in an Ogg."""
FIRST_PAGE, MAX_PAGE_BYTES = re.compile(rb"OggS\0[\2\3\6\7]"), 65_307


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

    def later(self, seconds: float) -> "Block":
        """The same, so much later."""
        return replace(self, time=self.time + seconds)


@dataclass(frozen=True)
class Loss:
    """Something that is missing."""

    what: str
    """In words, with a place for `time` and one for `end`."""
    time: float
    """Where, in seconds from the beginning of the recording."""
    end: float = 0.0
    """Another time that the words need."""

    def __str__(self) -> str:
        return self.what.format(self.time, self.end)

    def later(self, seconds: float) -> "Loss":
        """The same, so much later."""
        return replace(self, time=self.time + seconds, end=self.end + seconds)


MORE_KINDS = "pip install 'unichoir[av]' reads more kinds"
TRUNCATED = "truncated: the audio ends at {:.3f} s of {:.3f} s"
DAMAGED = "damaged at {:.3f} s"
NO_END = "damaged: nothing is found after {:.3f} s"


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


class Sound(NamedTuple):
    """What a file says, or an array: the functions of the decoder that has been chosen for it."""

    blocks: Callable[[float], Iterator[Block | Loss]]
    """The sound from a time on, in seconds, or from somewhat earlier, and what is missing where that is noticed.

    Raises AudioError, which does not name the file, where there is nothing that can be decoded.
    """
    seconds: Callable[[], float | None]
    """The length as the header tells it, for progress only; None where it tells none."""


class Section:
    """The bytes of a file from `begin` to `end`, as a file without a name: a suffix is no reason to believe anything.

    begin, end: in bytes; None is the end of the file.
    """

    def __init__(self, file: "BinaryIO | Section", begin: int = 0, end: int | None = None) -> None:
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


def has(library: str) -> bool:
    """Whether a library is installed."""
    return importlib.util.find_spec(library) is not None


def open_sound(file: BinaryIO) -> Sound:
    """The decoder of a file that can be gone back in. Raises AudioError for an empty one."""
    whole = Section(file)
    if not whole.size:
        raise AudioError("the file is empty")
    return _wav(whole) or _ogg(whole) or _library(whole)


def _library(file: Section) -> Sound:
    """All but PCM: by FFmpeg's libraries or, without them, by miniaudio and libsndfile.

    libsndfile is kept from MP3: it believes what headers say of the length, and writes to standard error.
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
    """A decoder that knows little of damage, but where it has stopped.

    opened: makes a soundfile.SoundFile, or what looks like one. promised: seconds; None: the decoder knows.
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
                # One channel after the other: numpy takes the mean of such an array in a sixth of the time.
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
    """Where ID3 tags end that begin there, as they stand before MP3."""
    while (head := file.at(position, 10))[:3] == b"ID3" and len(head) == 10:
        position += 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    return position


def _wav(file: Section) -> Sound | None:
    """None for what is no WAV, or one of samples that a library must decode. Header and file may disagree: then the
    file counts."""
    head = file.at(0, 12)
    if head[:4] not in (b"RIFF", b"RF64") or head[8:] != b"WAVE":
        return None
    position, form, told = 12, b"", None
    for _ in range(MAX_CHUNKS):
        name, size = struct.unpack("<4sI", file.at(position, 8).ljust(8, b"\0"))
        position += 8
        if name == b"ds64":  # of WAV beyond 4 GB (EBU Tech 3306)
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
    """None for another file."""
    return Sound(partial(_ogg_blocks, file), _library(file).seconds) if file.at(0, 4) == b"OggS" else None


def _ogg_blocks(file: Section, start: float) -> Iterator[Block | Loss]:
    """All links of an Ogg, each of which is a recording of its own (RFC 3533)."""
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
    # An Ogg that stops between two pages is whole: a live recording has no page marked as the last.
    tail = max(0, file.size - MAX_PAGE_BYTES)
    last = file.at(tail, MAX_PAGE_BYTES).rfind(b"OggS")
    if last >= 0 and _page_end(file, tail + last) > file.size:
        yield Loss("truncated: the last page of its Ogg is cut, the audio ends at {:.3f} s", time)


def _ogg_links(file: Section) -> Iterator[Section]:
    """A link begins with a first page that follows another kind of page; it may have several of them."""
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
