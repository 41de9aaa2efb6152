"""What FFmpeg's libraries decode: nearly all that plays, films too. They are those of PyAV, the extra `av`."""

import struct
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any, cast

import av
import numpy as np
from av import AudioFifo, AudioFrame, Packet
from av.audio import AudioStream
from av.container import InputContainer
from av.stream import Disposition

from unichoir.audio.decoders import BLOCK_FRAMES, Block, Lost, Section, to_float, truncated
from unichoir.errors import AudioError

# Without playlists, scripts and devices: those would have FFmpeg open what the file names.
FORMATS = (
    "ogg,flac,mp3,wav,w64,aiff,caf,au,nistsphere,voc,aac,loas,ac3,eac3,dts,amr,amrnb,amrwb,ape,wv,tta,tak,mpc,mpc8,"
    "mov,matroska,webm,asf,avi,flv,mpegts,mpeg,rm,iff,dsf"
)
# Of sound only: nobody needs the pictures of a film, and one of them can take gigabytes.
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
EXACT = {"flac", "aiff", "au", "wav", "tta", "wv", "ape"}
"""Formats whose header tells the length, as that of a film does; in others FFmpeg guesses it from the bit rate."""
FILM_SLACK_SECONDS, SLACK_SECONDS = 0.25, 0.05
"""Headers round, codecs pad the last frame, and a film may end with a picture that lasts."""
GAP_SECONDS = 0.03
"""A longer gap between time stamps is silence; shorter ones are rounding."""
MAX_SILENCE_SECONDS = 3600.0
"""Of all gaps together: a few bytes can claim years."""
MAX_OVERSHOOT = 4.0
MAX_JUNK_BYTES = 2048
"""After the last frame; it may be a part of one, or a tag."""
SEEKABLE = {"flac", "mov", "matroska", "webm", "ogg"}
SEEK_SECONDS, PREROLL_SECONDS = 30.0, 5.0
"""Parts that begin later are looked for; codecs need some of what comes before."""
HEAD_BYTES = 4096
MATROSKA, MATROSKA_DURATION = b"\x1a\x45\xdf\xa3", (b"\x44\x89\x84", b"\x44\x89\x88")
ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
TAGS = (b"ID3", b"TAG", b"APE")
ERRORS = (av.FFmpegError, ValueError, OverflowError, MemoryError)
"""Others than FFmpeg's are PyAV's, about values in headers that make no sense."""


def blocks(file: Section, start: float, lost: Lost) -> Iterator[Block]:
    """The sound from `start`, in seconds, or somewhat earlier: of the default one of several streams.

    Its time is the container's: where a film's sound begins after the picture there is silence, as in holes. Raises
    AudioError, which does not name the file, where there is nothing to decode.
    """
    try:
        head = file.at(0, HEAD_BYTES)
        is_endless = _is_endless(head)
        promised = 0.0 if is_endless else _xing_seconds(file)
        with _open(file) as container:
            yield from _Sound(container, promised, is_endless, lost).blocks(start)
    except _Misplaced:
        yield from blocks(file, 0.0, lost)
    except ERRORS as error:
        raise AudioError(f"cannot be decoded ({getattr(error, 'strerror', None) or error})") from None


def header_seconds(file: Section) -> float | None:
    """The length as the header tells it, or as FFmpeg guesses it; None for neither."""
    try:
        with _open(file) as container:
            return container.duration / av.time_base if container.duration else None
    except ERRORS:
        return None


def _open(file: Section) -> InputContainer:
    file.seek(0)
    # Names and titles may be in any encoding.
    container = av.open(cast(Any, file), options=OPTIONS, metadata_errors="replace", buffer_size=BUFFER_BYTES)
    return cast(InputContainer, container)


class _Misplaced(Exception):
    """A position that was looked for has not been found."""


