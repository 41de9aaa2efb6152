"""Decoding with FFmpeg's libraries (PyAV, extra `av`): nearly all formats, including films."""

from collections.abc import Generator, Iterator
from contextlib import closing
from io import SEEK_END, SEEK_SET
from itertools import chain
from typing import Any, cast

import av
import numpy as np
from av import AudioFifo, AudioFrame, Packet
from av.audio import AudioStream
from av.container import InputContainer
from av.stream import Disposition

from unichoir.audio.decoders import BLOCK_FRAMES, DAMAGED, NO_END, TRUNCATED, Block, Loss, Section, to_float
from unichoir.errors import AudioError

# Playlists, scripts and devices are excluded, because they would make FFmpeg open other files.
FORMATS = (
    "ogg,flac,mp3,wav,w64,aiff,caf,au,nistsphere,voc,aac,loas,ac3,eac3,dts,amr,amrnb,amrwb,ape,wv,tta,tak,mpc,mpc8,"
    "mov,matroska,webm,asf,avi,flv,mpegts,mpeg,rm,iff,dsf"
)
# Only audio is decoded: a single picture of a film can take gigabytes.
CODECS = (
    "aac,aac_latm,ac3,eac3,alac,amrnb,amrwb,libopencore_amrnb,libopencore_amrwb,ape,atrac3,atrac3plus,cook,dca,"
    "dsd_lsbf,dsd_msbf,dsd_lsbf_planar,dsd_msbf_planar,flac,g722,g726,gsm,gsm_ms,ilbc,mlp,mp1,mp1float,mp2,mp2float,mp3,"
    "mp3float,mpc7,mpc8,nellymoser,opus,libopus,qdm2,qdmc,real_144,real_288,sipr,speex,tak,truehd,truespeech,tta,vorbis,"
    "wavpack,wmalossless,wmapro,wmav1,wmav2,wmavoice,adpcm_g722,adpcm_g726,adpcm_ima_qt,adpcm_ima_wav,adpcm_ms,"
    "adpcm_swf,adpcm_yamaha,8svx_exp,8svx_fib,"
)
CODECS += ",".join(sorted(name for name in av.codecs_available if name.startswith("pcm_")))
OPTIONS = {"format_whitelist": FORMATS, "codec_whitelist": CODECS, "protocol_whitelist": ""}
BUFFER_BYTES = 1 << 18
FILMS = {"mov", "matroska", "webm", "asf", "avi", "flv"}
FILM_SLACK_SECONDS, SLACK_SECONDS = 0.25, 0.05
"""Tolerance for lengths: headers are rounded, codecs pad the last frame, and films may end with a picture."""
GAP_SECONDS = 0.03
"""A longer gap between time stamps is silence; shorter ones are rounding."""
MAX_SILENCE_SECONDS = 3600.0
"""Maximum silence for all gaps together, because a few bytes can claim years."""
MAX_OVERSHOOT = 4.0
MAX_JUNK_BYTES = 2048
"""Maximum number of unread bytes after the last frame, which may be a partial frame or a tag."""
SEEKABLE = {"flac", "mov", "matroska", "webm", "ogg"}
SEEK_SECONDS, PREROLL_SECONDS = 30.0, 5.0
"""Later parts are found by seeking, and decoding starts some seconds earlier because codecs need context."""
HEAD_BYTES = 4096
ENDLESS = b"data" + b"\xff" * 4
"""In the header of a WAV or CAF written to a pipe, whose last packet may look truncated."""
TAGS = (b"ID3", b"TAG", b"APE")
ERRORS = (av.FFmpegError, ValueError, OverflowError, MemoryError)
"""PyAV raises other errors than FFmpeg's for invalid values in headers."""


def blocks(file: Section, start: float) -> Iterator[Block | Loss]:
    """Decode the default one of several audio streams, see `Sound.blocks`.

    Times are those of the container. If a film's audio starts after the picture, the gap is silence, as for other gaps.
    """
    try:
        with _open(file) as container:
            yield from _Stream(container, file).blocks(start)
    except _Misplaced:
        yield from blocks(file, 0.0)
    except ERRORS as error:
        raise AudioError(f"cannot be decoded ({getattr(error, 'strerror', None) or error})") from None


def seconds(file: Section) -> float | None:
    """Return the length, see `Sound.seconds`.

    Without one in the header, FFmpeg estimates it from bit rate and file size.
    """
    try:
        with _open(file) as container:
            return container.duration / av.time_base if container.duration else None
    except ERRORS:
        return None


def _open(file: Section) -> InputContainer:
    file.seek(0)
    # Names and titles may have any encoding.
    container = av.open(cast(Any, file), options=OPTIONS, metadata_errors="replace", buffer_size=BUFFER_BYTES)
    return cast(InputContainer, container)


