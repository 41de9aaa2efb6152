"""Whether a file has all the bytes that its container promises."""

import io
import struct
from typing import BinaryIO

from unichoir.errors import AudioError

# Writers to a pipe cannot know the length and put a number near the largest one (sox 0x7f000000, ffmpeg 0xffffffff).
UNKNOWN_LENGTH = 0x7F000000
UNKNOWN_WIDE_LENGTH = 1 << 60
MAX_CHUNKS = 10_000
"""Before the samples; a file of nothing but empty chunks is not gone through to its end."""


def check_complete(stream: BinaryIO, name: str) -> None:
    """Raise AudioError when the container says that more bytes should follow: most decoders just stop early."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    head = stream.read(12)
    if not size:
        raise AudioError(f"{name}: the file is empty")
    missing = 0
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        missing = _end_of_wav(stream, size) - size
    elif head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        missing = _end_of_aiff(stream, size) - size
    elif head[:4] in _WIDE:
        missing = _WIDE[head[:4]](stream, size) - size
    elif head[:4] == b"OggS":
        missing = _end_of_ogg(stream, size, name) - size
    elif head[:3] == b"ID3" or (head[0] == 0xFF and len(head) > 1 and head[1] & 0xE0 == 0xE0):
        missing = _end_of_mp3(stream, size) - size
    stream.seek(0)
    if missing > 0:
        raise AudioError(f"{name}: truncated: {missing} more bytes should follow")


def _end_of_chunks(
    stream: BinaryIO,
    size: int,
    layout: str,
    data: bytes,
    *,
    first: int = 12,
    unknown: int = UNKNOWN_LENGTH,
    align: int = 2,
    counts_header: bool = False,
    told: int | None = None,
) -> int:
    """Where the chunk of samples ends, which is called `data`; `size` where nothing says so.

    layout: of a chunk's header, its name and its length, which counts the header itself with `counts_header`. first:
    where the first chunk begins; align: they begin at multiples of this. unknown: from this on the length of that chunk
    says nothing. told: its length, where it is told elsewhere.
    """
    position, width = first, struct.calcsize(layout)
    for _ in range(MAX_CHUNKS):
        stream.seek(position)
        header = stream.read(width)
        if len(header) < width:
            break
        chunk, length = struct.unpack(layout, header)
        begin = position if counts_header else position + width
        if chunk == data and told is not None:
            return begin + told
        if not 0 <= length < UNKNOWN_WIDE_LENGTH:
            break
        if chunk == data:
            return begin + int(length) if length < unknown else size
        position = begin + length + -length % align
    return size


def _end_of_wav(stream: BinaryIO, size: int) -> int:
    return _end_of_chunks(stream, size, "<4sI", b"data")


def _end_of_aiff(stream: BinaryIO, size: int) -> int:
    return _end_of_chunks(stream, size, ">4sI", b"SSND")


def _end_of_rf64(stream: BinaryIO, size: int) -> int:
    """Of WAV beyond 4 GB (EBU Tech 3306): its first chunk tells how long the chunk of samples is."""
    stream.seek(12)
    chunk, length = struct.unpack("<4s12xQ", stream.read(24).ljust(24, b"\0"))
    is_told = chunk == b"ds64" and length < UNKNOWN_WIDE_LENGTH
    return _end_of_chunks(stream, size, "<4sI", b"data", told=length) if is_told else size


def _end_of_w64(stream: BinaryIO, size: int) -> int:
    """Sony Wave64: names of 16 bytes, lengths of 8 that count the header of the chunk, chunks at multiples of 8."""
    return _end_of_chunks(
        stream, size, "<4s12xQ", b"data", first=40, unknown=UNKNOWN_WIDE_LENGTH, align=8, counts_header=True
    )


def _end_of_au(stream: BinaryIO, size: int) -> int:
    stream.seek(4)
    offset, length = struct.unpack(">II", stream.read(8).ljust(8, b"\0"))
    return size if length >= UNKNOWN_LENGTH else int(offset + length)


def _end_of_caf(stream: BinaryIO, size: int) -> int:
    """Apple's Core Audio Format; a length of -1 is not known."""
    return _end_of_chunks(stream, size, ">4sq", b"data", first=8, unknown=UNKNOWN_WIDE_LENGTH, align=1)


_WIDE = {b"RF64": _end_of_rf64, b"riff": _end_of_w64, b".snd": _end_of_au, b"caff": _end_of_caf}


def _end_of_ogg(stream: BinaryIO, size: int, name: str) -> int:
    """Page by page. A stream that stops between two pages is whole: a live recording has no page marked as the last."""
    position, ended = 0, False
    while position < size:
        stream.seek(position)
        header = stream.read(27)
        if not b"OggS".startswith(header[:4]):
            if ended:
                break  # tags appended by some tool
            raise AudioError(f"{name}: damaged: no Ogg page at byte {position}")
        if len(header) < 27:
            return position + 27
        ended = bool(header[5] & 4)
        position += 27 + header[26] + sum(stream.read(header[26]))
    return max(position, size) if ended else position


def _end_of_mp3(stream: BinaryIO, size: int) -> int:
    """Only the Xing/Info header written by most encoders tells how many bytes there are."""
    stream.seek(0)
    head = stream.read(10)
    begin = 0
    if head[:3] == b"ID3" and len(head) == 10:
        begin = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    stream.seek(begin)
    frame = stream.read(64)
    if len(frame) < 64 or frame[0] != 0xFF or frame[1] & 0xE0 != 0xE0:
        return size
    version_1, mono = frame[1] & 0x18 == 0x18, frame[3] & 0xC0 == 0xC0
    side_information = (17 if mono else 32) if version_1 else (9 if mono else 17)
    tag, flags, first, second = struct.unpack_from(">4sIII", frame, 4 + side_information)
    if tag not in (b"Xing", b"Info") or not flags & 2:
        return size
    return begin + int(second if flags & 1 else first)
