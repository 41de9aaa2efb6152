"""From audio files, streams and arrays to mono float32 samples at the requested rate."""

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
"""A function that is called with a warning about a recording, which starts with its name."""

MIN_RATE, MAX_RATE = 2_000, 768_000
MAX_CHANNELS = 64
MAX_VALUES_PER_SECOND = MAX_CHANNELS * 48_000
MAX_VALUES = 1 << 36
"""Maximum number of samples over all channels of a recording: 100 hours of 4 channels at 48 kHz. Compressed files can
expand to more."""
# Decoders and resamplers overshoot [-1, 1] slightly. Larger values are on another scale.
MAX_AMPLITUDE = 16.0
# A segment may end this much after its file, because segment times are often rounded up.
MAX_OVERSHOOT_SECONDS = 0.5
MEMORY_BYTES = 16 << 20
"""Maximum bytes of a pipe kept in memory. Longer input goes to disk."""
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
    """Decode audio, mix it to mono and resample it.

    Args:
        source: a path, the bytes of a file, or a binary stream (not closed), in a format listed in
            docs/guides/transcribe.md. Pipes work too.
        sample_rate: sample rate of the result in Hz.
        start, end: the part to read, in seconds; None means the beginning and the end of the file.
        channel: the channel to use, counted from 1. None uses the mean or, if channels cancel each other, the loudest.
        name: the name of the input in errors; by default its path.
        warn: called if channels cancel each other and, unless `strict`, if audio is missing.
        strict: whether missing audio raises AudioError.

    Returns:
        (N,) samples, nominally in [-1, 1].

    Raises:
        AudioError: the audio is missing, unreadable, empty or not finite, or the part lies outside of it.
    """
    options: Any = {"start": start, "end": end, "channel": channel, "warn": warn, "strict": strict}
    return read_audio(source, sample_rate=sample_rate, name=name, **options)[0]


def read_audio(
    source: AudioSource, *, sample_rate: int | None = None, name: str | None = None, **options: Any
) -> tuple[Samples, int]:
    """Like `load_audio`, by default at the file's own rate. Returns (N,) samples and their rate in Hz."""
    with open_recording(source, name) as recording:
        blocks = list(recording.blocks(sample_rate, **options))
        return np.ascontiguousarray(np.concatenate(blocks)), sample_rate or recording.sample_rate


def audio_blocks(
    source: AudioSource, *, sample_rate: int = 16000, name: str | None = None, **options: Any
) -> Iterator[Samples]:
    """Like `load_audio`, but in blocks (N,) of a few seconds, which limits memory.

    Raises AudioError like `load_audio`, after the blocks that precede the fault.
    """
    with open_recording(source, name) as recording:
        yield from recording.blocks(sample_rate, **options)


def audio_duration(source: AudioSource, *, name: str | None = None) -> float:
    """Return the length in seconds, found by decoding. Raises AudioError like `load_audio`, also for missing audio."""
    with open_recording(source, name) as recording:
        return recording.measure()


