"""Whether a file has all the bytes that its container promises."""

import io
import struct
from typing import BinaryIO

from unichoir.errors import AudioError

# Writers to a pipe cannot know the length and put a number near the largest one (sox 0x7ffff000, ffmpeg 0xffffffff).
UNKNOWN_WAV_LENGTH = 0x7FFFF000


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
    elif head[:4] == b"OggS":
        missing = _end_of_ogg(stream, size, name) - size
    elif head[:3] == b"ID3" or (head[0] == 0xFF and len(head) > 1 and head[1] & 0xE0 == 0xE0):
        missing = _end_of_mp3(stream, size) - size
    stream.seek(0)
    if missing > 0:
        raise AudioError(f"{name}: truncated: {missing} more bytes should follow")


def _end_of_wav(stream: BinaryIO, size: int) -> int:
    position = 12
    while position + 8 <= size:
        stream.seek(position)
        chunk, length = struct.unpack("<4sI", stream.read(8))
        if chunk == b"data":
            return size if length >= UNKNOWN_WAV_LENGTH else position + 8 + length
        position += 8 + length + length % 2
    return size


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
