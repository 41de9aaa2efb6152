"""The audio of MP4, Matroska, WebM and others, films too, by PyAV (FFmpeg's libraries), an optional extra."""

import contextlib
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from unichoir.errors import AudioError

if TYPE_CHECKING:
    from av import AudioFrame, Packet
    from av.audio import AudioStream
    from av.container import InputContainer

# Without playlists, scripts and devices: those would have FFmpeg open what the file names.
DEMUXERS = (
    "mov,matroska,webm,asf,avi,flv,mpegts,mpeg,ogg,mp3,aac,ac3,eac3,dts,amr,amrnb,amrwb,flac,wav,w64,aiff,caf,au,ape,wv,tta,"
    "mpc,mpc8,rm"
)
EXACT = {"mov", "matroska", "webm", "asf", "avi", "flv"}
"""Formats whose header tells the length; in others FFmpeg guesses it from the bit rate."""
SLACK_SECONDS = 0.25
"""Headers round, codecs pad the last frame, and a film may end with a picture that lasts."""
BLOCK_FRAMES = 1 << 16
AV_TIME_BASE = 1_000_000
GAP_SECONDS = 0.03
"""A longer gap between time stamps is silence; shorter ones are rounding."""
SIGNATURES = {
    (4, b"ftyp"): "MP4 or QuickTime",
    (4, b"moov"): "QuickTime",
    (0, b"\x1a\x45\xdf\xa3"): "Matroska or WebM",
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"): "Windows Media",
    (8, b"AVI "): "AVI",
    (0, b"FLV"): "Flash video",
    (0, b"#!AMR"): "AMR",
    (0, b"\xff\xf1"): "AAC",
    (0, b"\xff\xf9"): "AAC",
    (0, b"\x0b\x77"): "AC-3",
    (0, b"\x00\x00\x01\xba"): "MPEG programme stream",
    (0, b".RMF"): "RealMedia",
}


@contextlib.contextmanager
def open_container(stream: BinaryIO, name: str, reason: str) -> Iterator["ContainerFile"]:
    """Read what libsndfile could not, for the `reason` that it gave.

    Raises AudioError naming the input `name`: without PyAV, for what FFmpeg cannot decode either, for a file without
    audio.
    """
    kind = _kind(stream)
    try:
        import av
    except ModuleNotFoundError as error:
        if error.name != "av":
            raise
        if kind is None:
            raise AudioError(f"{name}: cannot be decoded ({reason})") from None
        install = "pip install 'unichoir[av]'"
        raise AudioError(f"{name}: {kind}, which needs more than a plain install: {install} (no av)") from None
    options = {"format_whitelist": DEMUXERS, "protocol_whitelist": ""}
    try:
        stream.seek(0)
        with av.open(stream, options=options) as container:
            seconds = _promised_seconds(container)
            if seconds is None:
                seconds = _audio_end(container, name)
                stream.seek(0)
                with av.open(stream, options=options) as again:
                    yield ContainerFile(again, name, seconds, is_promised=False)
            else:
                yield ContainerFile(container, name, seconds, is_promised=True)
    # Others than FFmpeg's are PyAV's, about values in headers that make no sense.
    except (av.FFmpegError, ValueError, OverflowError, MemoryError) as error:
        why = getattr(error, "strerror", None) or str(error)
        known = reason if kind is None else f"{kind}: {why}"
        raise AudioError(f"{name}: cannot be decoded ({known})") from None


def _kind(stream: BinaryIO) -> str | None:
    stream.seek(0)
    head = stream.read(16)
    return next((kind for (at, mark), kind in SIGNATURES.items() if head[at : at + len(mark)] == mark), None)


def _promised_seconds(container: "InputContainer") -> float | None:
    """The length that the header tells; None where it is not known, or guessed from the bit rate."""
    is_exact = EXACT & set(container.format.name.split(","))
    return container.duration / AV_TIME_BASE if is_exact and container.duration else None


def _audio_end(container: "InputContainer", name: str) -> float:
    """Seconds from the beginning to the end of the last packet of audio, found by going through all of them."""
    stream, origin = _audio_stream(container, name), _origin(container)
    return max((_end(packet) for packet in container.demux(stream)), default=0.0) - origin


def _audio_stream(container: "InputContainer", name: str) -> "AudioStream":
    stream = container.streams.best("audio")
    if stream is None:
        raise AudioError(f"{name}: has no audio stream")
    return cast("AudioStream", stream)


def _origin(container: "InputContainer") -> float:
    """When the container's time begins: that of broadcasts is any number. Less than 0 is what codecs need to begin."""
    return max(container.start_time or 0, 0) / AV_TIME_BASE