class _Sound:
    """One stream of a container that has just been opened. promised: seconds, 0 for none; None: the container knows."""

    def __init__(self, container: InputContainer, promised: float | None, is_endless: bool, lost: Lost) -> None:
        self._container = container
        self._lost = lost
        stream = container.streams.best("audio")
        if stream is None:
            raise AudioError("has no audio stream")
        if getattr(stream, "codec_context", None) is None:
            raise AudioError("has audio of a kind that is not known")
        self._stream = cast(AudioStream, stream)
        self._stream.codec_context.options = {"codec_whitelist": CODECS}
        names = set(container.format.name.split(","))
        self._is_film = bool(names & FILMS)
        self._is_seekable = bool(names & SEEKABLE)
        if promised is None and container.duration and names & (FILMS | EXACT):
            promised = container.duration / av.time_base
        self._promised = promised or 0.0
        self._is_endless = is_endless
        self._reached = 0.0
        self._damage = 0
        self._is_cut = False
        self._is_joined = False
        self._silence = 0.0

    def blocks(self, start: float) -> Iterator[Block]:
        with closing(self._frames()) as frames:
            first = next(frames, None)
            if first is None:
                raise AudioError("cannot be decoded (damaged)" if self._damage else "no samples")
            origin = _origin(self._container, first)
            if start > SEEK_SECONDS and self._is_seekable:
                target = start - PREROLL_SECONDS
                self._container.seek(round((target + origin) * av.time_base))
                first = next((frame for frame in frames if frame.time is not None), None)
                if first is None or not target - SEEK_SECONDS < _time(first) - origin <= target + PREROLL_SECONDS / 2:
                    raise _Misplaced
                begin = _time(first) - origin
            else:
                begin = 0.0
            yield from self._place(first, frames, origin, begin)

    def _place(
        self, frame: AudioFrame | None, frames: Iterator[AudioFrame], origin: float, begin: float
    ) -> Iterator[Block]:
        """The frames as blocks, each where its time stamp says. begin: of the first one, in seconds."""
        fifo, count = AudioFifo(), 0  # count: frames since `begin` that have the same rate
        kind: Any = None
        while frame is not None:
            rate = frame.sample_rate
            if kind != (kind := (rate, frame.layout.name, frame.format.name)) and fifo.samples_written:
                yield from _taken(fifo, begin, count)
                begin, count, fifo = begin + count / fifo.sample_rate, 0, AudioFifo()
            now = begin + count / rate
            gap = 0.0 if frame.time is None else frame.time - origin - now
            if self._is_joined:
                origin, gap, self._is_joined = origin + gap, 0.0, False
            silence = gap if GAP_SECONDS < gap <= MAX_SILENCE_SECONDS - self._silence else 0.0
            if silence:
                yield from _taken(fifo, begin, count)
                yield from _silence(silence, frame, now)
                self._silence += silence
                begin, count, fifo = now + silence, 0, AudioFifo()
            elif abs(gap) > GAP_SECONDS:  # recordings one after the other, or nonsense: the sound goes on
                origin += gap
            if gap > GAP_SECONDS and now:
                what = "silence in its place" if silence else "left out"
                self._lost(now, f"no sound from {now:.3f} to {now + gap:.3f} s, {what}")
            elif self._damage:
                self._lost(now, f"damaged at {now:.3f} s")
            self._damage = 0
            frame.pts = None
            count += frame.samples
            fifo.write(frame)
            if fifo.samples >= BLOCK_FRAMES:
                yield from _taken(fifo, begin, count)
            frame = next(frames, None)
        yield from _taken(fifo, begin, count)
        end = begin + (count / fifo.sample_rate if count else 0)
        slack = FILM_SLACK_SECONDS if self._is_film else SLACK_SECONDS
        if self._promised - self._reached > slack:
            self._lost(end, truncated(end, self._promised))
        elif self._is_cut or self._damage > MAX_JUNK_BYTES:
            self._lost(end, f"damaged: nothing is found after {end:.3f} s")

    def _frames(self) -> Generator[AudioFrame, None, None]:
        wanted = self._stream.index
        # Fractions take longer than MP3 takes to decode.
        units = {stream.index: float(stream.time_base or 0) for stream in self._container.streams}
        for packet in self._packets():
            index, pts = packet.stream_index, packet.pts
            if pts is not None:
                self._reached = max(self._reached, (pts + (packet.duration or 0)) * units.get(index, 0.0))
            if index != wanted:
                continue
            if packet.size:
                self._is_cut = bool(packet.is_corrupt) and not self._is_endless
            try:
                yield from cast("list[AudioFrame]", packet.decode())
            except ERRORS:
                if bytes(packet)[:3] in TAGS:  # between recordings that were joined
                    self._is_joined = True
                else:
                    self._damage += max(1, packet.size)

    def _packets(self) -> Iterator["Packet[Any]"]:
        try:
            yield from self._container.demux()
        except ERRORS:
            self._is_cut = True