class _Longer(Section):
    """A file that claims to be slightly longer, but not so much that FFmpeg rejects the header of an MP3."""

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """Move to another position and return it."""
        return super().seek(offset + (self.size // 32 if whence == SEEK_END else 0), whence)


class _Misplaced(Exception):
    """Seeking didn't find the position."""


class _Stream:
    """One stream of a container that has just been opened."""

    def __init__(self, container: InputContainer, file: Section) -> None:
        self._container = container
        self._file = file
        stream = container.streams.best("audio")
        if stream is None:
            raise AudioError("has no audio stream")
        if getattr(stream, "codec_context", None) is None:
            raise AudioError("has audio in an unknown format")
        self._stream = cast(AudioStream, stream)
        self._stream.codec_context.options = {"codec_whitelist": CODECS}
        self._formats = set(container.format.name.split(","))
        self._duration = (container.duration or 0) / av.time_base
        self._last: dict[int, Packet[Any]] = {}
        """The last packet of each stream."""
        self._damage = 0
        self._is_cut = False
        self._is_joined = False
        self._silence = 0.0

    def blocks(self, start: float) -> Iterator[Block | Loss]:
        with closing(self._frames()) as frames:
            first = next(frames, None)
            if first is None:
                raise AudioError("cannot be decoded (damaged)" if self._damage else "no samples")
            origin, begin = _origin(self._container, first), 0.0
            if start > SEEK_SECONDS and self._formats & SEEKABLE:
                target = start - PREROLL_SECONDS
                self._container.seek(round((target + origin) * av.time_base))
                first = next((frame for frame in frames if frame.time is not None), None)
                if first is None or not target - SEEK_SECONDS < _time(first) - origin <= target + PREROLL_SECONDS / 2:
                    raise _Misplaced
                begin = _time(first) - origin
            yield from self._place(chain([first], frames), origin, begin)

    def _place(self, frames: Iterator[AudioFrame], origin: float, begin: float) -> Iterator[Block | Loss]:
        """Yield the frames as blocks at their time stamps. begin: the time of the first frame in seconds."""
        fifo, kind, now = AudioFifo(), None, begin  # the fifo holds frames of one format since `begin`
        for frame in frames:
            gap = 0.0 if frame.time is None else frame.time - origin - now
            if self._is_joined:
                origin, gap, self._is_joined = origin + gap, 0.0, False
            silence = gap if GAP_SECONDS < gap <= MAX_SILENCE_SECONDS - self._silence else 0.0
            was, kind = kind, (frame.sample_rate, frame.layout.nb_channels, frame.format.name)
            if silence or kind != was:
                yield from _taken(fifo, begin)
                yield from _silence(silence, frame, now)
                fifo, begin = AudioFifo(), now + silence
                self._silence += silence
            if not silence and abs(gap) > GAP_SECONDS:  # joined recordings, or invalid: the audio continues
                origin += gap
            if gap > GAP_SECONDS and now:
                what = "silence in its place" if silence else "left out"
                yield Loss(f"no sound from {{:.3f}} to {{:.3f}} s, {what}", now, now + gap)
            elif self._damage:
                yield Loss(DAMAGED, now)
            self._damage = 0
            frame.pts = None
            fifo.write(frame)
            now = begin + fifo.samples_written / frame.sample_rate
            if fifo.samples >= BLOCK_FRAMES:
                yield from _taken(fifo, begin)
        yield from _taken(fifo, begin)
        slack = FILM_SLACK_SECONDS if self._formats & FILMS else SLACK_SECONDS
        last = self._last.get(self._stream.index)
        is_cut = self._is_cut or bool(last and last.is_corrupt)
        if self._duration - self._reached(now) > slack and self._is_promised():
            yield Loss(TRUNCATED, now, self._duration)
        elif self._damage > MAX_JUNK_BYTES or (is_cut and ENDLESS not in self._file.at(0, HEAD_BYTES)):
            yield Loss(NO_END, now)

    def _is_promised(self) -> bool:
        """Whether the length comes from the header. A length that changes with the file size is an estimate."""
        return seconds(_Longer(self._file)) == self._duration

    def _frames(self) -> Generator[AudioFrame, None, None]:
        wanted = self._stream.index
        try:
            for packet in self._container.demux():
                index, size = packet.stream_index, packet.size
                if size:
                    self._last[index] = packet
                if index != wanted:
                    continue
                found, damage = list[AudioFrame](), 0
                try:
                    found = cast("list[AudioFrame]", packet.decode())
                except ERRORS:
                    damage = max(1, size)
                if found:
                    yield from found
                elif size and bytes(packet)[:3] in TAGS:  # between joined recordings
                    self._is_joined = True
                else:
                    self._damage += damage
        except ERRORS:
            self._is_cut = True

    def _reached(self, end: float) -> float:
        """Return the end of the audio in the container's time; without time stamps, `end`."""
        ends = [
            float((packet.pts + (packet.duration or 0)) * packet.time_base)
            for packet in self._last.values()
            if packet.pts is not None
        ]
        return max([end, *ends])


def _origin(container: InputContainer, first: AudioFrame) -> float:
    """Return the start of the recording in the container's time, which has any offset in broadcasts.

    The recording starts with the first audio or, in a film, with the first packet. Codecs use times below 0 as context.
    """
    if any(not stream.disposition & Disposition.attached_pic for stream in container.streams.video):
        return max(container.start_time or 0, 0) / av.time_base
    return _time(first)


def _time(frame: AudioFrame) -> float:
    return 0.0 if frame.time is None else frame.time


def _taken(fifo: AudioFifo, begin: float) -> Iterator[Block]:
    """Yield everything in the fifo, whose first frame is at `begin`, in seconds."""
    place = fifo.samples_read
    frame = fifo.read() if fifo.samples else None
    if frame is not None:
        values = frame.to_ndarray()
        if not frame.format.is_planar:
            values = values.reshape(-1, frame.layout.nb_channels).T
        floats = to_float(values)
        if values.dtype.kind == "f":  # codecs overshoot a little, and damaged data gives any number
            np.clip(floats, -MAX_OVERSHOOT, MAX_OVERSHOOT, out=floats)
        yield Block(floats, frame.sample_rate, begin + place / frame.sample_rate)


def _silence(seconds: float, like: AudioFrame, time: float) -> Iterator[Block]:
    total, channels = round(seconds * like.sample_rate), like.layout.nb_channels
    for place in range(0, total, BLOCK_FRAMES):
        nothing = np.zeros((channels, min(BLOCK_FRAMES, total - place)), np.float32)
        yield Block(nothing, like.sample_rate, time + place / like.sample_rate)
