"""Live audio from a microphone, using the package sounddevice (extra `mic`) and PortAudio."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unichoir.errors import AudioError, UnichoirError

BLOCK_SECONDS = 0.1
MAX_WAITING_SECONDS = 10.0
"""Maximum seconds of audio waiting for recognition. Audio that arrives beyond this is dropped and counted."""
MAX_SILENT_SECONDS = 5.0
"""Some systems don't report a removed device. After this many seconds without a block, the device counts as removed."""
_POLL_SECONDS = 0.1
_INSTALL = "pip install 'unichoir[mic]'"
_DEVICE_UNAVAILABLE = -9985
"""PortAudio's paDeviceUnavailable."""


@dataclass(frozen=True)
class Device:
    """An audio input."""

    index: int
    name: str
    sample_rate: int
    """Default sample rate in Hz."""
    is_default: bool


def input_devices() -> list[Device]:
    """Return all audio inputs, at least one.

    Raises UnichoirError if sounddevice or PortAudio is missing, and AudioError without any input.
    """
    sound = _sounddevice()
    default = sound.default.device[0]
    found = [
        Device(index, info["name"], int(info["default_samplerate"]), index == default)
        for index, info in enumerate(sound.query_devices())
        if info["max_input_channels"] > 0
    ]
    if not found:
        raise AudioError("microphone: this machine has no audio input")
    return found


class Microphone:
    """An audio input that records from `__enter__` to `__exit__`.

    Args:
        device: index or part of the name, as in `input_devices`; None uses the system's default.
        clock: returns seconds, for the arrival times of blocks.

    Raises:
        UnichoirError: sounddevice or PortAudio is missing.
        AudioError: the input doesn't exist, or can't be opened (raised by `__enter__`).
    """

    def __init__(self, device: int | str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._sound = _sounddevice()
        self._clock = clock
        input_devices()  # a clearer error without any device
        try:
            info = self._sound.query_devices(device, "input")
        except (ValueError, self._sound.PortAudioError) as error:
            called = "the default device" if device is None else f"'{device}'"
            raise AudioError(f"microphone: {called} is not an audio input ({_one_line(error)})") from None
        self.name: str = info["name"]
        self.sample_rate = int(info["default_samplerate"])
        """Sample rate in Hz."""
        self.lost_seconds = 0.0
        """Seconds of audio dropped because too much was waiting."""
        self.num_overflows = 0
        """How often the device reported lost audio. It doesn't report how much."""
        self._index = info["index"]
        self._blocks: queue.Queue[tuple[NDArray[np.int16], float]] = queue.Queue(
            round(MAX_WAITING_SECONDS / BLOCK_SECONDS)
        )
        self._ended = threading.Event()
        self._stream: Any = None

    def __enter__(self) -> "Microphone":
        try:
            self._stream = self._sound.InputStream(
                samplerate=self.sample_rate,
                blocksize=round(BLOCK_SECONDS * self.sample_rate),
                device=self._index,
                channels=1,
                dtype="int16",
                callback=self._take,
                finished_callback=self._ended.set,
            )
            self._stream.start()
        except (ValueError, self._sound.PortAudioError) as error:
            if self._stream is not None:
                self._stream.close()
            busy = len(error.args) > 1 and error.args[1] == _DEVICE_UNAVAILABLE
            reason = "another program is using it, or it was unplugged" if busy else _one_line(error)
            raise AudioError(f"microphone {self.name}: cannot be opened ({reason})") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def blocks(self, stop: Callable[[], bool]) -> Iterator[tuple[NDArray[np.int16], float]]:
        """Yield samples (N,) and their arrival times until `stop` returns True, then everything that has arrived by
        then.

        If the device stops by itself, raises AudioError after all of its audio.
        """
        last = self._clock()
        while not stop():
            ended = self._ended.is_set()  # checked first: then the queue has everything that came before
            try:
                block = self._blocks.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                if ended or self._clock() - last > MAX_SILENT_SECONDS:
                    raise AudioError(f"microphone {self.name}: no more audio (was it unplugged?)") from None
                continue
            last = self._clock()
            yield block
        self._stream.stop()
        while not self._blocks.empty():
            yield self._blocks.get_nowait()

    def _take(self, block: NDArray[np.int16], num_frames: int, _: Any, status: Any) -> None:
        """Receive a block (N, 1). PortAudio calls this in its own thread and reuses the block afterwards."""
        if status.input_overflow:
            self.num_overflows += 1
        try:
            self._blocks.put_nowait((block[:, 0].copy(), self._clock()))
        except queue.Full:
            self.lost_seconds += num_frames / self.sample_rate


def _sounddevice() -> Any:
    try:
        return import_module("sounddevice")
    except ModuleNotFoundError as error:
        raise UnichoirError(f"the microphone needs an extra: {_INSTALL} (no {error.name})") from None
    except OSError as error:
        raise UnichoirError(
            f"the microphone needs the library PortAudio ({_one_line(error)}): on macOS and Windows, {_INSTALL} "
            "includes it; elsewhere install your system's package (Debian, Ubuntu: apt install libportaudio2)"
        ) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