def _origin(container: InputContainer, first: AudioFrame) -> float:
    """When the recording begins in the container's time, which in broadcasts is any number: with the first sound or,
    in a film, with what comes first. Less than 0 is what codecs need to begin."""
    if any(not stream.disposition & Disposition.attached_pic for stream in container.streams.video):
        return max(container.start_time or 0, 0) / av.time_base
    return _time(first)


def _time(frame: AudioFrame) -> float:
    return 0.0 if frame.time is None else frame.time


def _taken(fifo: AudioFifo, begin: float, count: int) -> Iterator[Block]:
    """All that is in the fifo, the last of `count` frames since `begin`."""
    frame = fifo.read() if fifo.samples else None
    if frame is not None:
        values = frame.to_ndarray()
        if not frame.format.is_planar:
            values = values.reshape(-1, frame.layout.nb_channels).T
        floats = to_float(values)
        if values.dtype.kind == "f":  # codecs overshoot a little, and make any number of damaged data
            np.clip(floats, -MAX_OVERSHOOT, MAX_OVERSHOOT, out=floats)
        yield Block(floats, frame.sample_rate, begin + (count - frame.samples) / frame.sample_rate)


def _silence(seconds: float, like: AudioFrame, time: float) -> Iterator[Block]:
    total, channels = round(seconds * like.sample_rate), like.layout.nb_channels
    for place in range(0, total, BLOCK_FRAMES):
        nothing = np.zeros((channels, min(BLOCK_FRAMES, total - place)), np.float32)
        yield Block(nothing, like.sample_rate, time + place / like.sample_rate)


def _is_endless(head: bytes) -> bool:
    """Whether a file was written to a pipe and does not know its length. FFmpeg then guesses it from the bit rate, and
    the last packet may look like a cut one."""
    if head[:4] in (b"RIFF", b"caff"):
        return b"data" + b"\xff" * 4 in head
    if head[:4] == MATROSKA:
        return not any(each in head for each in MATROSKA_DURATION)
    place = head.find(ASF_PROPERTIES)
    return place >= 0 and bool(head[place + 88 : place + 89]) and bool(head[place + 88] & 1)  # a broadcast


def _xing_seconds(file: Section) -> float | None:
    """What an MP3 promises, in the header that most encoders write; None for another file, and without that header."""
    head, begin = file.at(0, 10), 0
    if head[:3] == b"ID3" and len(head) == 10:
        begin = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    frame = file.at(begin, 64)
    if len(frame) < 64 or frame[0] != 0xFF or frame[1] & 0xE6 != 0xE2:  # of layer III
        return None
    version, mono = frame[1] >> 3 & 3, frame[3] & 0xC0 == 0xC0
    side_information = (17 if mono else 32) if version == 3 else (9 if mono else 17)
    tag, flags, num_frames = struct.unpack_from(">4sII", frame, 4 + side_information)
    index = frame[2] >> 2 & 3
    if tag not in (b"Xing", b"Info") or not flags & 1 or index == 3:
        return None
    rate = (44100, 48000, 32000)[index] >> {3: 0, 2: 1}.get(version, 2)
    return float(num_frames * (1152 if version == 3 else 576) / rate)
