"""WeNet's shards: an uncompressed tar in which KEY.txt and KEY.wav (or flac, mp3, ...) stand side by side."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from unichoir.data.storage import open_binary
from unichoir.errors import ManifestError

AUDIO_SUFFIXES = frozenset({"wav", "flac", "mp3", "ogg", "opus", "m4a"})
BLOCK = tarfile.BLOCKSIZE
MAX_TEXT_BYTES, MAX_AUDIO_BYTES = 1 << 20, 1 << 30
"""Of one utterance."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The members of one key."""

    key: str
    txt: str | None = None
    """None where there is no transcript."""
    place: tuple[int, int] | None = None
    """(offset, size) of the audio file within the tar; None where there is none."""
    audio: bytes = b""
    """That file, where it was asked for."""

    @property
    def missing(self) -> str:
        """What the key lacks, "" where it is complete."""
        if self.txt is None:
            return f"'{self.key}' has no transcript (.txt) beside it"
        return "" if self.place else f"'{self.key}' has no audio beside it"


def read_pairs(location: str, with_audio: bool = False) -> Iterator[Pair]:
    """The keys of a tar in its order, complete or not; a URL is read once, from front to back.

    Raises ManifestError for a tar that is compressed, damaged, truncated or not there.
    """
    try:
        # "r:" refuses compressed archives, in which audio has no place of its own.
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
        if member.issparse():  # its size is what it would be with all of its holes
            raise ManifestError(f"{location}: {member.name}: is a sparse file, which has no place in a shard")
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
    # Neither: before the first member, or files of no concern here.
    if pair.key and (pair.txt is not None or pair.place is not None):
        yield pair


def _content(location: str, archive: tarfile.TarFile, member: tarfile.TarInfo, most: int) -> bytes:
    if member.size > most:
        raise ManifestError(f"{location}: {member.name}: has {member.size} bytes, and may have {most}")
    content = archive.extractfile(member)
    return content.read() if content else b""


def _check_end(file: BinaryIO, offset: int) -> None:
    """tarfile takes a header that is damaged for the end of the archive; zeros or nothing really are."""
    file.seek(offset)
    if file.read(BLOCK).strip(b"\0"):
        raise tarfile.ReadError(f"no header at byte {offset}")
