"""Audio files, streams and arrays to mono float32 samples at the wanted rate."""

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copyfileobj
from typing import Any, BinaryIO, cast

import numpy as np
import soxr
from numpy.typing import NDArray

from unichoir.audio.channels import mix, with_channel
from unichoir.audio.decoders import Block, Loss, Sound, open_sound, to_float
from unichoir.errors import AudioError, AudioTooLong

Samples = NDArray[np.float32]
AudioSource = str | os.PathLike[str] | BinaryIO | bytes
Warn = Callable[[str], None]
"""Called with a line that names a recording and says what of it is missing, or not as one would think."""

MIN_RATE, MAX_RATE = 2_000, 768_000
MAX_CHANNELS = 64
MAX_VALUES_PER_SECOND = MAX_CHANNELS * 48_000
MAX_VALUES = 1 << 36
"""Samples of all channels of a recording: 100 hours of 4 channels at 48 kHz. A few bytes can stand for more."""
# Decoders and resamplers overshoot [-1, 1] a little; an array beyond this was surely meant on another scale.
MAX_AMPLITUDE = 16.0
# A segment may end this much after its file does: segment times are often rounded up.
MAX_OVERSHOOT_SECONDS = 0.5
MEMORY_BYTES = 16 << 20
"""Of what comes from a pipe; what is longer goes to the disk."""
MAX_NAMED = 3
LOSS_SECONDS = 1.0


def load_audio(
    source: AudioSource,
    *,
    sample_rate: int = 16000,
    start: float | None = None,
    end: float | None = None,
    channel: int | None = None,
    name: str | None = None,
    warn: Warn | None = None,
    strict: bool = True,
) -> Samples:
    """Decode, mix to mono and resample.

    Args:
        source: a path, the bytes of a file, or a binary stream (left anywhere), of a kind that docs/guides/transcribe.md
            names. A pipe is as good as a file.
        sample_rate: rate of the result in Hz.
        start, end: the part to read, in seconds; None means the beginning and the end of the file.
        channel: the one to take, from 1; None: their mean or, where they cancel each other, the louder one.
        name: what errors call the input; by default its path.
        warn: called where channels cancel and, unless `strict`, where something is missing.
        strict: what is missing is an AudioError.

    Returns:
        (N,) samples, nominally in [-1, 1].

    Raises:
        AudioError: missing, unreadable, empty or not finite audio, or a part that lies outside of it.
    """
    options: Any = {"start": start, "end": end, "channel": channel, "warn": warn, "strict": strict}
    return read_audio(source, sample_rate=sample_rate, name=name, **options)[0]


def read_audio(
    source: AudioSource, *, sample_rate: int | None = None, name: str | None = None, **options: Any
) -> tuple[Samples, int]:
    """As `load_audio`, at the file's own rate by default; returns (N,) samples and their rate in Hz."""
    with open_recording(source, name) as recording:
        blocks = list(recording.blocks(sample_rate, **options))
        return np.ascontiguousarray(np.concatenate(blocks)), sample_rate or recording.sample_rate


def audio_blocks(
    source: AudioSource, *, sample_rate: int = 16000, name: str | None = None, **options: Any
) -> Iterator[Samples]:
    """What `load_audio` gives, in blocks (N,) of some seconds: memory does not grow with the length.

    Raises AudioError as `load_audio` does, where the fault is met: blocks before it have been given by then.
    """
    with open_recording(source, name) as recording:
        yield from recording.blocks(sample_rate, **options)


def audio_duration(source: AudioSource, *, name: str | None = None) -> float:
    """Length in seconds, found by decoding. Raises AudioError as `load_audio` does, also for what is missing."""
    with open_recording(source, name) as recording:
        return recording.measure()


@contextlib.contextmanager
def open_recording(
    source: AudioSource, name: str | None = None, *, max_seconds: float = np.inf, max_values: int | None = None
) -> Iterator["Recording"]:
    """A file as a recording that can be read several times. Raises AudioError for what cannot be opened.

    max_seconds, max_values: more of it, in seconds and in samples of all channels, is not decoded but an AudioTooLong;
    None: MAX_VALUES.
    """
    if isinstance(source, (str, os.PathLike)):
        name = name or os.fspath(source)
    name = name or str(getattr(source, "name", "") or "audio data")
    with contextlib.ExitStack() as stack:
        try:
            if isinstance(source, (str, os.PathLike)):
                source = cast(BinaryIO, stack.enter_context(Path(source).open("rb")))
                file = source if source.seekable() else _spooled(source, stack)
            elif isinstance(source, bytes):
                file = io.BytesIO(source)
            else:
                file = source if _is_whole(source) else _spooled(source, stack)
        except OSError as error:
            raise AudioError(f"{name}: {error.strerror or error}") from None
        except ValueError as error:  # a path with a null character
            raise AudioError(f"{name!r}: {error}") from None
        try:
            sound = open_sound(file)
        except AudioError as error:
            raise AudioError(f"{name}: {error}") from None
        yield Recording(name, sound, max_seconds, max_values)