@contextlib.contextmanager
def open_recording(
    source: AudioSource, name: str | None = None, *, max_seconds: float = np.inf, max_values: int | None = None
) -> Iterator["Recording"]:
    """Open a file as a recording that can be read several times. Raises AudioError if it can't be opened.

    max_seconds, max_values: limits in seconds and in samples over all channels; decoding more raises AudioTooLong. None
    is MAX_VALUES.
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
    """Return an array as a recording. Samples and errors are as for `check_samples`."""
    block = Block(_check_array(samples, sample_rate, name), sample_rate, 0.0)
    return Recording(name, Sound(lambda start: iter([block]), lambda: block.end))


def _is_whole(stream: BinaryIO) -> bool:
    """Return whether a stream is seekable and at its beginning."""
    try:
        return stream.seekable() and stream.tell() == 0
    except (AttributeError, OSError):
        return False


def _spooled(stream: BinaryIO, stack: contextlib.ExitStack) -> BinaryIO:
    """Return a seekable copy of a stream, which the stack closes."""
    copy = stack.enter_context(tempfile.SpooledTemporaryFile(max_size=MEMORY_BYTES))  # noqa: SIM115
    copyfileobj(stream, copy)
    return cast(BinaryIO, copy)


class Recording:
    """Audio that can be read several times.

    name: its name in errors and warnings; max_seconds, max_values: as for `open_recording`.
    """

    def __init__(self, name: str, sound: Sound, max_seconds: float = np.inf, max_values: int | None = None) -> None:
        self.name = name
        self._sound = sound
        self._max_seconds = max_seconds
        self._max_values = max_values or MAX_VALUES
        self._first: Block | None = None

    @property
    def sample_rate(self) -> int:
        """Its own sample rate in Hz, measured at its beginning."""
        return self._beginning.rate

    @property
    def num_channels(self) -> int:
        """Number of channels at its beginning."""
        return len(self._beginning.samples)

    def estimate(self) -> float:
        """Return the seconds that the header states, for progress only; 0 if it states none."""
        return self._sound.seconds() or 0.0

    def measure(self) -> float:
        """Return the seconds, found by decoding. Raises AudioError, also for missing audio."""
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
        """Like `audio_blocks`, by default at its own rate. Yields at least one block with samples."""
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
            warn(f"{self.name}: the channels cancel each other; the loudest channel is used there")

    @property
    def _beginning(self) -> Block:
        if self._first is None:
            next(self._decode(0.0, _Losses()), None)
        if self._first is None:
            raise AudioError(f"{self.name}: no samples")
        return self._first

    def _decode(self, start: float, losses: "_Losses") -> Iterator[Block]:
        """Yield all blocks, or those from `start` on, within the limits. Raises AudioError."""
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
        """Return the end in seconds, found by decoding; 0 without audio."""
        return max((block.end for block in self._decode(0.0, losses)), default=0.0)

    def _named(self, blocks: Iterator[Block | Loss]) -> Iterator[Block | Loss]:
        """Yield the same blocks. Errors get the name of the recording."""
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
    """The losses of a recording from `first` on, in seconds. Their report always fits in one line."""

    def __init__(self, first: float = 0.0) -> None:
        self._first = first - LOSS_SECONDS
        self._found: list[str] = []
        self._count = 0

    def add(self, loss: Loss) -> None:
        """Add a loss. One that starts before the part may reach into it."""
        if loss.time >= self._first:
            self._count += 1
            if self._count <= MAX_NAMED:
                self._found.append(str(loss))

    def tell(self, name: str, warn: Warn | None, strict: bool) -> None:
        """Report the losses to `warn` or, if strict, raise AudioError."""
        if not self._count:
            return
        more = f"; and {self._count - MAX_NAMED} more" if self._count > MAX_NAMED else ""
        line = f"{name}: {'; '.join(self._found)}{more}"
        if strict:
            raise AudioError(line)
        if warn is not None:
            warn(line)


def resample(samples: Samples, from_rate: float, to_rate: float) -> Samples:
    """Resample (N,) to (about N * to_rate / from_rate,) samples, band-limited (soxr, high quality)."""
    if from_rate == to_rate:
        return samples
    return np.asarray(soxr.resample(samples, from_rate, to_rate), dtype=np.float32)


class OnlineResampler:
    """`resample` for samples that arrive in blocks. Block sizes don't affect the result. Equal rates copy the samples.

    The output lags behind the input: to 16 kHz by 40 ms from 24, 44.1 and 48 kHz, and by 120 ms from 8 kHz.
    """

    def __init__(self, from_rate: float, to_rate: float) -> None:
        self.from_rate = from_rate
        self._stream = None if from_rate == to_rate else soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32")

    def process(self, samples: Samples, last: bool = False) -> Samples:
        """Return the next samples (N,) at the new rate. `last` flushes the stream; it can't be used afterwards."""
        return samples if self._stream is None else self._stream.resample_chunk(samples, last=last)

    def finish(self) -> Samples:
        """Flush the stream; it can't be used afterwards."""
        return self.process(np.zeros(0, dtype=np.float32), last=True)


def check_samples(samples: NDArray[Any], sample_rate: int, name: str = "samples", *, is_block: bool = False) -> Samples:
    """Return mono float32 samples from a user's array. The sample rate doesn't change.

    Args:
        samples: (N,) or (N, channels), float in [-1, 1] or int16.
        sample_rate: in Hz; only checked.
        name: the name of the array in errors.
        is_block: whether this is a block of a stream. Blocks always use the mean of the channels, because block sizes
            must not affect the result.

    Raises:
        AudioError: the array is empty, not finite, of another type or shape, or far outside [-1, 1], or the rate is
            invalid.
    """
    channels = _check_array(samples, sample_rate, name)
    with np.errstate(over="ignore", invalid="ignore"):
        mono = channels.mean(axis=0) if is_block else mix(channels, None, name)[0]
    _check_values(mono, 0, sample_rate, name)
    return np.ascontiguousarray(mono, dtype=np.float32)


def _check_array(samples: NDArray[Any], sample_rate: int, name: str) -> NDArray[np.floating[Any]]:
    """Return an array accepted by `check_samples` as (C, N); the values are not checked."""
    samples = np.asarray(samples)
    _check_rate(sample_rate, name)
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and not 1 <= samples.shape[1] <= MAX_CHANNELS):
        raise AudioError(f"{name}: expected shape (N,) or (N, channels), found {samples.shape}")
    if samples.dtype != np.int16 and samples.dtype.kind != "f":
        raise AudioError(f"{name}: expected float or int16 samples, found {samples.dtype}")
    if not samples.shape[0]:
        raise AudioError(f"{name}: no samples")
    with np.errstate(over="ignore"):  # infinite values are detected later
        samples = to_float(samples) if samples.dtype == np.int16 else samples.astype(np.float32, copy=False)
    return samples[None] if samples.ndim == 1 else samples.T


def _check_rate(sample_rate: int, name: str) -> None:
    if not isinstance(sample_rate, (int, np.integer)) or isinstance(sample_rate, bool):
        raise AudioError(f"{name}: sample rate must be a whole number of Hz, found {sample_rate!r}")
    if not MIN_RATE <= sample_rate <= MAX_RATE:
        raise AudioError(f"{name}: sample rate {sample_rate} Hz is not between {MIN_RATE} and {MAX_RATE}")


def _check_values(mono: NDArray[np.floating[Any]], first: int, sample_rate: int, name: str) -> None:
    # One reduction detects both: a NaN or an infinity propagates.
    peak = float(np.abs(mono).max()) if len(mono) else 0.0
    if not np.isfinite(peak):
        position = first + int(np.flatnonzero(~np.isfinite(mono))[0])
        raise AudioError(f"{name}: a sample is not a finite number (at {position / sample_rate:.3f} s)")
    if peak > MAX_AMPLITUDE:
        raise AudioError(f"{name}: float samples should lie in [-1, 1], found {peak:.6g} (pass int16 samples as int16)")
