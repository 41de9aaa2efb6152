"""WeNet's shards: an uncompressed tar in which KEY.txt and KEY.wav (or flac, mp3, ...) are adjacent."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from unichoir.data.storage import open_binary
from unichoir.errors import ManifestError

AUDIO_SUFFIXES = frozenset({"wav", "flac", "mp3", "ogg", "opus", "m4a"})
BLOCK = tarfile.BLOCKSIZE
MAX_TEXT_BYTES, MAX_AUDIO_BYTES = 1 << 20, 1 << 30
"""Maximum sizes for one utterance."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The members of one key."""

    key: str
    txt: str | None = None
    """Transcript; None if it is missing."""
    place: tuple[int, int] | None = None
    """(offset, size) of the audio file within the tar; None if it is missing."""
    audio: bytes = b""
    """Content of the audio file, if requested."""

    @property
    def missing(self) -> str:
        """What the key lacks; "" if it is complete."""
        if self.txt is None:
            return f"'{self.key}' has no transcript (.txt)"
        return "" if self.place else f"'{self.key}' has no audio"


def read_pairs(location: str, with_audio: bool = False) -> Iterator[Pair]:
    """Yield the keys of a tar in order, complete or not. A URL is read once, from front to back.

    Raises ManifestError for a tar that is compressed, damaged, truncated or missing.
    """
    try:
        # "r:" rejects compressed archives, in which audio can't be located.
        with open_binary(location) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            yield from _pairs(location, archive, with_audio)
            _check_end(file, archive.offset)
    except (tarfile.TarError, EOFError) as error:
        raise ManifestError(f"{location}: not an uncompressed tar, or damaged ({error})") from None
    except OSError as error:
        raise ManifestError(f"{location}: {error.strerror or error}") from None


def _pairs(location: str, archive: tarfile.TarFile, with_audio: bool) -> Iterator[Pair]:
    pair = Pair(key="")
    for member in archive:
        if not member.isfile():
            continue
        stem, _, suffix = member.name.rpartition(".")
        if member.issparse():  # its size includes all of its holes
            raise ManifestError(f"{location}: {member.name}: sparse files are not supported")
        if stem != pair.key:
            yield from _complete(pair)
            pair = Pair(key=stem)
        if suffix == "txt":
            try:
                text = _content(location, archive, member, MAX_TEXT_BYTES).decode("utf-8").strip()
            except UnicodeDecodeError:
                raise ManifestError(f"{location}: {member.name}: not UTF-8") from None
            pair = Pair(key=stem, txt=text, place=pair.place, audio=pair.audio)
        elif suffix.lower() in AUDIO_SUFFIXES:
            audio = _content(location, archive, member, MAX_AUDIO_BYTES) if with_audio else b""
            pair = Pair(key=stem, txt=pair.txt, place=(member.offset_data, member.size), audio=audio)
    yield from _complete(pair)


def _complete(pair: Pair) -> Iterator[Pair]:
    # Neither a transcript nor audio: before the first member, or after unrelated files.
    if pair.key and (pair.txt is not None or pair.place is not None):
        yield pair


def _content(location: str, archive: tarfile.TarFile, member: tarfile.TarInfo, most: int) -> bytes:
    if member.size > most:
        raise ManifestError(f"{location}: {member.name}: has {member.size} bytes, more than the limit of {most}")
    content = archive.extractfile(member)
    return content.read() if content else b""


def _check_end(file: BinaryIO, offset: int) -> None:
    """Check the end, because tarfile treats a damaged header as the end of the archive.

    Only zeros or nothing are valid.
    """
    file.seek(offset)
    if file.read(BLOCK).strip(b"\0"):
        raise tarfile.ReadError(f"no header at byte {offset}")