def array_recording(samples: NDArray[Any], sample_rate: int, name: str = "samples") -> "Recording":
    """An array as a recording; samples, errors: as for `check_samples`."""
    block = Block(_check_array(samples, sample_rate, name), sample_rate, 0.0)
    return Recording(name, Sound(lambda start: iter([block]), lambda: block.end))


def _is_whole(stream: BinaryIO) -> bool:
    """Whether a stream can be gone back in and stands at its beginning."""
    try:
        return stream.seekable() and stream.tell() == 0
    except (AttributeError, OSError):
        return False


def _spooled(stream: BinaryIO, stack: contextlib.ExitStack) -> BinaryIO:
    """A copy of a stream that can be gone back in, as long as the stack is there."""
    copy = stack.enter_context(tempfile.SpooledTemporaryFile(max_size=MEMORY_BYTES))  # noqa: SIM115
    copyfileobj(stream, copy)
    return cast(BinaryIO, copy)


class Recording:
    """Sound that can be read several times.

    name: what errors and warnings call it; max_seconds, max_values: as for `open_recording`.
    """

    def __init__(self, name: str, sound: Sound, max_seconds: float = np.inf, max_values: int | None = None) -> None:
        self.name = name
        self._sound = sound
        self._max_seconds = max_seconds
        self._max_values = max_values or MAX_VALUES
        self._first: Block | None = None

    @property
    def sample_rate(self) -> int:
        """Its own, in Hz: that of its beginning."""
        return self._beginning.rate

    @property
    def num_channels(self) -> int:
        """At its beginning."""
        return len(self._beginning.samples)

    def estimate(self) -> float:
        """Seconds as its header tells, for progress only; 0 where it tells none."""
        return self._sound.seconds() or 0.0

    def measure(self) -> float:
        """Seconds, found by decoding. Raises AudioError, also for what is missing."""
        losses = _Losses()
        end = self._end(losses)
        if not end:
            raise AudioError(f"{self.name}: no samples")
        losses.tell(self.name, None, strict=True)
        return end

    def blocks(
        self,
        sample_rate: int | None = None,
        *,
        start: float | None = None,
        end: float | None = None,
        channel: int | None = None,
        warn: Warn | None = None,
        strict: bool = True,
    ) -> Iterator[Samples]:
        """As `audio_blocks`, by default at its own rate. At least one block, and one that is not empty."""
        first, last = start or 0.0, np.inf if end is None else end
        if first < 0 or not first < last:
            raise AudioError(f"{self.name}: the part starts at {first} s and ends at {last} s")
        losses, resampler, num_samples, reached = _Losses(first), None, 0, 0.0
        cancelled = has_other_channels = False
        for block in self._decode(first, losses):
            rate, reached = block.rate, block.end
            sample_rate = sample_rate or self.sample_rate
            begin = max(0, round((first - block.time) * rate))
            values = block.samples[:, begin : max(0, round((min(last, reached) - block.time) * rate))]
            if not values.shape[1]:
                continue
            begun, found = self.num_channels, len(values)
            if channel is not None and channel <= begun != found:
                if not has_other_channels:
                    losses.add(Loss(f"{found} instead of {begun} channels from {{:.3f}} s on", block.time))
                has_other_channels = True
                values = with_channel(values, channel)
            mono, cancels = mix(values, channel, self.name)
            cancelled |= cancels
            _check_values(mono, round(block.time * rate) + begin, rate, self.name)
            if resampler is None or resampler.from_rate != rate:
                if resampler is not None:
                    yield resampler.finish()
                resampler = OnlineResampler(rate, sample_rate)
            samples = resampler.process(mono)
            num_samples += len(samples)
            yield samples
            if reached >= last:
                break
        else:
            self._check_part(start, end, reached)
        if resampler is not None:
            samples = resampler.finish()
            num_samples += len(samples)
            yield samples
        if not num_samples:
            raise AudioError(f"{self.name}: no samples")
        losses.tell(self.name, warn, strict)
        if cancelled and warn is not None:
            warn(f"{self.name}: the channels cancel each other, the louder one is taken where they do")

    @property
    def _beginning(self) -> Block:
        if self._first is None:
            next(self._decode(0.0, _Losses()), None)
        if self._first is None:
            raise AudioError(f"{self.name}: no samples")
        return self._first

    def _decode(self, start: float, losses: "_Losses") -> Iterator[Block]:
        """All blocks, or those from `start` on, checked for what they would cost. Raises AudioError."""
        num_values = 0
        for block in self._named(self._sound.blocks(start)):
            if isinstance(block, Loss):
                losses.add(block)
                continue
            channels, length = block.samples.shape
            _check_rate(block.rate, self.name)
            if channels > MAX_CHANNELS or channels * block.rate > MAX_VALUES_PER_SECOND:
                raise AudioError(f"{self.name}: {channels} channels at {block.rate} Hz are too many")
            num_values += channels * length
            if num_values > self._max_values:
                message = f"more than {self._max_values} samples of all channels, at {block.time:.0f} s"
                raise AudioTooLong(f"{self.name}: {message}")
            if block.end > self._max_seconds:
                raise AudioTooLong(f"{self.name}: longer than {self._max_seconds:g} s")
            self._first = self._first or block
            yield block

    def _end(self, losses: "_Losses") -> float:
        """In seconds, found by decoding; 0 where there is no sound."""
        return max((block.end for block in self._decode(0.0, losses)), default=0.0)

    def _named(self, blocks: Iterator[Block | Loss]) -> Iterator[Block | Loss]:
        """The same; errors say of which recording they are."""
        try:
            yield from blocks
        except (AudioError, OSError) as error:
            raise AudioError(f"{self.name}: {getattr(error, 'strerror', None) or error}") from None

    def _check_part(self, start: float | None, end: float | None, length: float) -> None:
        if start and start >= length:
            length = length or self._end(_Losses())
            raise AudioError(f"{self.name}: the part starts at {start} s, the audio lasts {length:.3f} s")
        if end is not None and end > length + MAX_OVERSHOOT_SECONDS:
            raise AudioError(
                f"{self.name}: the part ends at {end} s (start {start or 0} s), the audio lasts {length:.3f} s"
            )


