"""Audio files, streams and arrays to mono float32 samples at the wanted rate."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from unichoir.audio.completeness import check_complete
from unichoir.audio.containers import open_container
from unichoir.errors import AudioError

Samples = NDArray[np.float32]
AudioSource = str | os.PathLike[str] | BinaryIO | bytes

MIN_RATE, MAX_RATE = 2_000, 768_000
# Decoders and resamplers overshoot [-1, 1] a little; an array beyond this was surely meant on another scale.
MAX_AMPLITUDE = 16.0
# A segment may end this much after its file does: segment times are often rounded up.
MAX_OVERSHOOT_SECONDS = 0.5
# MP3 decoders disagree by a few frames (of at most 1152 samples) about padding; more than this is really missing.
MP3_SLACK_SAMPLES = 4 * 1152
BLOCK_SAMPLES = 1 << 20
UNKNOWN_FRAMES = 1 << 62


def load_audio(
    source: AudioSource,
    *,
    sample_rate: int = 16000,
    start: float | None = None,
    end: float | None = None,
    name: str | None = None,
) -> Samples:
    """Decode, mix to mono (mean of the channels) and resample.

    Args:
        source: a path, the bytes of a file, or a binary stream (read to its end). WAV, FLAC, Ogg Vorbis, Ogg Opus, MP3
            and, with the extra `av`, what `containers` reads: MP4, Matroska, WebM and others.
        sample_rate: rate of the result in Hz.
        start, end: the part to read, in seconds; None means the beginning and the end of the file.
        name: what errors call the input; by default its path.

    Returns:
        (N,) samples, nominally in [-1, 1].

    Raises:
        AudioError: missing, unreadable, truncated, empty or not finite audio, or a part that lies outside of it.
    """
    return read_audio(source, sample_rate=sample_rate, start=start, end=end, name=name)[0]


def read_audio(
    source: AudioSource,
    *,
    sample_rate: int | None = None,
    start: float | None = None,
    end: float | None = None,
    name: str | None = None,
) -> tuple[Samples, int]:
    """As `load_audio`, at the file's own rate by default; returns (N,) samples and their rate in Hz."""
    with _open(source, name) as (sound, called):
        rate = sample_rate or sound.samplerate
        blocks = list(_mono_blocks(sound, start, end, rate, called))
    return np.ascontiguousarray(np.concatenate(blocks)), rate


def audio_blocks(
    source: AudioSource,
    *,
    sample_rate: int = 16000,
    start: float | None = None,
    end: float | None = None,
    name: str | None = None,
) -> Iterator[Samples]:
    """What `load_audio` gives, in blocks (N,) of about a minute at most: memory does not grow with the length.

    Raises AudioError as `load_audio` does, where the fault is met: blocks before it have been given by then.
    """
    with _open(source, name) as (sound, called):
        yield from _mono_blocks(sound, start, end, sample_rate, called)


def audio_duration(source: AudioSource, *, name: str | None = None) -> float:
    """Length in seconds, from the file's headers. Raises AudioError as `load_audio` does, where headers tell."""
    with _open(source, name) as (sound, _):
        return float(sound.frames / sound.samplerate)


def resample(samples: Samples, from_rate: float, to_rate: float) -> Samples:
    """(N,) at `from_rate` to (about N * to_rate / from_rate,) at `to_rate`, band-limited (soxr, high quality)."""
    if from_rate == to_rate:
        return samples
    return np.asarray(soxr.resample(samples, from_rate, to_rate), dtype=np.float32)


class OnlineResampler:
    """`resample` for samples that arrive in blocks; the block sizes change nothing. Equal rates leave them as they are.

    What comes out lags behind what went in: to 16 kHz by 40 ms from 24, 44.1 and 48 kHz, by 120 ms from 8 kHz.
    """

    def __init__(self, from_rate: float, to_rate: float) -> None:
        self._stream = None if from_rate == to_rate else soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32")

    def process(self, samples: Samples, last: bool = False) -> Samples:
        """The next samples (N,) at the new rate; `last` gives all that is left, and nothing may follow."""
        return samples if self._stream is None else self._stream.resample_chunk(samples, last=last)


def check_samples(samples: NDArray[Any], sample_rate: int, name: str = "samples") -> Samples:
    """Mono float32 samples from an array given by a user; the rate stays as it is.

    Args:
        samples: (N,) or (N, channels), float in [-1, 1] or int16.
        sample_rate: in Hz; only checked.
        name: what errors call the array.

    Raises:
        AudioError: empty, not finite, another type or shape, values far outside [-1, 1], or an unusable rate.
    """
    samples = np.asarray(samples)
    _check_rate(sample_rate, name)
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and not 1 <= samples.shape[1] <= 64):
        raise AudioError(f"{name}: expected shape (N,) or (N, channels), found {samples.shape}")
    if samples.dtype == np.int16:
        samples = samples.astype(np.float32) / np.float32(32768)
    elif samples.dtype.kind != "f":
        raise AudioError(f"{name}: expected float or int16 samples, found {samples.dtype}")
    if not samples.shape[0]:
        raise AudioError(f"{name}: no samples")
    mono = _downmix(samples) if samples.ndim == 2 else samples
    _check_values(mono, 0, sample_rate, name)
    return np.ascontiguousarray(mono, dtype=np.float32)


def _downmix(samples: NDArray[Any]) -> NDArray[np.floating[Any]]:
    """(N, channels) to (N,). What is not finite, or adds up to that, `_check_values` finds."""
    with np.errstate(over="ignore", invalid="ignore"):
        mono: NDArray[np.floating[Any]] = samples.mean(axis=1)
    return mono