def _end(packet: "Packet[AudioStream]") -> float:
    if packet.pts is None or packet.time_base is None:
        return 0.0
    return float((packet.pts + (packet.duration or 0)) * packet.time_base)


class ContainerFile:
    """The first (or default) audio stream, with the part of the interface of `soundfile.SoundFile` that `io` uses.

    Its time is the container's: where the audio begins after the picture or has gaps there is silence. Channels are
    mixed. Raises AudioError without an audio stream, and what PyAV raises.

    Args:
        container: just opened.
        name: what errors call it.
        seconds: its length. is_promised: by its header; then less is a truncated file and more a wrong header.
    """

    channels = 1

    def __init__(self, container: "InputContainer", name: str, seconds: float, is_promised: bool) -> None:
        self._container = container
        self._name = name
        self._stream = _audio_stream(container, name)
        self._origin = _origin(container)
        self._promised = seconds if is_promised else 0.0
        decoded = self._decode()
        first = next(decoded, None)
        if first is None:
            raise AudioError(f"{name}: no samples")
        self.samplerate = int(first.sample_rate)
        stream = self._stream
        if is_promised and stream.duration and stream.time_base:  # a film's audio may be shorter than its pictures
            seconds = float(((stream.start_time or 0) + stream.duration) * stream.time_base) - self._origin
        self.frames = round(seconds * self.samplerate)
        self._blocks = self._place(chain([first], decoded))
        self._rest = np.zeros(0, dtype=np.float32)
        self._position = 0

    @property
    def slack(self) -> int:
        """All of it: that nothing is missing is known here, where the other streams are seen as well."""
        return self.frames

    def seek(self, frames: int) -> int:
        """Go on `frames` later. By decoding: codecs need what comes before."""
        while self._position < frames and len(self.read(frames - self._position)):
            pass
        return self._position

    def read(self, frames: int, dtype: str = "float32", always_2d: bool = True) -> NDArray[np.float32]:
        """The next (N, 1), at most `frames` of them; N is 0 at the end only."""
        parts, length = [self._rest], len(self._rest)
        while length < min(frames, BLOCK_FRAMES) and (block := next(self._blocks, None)) is not None:
            parts.append(block)
            length += len(block)
        found = np.concatenate(parts)
        found, self._rest = found[:frames], found[frames:]
        self._position += len(found)
        if self._position >= self.frames:
            for _ in self._blocks:  # whether there is much more than promised
                pass
        return found[:, None]

    def _decode(self) -> Iterator["AudioFrame"]:
        """All frames. At the end, raises AudioError when the container promised more."""
        reached = 0.0
        for packet in self._container.demux():
            reached = max(reached, _end(cast("Packet[AudioStream]", packet)))
            if packet.stream_index == self._stream.index:
                yield from cast("list[AudioFrame]", packet.decode())
        if self._promised - reached > SLACK_SECONDS:
            raise AudioError(f"{self._name}: truncated: it ends at {reached:.3f} s of {self._promised:.3f} s")

    def _place(self, decoded: Iterable["AudioFrame"]) -> Iterator[NDArray[np.float32]]:
        """Mono samples of the frames (N,), where their time stamps say."""
        rate, position, shift = self.samplerate, 0, 0
        most, gap_frames = self.frames + round(SLACK_SECONDS * self.samplerate), round(GAP_SECONDS * self.samplerate)
        for frame in decoded:
            if frame.sample_rate != rate:
                raise AudioError(f"{self._name}: the sample rate changes from {rate} to {frame.sample_rate} Hz")
            mono = _mono(frame)
            if frame.pts is not None and frame.time_base is not None:
                gap = round((float(frame.pts * frame.time_base) - self._origin) * rate) - shift - position
                if gap_frames < gap and position + gap <= most:
                    for start in range(0, gap, BLOCK_FRAMES):
                        yield np.zeros(min(BLOCK_FRAMES, gap - start), dtype=np.float32)
                    position += gap
                elif abs(gap) > gap_frames:  # recordings one after the other, or nonsense: the sound goes on
                    shift += gap
            if position + len(mono) > most:
                promised = self.frames / rate
                raise AudioError(f"{self._name}: damaged: the audio goes on after the {promised:.3f} s of its header")
            position += len(mono)
            yield mono


def _mono(frame: "AudioFrame") -> NDArray[np.float32]:
    """(N,) in [-1, 1]: the mean of the channels."""
    samples: NDArray[Any] = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype == np.uint8:
        samples = samples.astype(np.float32) / 128 - 1
    elif samples.dtype.kind == "i":
        samples = samples / np.float32(-float(np.iinfo(samples.dtype).min))
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite, `io` finds
        mono: NDArray[np.float32] = samples.mean(axis=0).astype(np.float32)
    return mono