class _Losses:
    """What is missing in a recording from `first` on, in seconds: as much as fits a line, however much it is."""

    def __init__(self, first: float = 0.0) -> None:
        self._first = first - LOSS_SECONDS
        self._found: list[str] = []
        self._count = 0

    def add(self, loss: Loss) -> None:
        """One that has begun before the part may reach into it."""
        if loss.time >= self._first:
            self._count += 1
            if self._count <= MAX_NAMED:
                self._found.append(str(loss))

    def tell(self, name: str, warn: Warn | None, strict: bool) -> None:
        """Say it to `warn` or, when strict, with an AudioError."""
        if not self._count:
            return
        more = f"; and {self._count - MAX_NAMED} more such places" if self._count > MAX_NAMED else ""
        line = f"{name}: {'; '.join(self._found)}{more}"
        if strict:
            raise AudioError(line)
        if warn is not None:
            warn(line)


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
        self.from_rate = from_rate
        self._stream = None if from_rate == to_rate else soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32")

    def process(self, samples: Samples, last: bool = False) -> Samples:
        """The next samples (N,) at the new rate; `last` gives all that is left, and nothing may follow."""
        return samples if self._stream is None else self._stream.resample_chunk(samples, last=last)

    def finish(self) -> Samples:
        """All that is left; nothing may follow."""
        return self.process(np.zeros(0, dtype=np.float32), last=True)


def check_samples(samples: NDArray[Any], sample_rate: int, name: str = "samples", *, is_block: bool = False) -> Samples:
    """Mono float32 samples from an array given by a user; the rate stays as it is.

    Args:
        samples: (N,) or (N, channels), float in [-1, 1] or int16.
        sample_rate: in Hz; only checked.
        name: what errors call the array.
        is_block: it is a part of a stream, of which always the mean is taken: how a stream is cut must change nothing.

    Raises:
        AudioError: empty, not finite, another type or shape, values far outside [-1, 1], or an unusable rate.
    """
    channels = _check_array(samples, sample_rate, name)
    with np.errstate(over="ignore", invalid="ignore"):
        mono = channels.mean(axis=0) if is_block else mix(channels, None, name)[0]
    _check_values(mono, 0, sample_rate, name)
    return np.ascontiguousarray(mono, dtype=np.float32)


def _check_array(samples: NDArray[Any], sample_rate: int, name: str) -> NDArray[np.floating[Any]]:
    """(C, N) of an array as `check_samples` takes it; the values are not checked."""
    samples = np.asarray(samples)
    _check_rate(sample_rate, name)
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and not 1 <= samples.shape[1] <= MAX_CHANNELS):
        raise AudioError(f"{name}: expected shape (N,) or (N, channels), found {samples.shape}")
    if samples.dtype != np.int16 and samples.dtype.kind != "f":
        raise AudioError(f"{name}: expected float or int16 samples, found {samples.dtype}")
    if not samples.shape[0]:
        raise AudioError(f"{name}: no samples")
    with np.errstate(over="ignore"):  # what has become infinite is found with the values
        samples = to_float(samples) if samples.dtype == np.int16 else samples.astype(np.float32, copy=False)
    return samples[None] if samples.ndim == 1 else samples.T


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