def _check_rate(sample_rate: int, name: str) -> None:
    if not MIN_RATE <= sample_rate <= MAX_RATE:
        raise AudioError(f"{name}: sample rate {sample_rate} Hz is not between {MIN_RATE} and {MAX_RATE}")


def _check_values(mono: NDArray[np.floating[Any]], first: int, sample_rate: int, name: str) -> None:
    # One reduction answers both questions: a NaN or an infinity survives it.
    peak = float(np.abs(mono).max()) if len(mono) else 0.0
    if not np.isfinite(peak):
        position = first + int(np.flatnonzero(~np.isfinite(mono))[0])
        raise AudioError(f"{name}: a sample is not a finite number (at {position / sample_rate:.3f} s)")
    if peak > MAX_AMPLITUDE:
        raise AudioError(f"{name}: float samples should lie in [-1, 1], found {peak:.6g} (int16 may be given as such)")


class _Sound(Protocol):
    """What is read from: a `soundfile.SoundFile` or a `ContainerFile`."""

    @property
    def samplerate(self) -> int: ...
    @property
    def frames(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def slack(self) -> int:
        """Frames that may be missing at the end though the header has promised them."""

    def seek(self, frames: int) -> int: ...
    def read(self, frames: int, dtype: str, always_2d: bool) -> NDArray[np.float32]:
        """The next (N, channels), at most `frames` of them; N is 0 at the end only."""


class _SoundFile(soundfile.SoundFile):  # type: ignore[misc]
    @property
    def slack(self) -> int:
        return MP3_SLACK_SAMPLES if self.format in ("MP3", "MPEG") else 0


@contextlib.contextmanager
def _open(source: AudioSource, name: str | None) -> Iterator[tuple[_Sound, str]]:
    with contextlib.ExitStack() as stack:
        if isinstance(source, (str, os.PathLike)):
            name = name or os.fspath(source)
            try:
                stream: BinaryIO = stack.enter_context(Path(source).open("rb"))
            except OSError as error:
                raise AudioError(f"{name}: {error.strerror or error}") from None
            except ValueError as error:  # a path with a null character
                raise AudioError(f"{name!r}: {error}") from None
        else:
            name = name or str(getattr(source, "name", "") or "audio data")
            stream = io.BytesIO(source if isinstance(source, bytes) else source.read())
        try:
            # libsndfile reads a path itself, without a call back into Python for every few bytes.
            readable = os.fspath(source) if isinstance(source, (str, os.PathLike)) else stream
            sound = stack.enter_context(_sound_file(stream, readable, name))
            _check_rate(sound.samplerate, name)
            yield sound, name
        except soundfile.SoundFileError as error:
            raise AudioError(f"{name}: cannot be decoded ({_reason(error)})") from None


def _sound_file(stream: BinaryIO, readable: str | BinaryIO, name: str) -> contextlib.AbstractContextManager[_Sound]:
    try:
        check_complete(stream, name)
        sound = _SoundFile(readable)
    except (TypeError, OSError) as error:  # TypeError: headerless audio (.raw), of which nothing is known
        raise AudioError(f"{name}: cannot be read ({error})") from None
    except soundfile.SoundFileError as error:
        stream.seek(0)
        return open_container(stream, name, _reason(error))
    if sound.frames >= UNKNOWN_FRAMES:
        raise AudioError(f"{name}: the header does not tell the length, as happens when FLAC is written to a pipe")
    return cast("contextlib.AbstractContextManager[_Sound]", sound)


def _reason(error: soundfile.SoundFileError) -> str:
    return str(getattr(error, "error_string", error)).strip().rstrip(".")


def _part(sound: _Sound, start: float | None, end: float | None, name: str) -> tuple[int, int]:
    length = sound.frames / sound.samplerate
    if start is not None and not 0 <= start < max(length, 1e-9):
        raise AudioError(f"{name}: the part starts at {start} s, the audio lasts {length:.3f} s")
    if end is not None and not (start or 0) < end <= length + MAX_OVERSHOOT_SECONDS:
        raise AudioError(f"{name}: the part ends at {end} s (start {start or 0} s), the audio lasts {length:.3f} s")
    first = round((start or 0) * sound.samplerate)
    last = sound.frames if end is None else min(sound.frames, round(end * sound.samplerate))
    return first, last


def _mono_blocks(
    sound: _Sound, start: float | None, end: float | None, sample_rate: int, name: str
) -> Iterator[Samples]:
    """At least one block, and one that is not empty: or an AudioError."""
    position, last = first, _ = _part(sound, start, end, name)
    if first:
        sound.seek(first)
    resampler = OnlineResampler(sound.samplerate, sample_rate)
    block_frames, num_samples = max(1, BLOCK_SAMPLES // sound.channels), 0
    while position < last:
        block = sound.read(min(last - position, block_frames), dtype="float32", always_2d=True)
        if not len(block):
            break
        mono = block[:, 0] if sound.channels == 1 else _downmix(block)
        _check_values(mono, position, sound.samplerate, name)
        position += len(block)
        samples = resampler.process(mono)
        num_samples += len(samples)
        yield samples
    if last - position > sound.slack:
        found, promised = position / sound.samplerate, last / sound.samplerate
        raise AudioError(f"{name}: truncated: the audio ends at {found:.3f} s of {promised:.3f} s")
    samples = resampler.process(np.zeros(0, dtype=np.float32), last=True)
    if not num_samples + len(samples):
        raise AudioError(f"{name}: no samples")
    yield samples
