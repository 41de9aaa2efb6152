"""Live audio from a microphone, through the package sounddevice (extra `mic`) and PortAudio."""

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
"""Audio that may wait to be recognised; what comes while so much is waiting is lost, and counted."""
MAX_SILENT_SECONDS = 5.0
"""Some systems do not tell that a device has gone: after so long without a block it has."""
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
    """Its default one, in Hz."""
    is_default: bool


def input_devices() -> list[Device]:
    """All audio inputs; at least one.

    Raises UnichoirError where sounddevice or PortAudio is missing, AudioError where there is no input.
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
    """An audio input, heard from `__enter__` to `__exit__`.

    Args:
        device: index or part of the name, as in `input_devices`; None: the system's default.
        clock: in seconds, for the blocks' times of arrival.

    Raises:
        UnichoirError: sounddevice or PortAudio is missing.
        AudioError: there is no such input, or it cannot be opened (then by `__enter__`).
    """

    def __init__(self, device: int | str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._sound = _sounddevice()
        self._clock = clock
        input_devices()  # says it better when there are none
        try:
            info = self._sound.query_devices(device, "input")
        except (ValueError, self._sound.PortAudioError) as error:
            called = "the default one" if device is None else f"'{device}'"
            raise AudioError(f"microphone: {called} is not an audio input ({_one_line(error)})") from None
        self.name: str = info["name"]
        self.sample_rate = int(info["default_samplerate"])
        """In Hz."""
        self.lost_seconds = 0.0
        """Of audio that came while too much was waiting already."""
        self.num_overflows = 0
        """How often the device reported that audio was lost before it got here, it does not say how much."""
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
        """Samples (N,) and when they arrived, until `stop` says so; then still what had arrived by that time.

        Raises AudioError when the device ends by itself, after all that it gave.
        """
        last = self._clock()
        while not stop():
            ended = self._ended.is_set()  # asked first: then all that came before is in the queue
            try:
                block = self._blocks.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                if ended or self._clock() - last > MAX_SILENT_SECONDS:
                    raise AudioError(f"microphone {self.name}: it gives no more audio (was it unplugged?)") from None
                continue
            last = self._clock()
            yield block
        self._stream.stop()
        while not self._blocks.empty():
            yield self._blocks.get_nowait()

    def _take(self, block: NDArray[np.int16], num_frames: int, _: Any, status: Any) -> None:
        """Called by PortAudio in a thread of its own: block (N, 1), which it uses again afterwards."""
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
            f"the microphone needs the library PortAudio ({_one_line(error)}): on macOS and Windows {_INSTALL} brings "
            "it, elsewhere the system's packages do (Debian, Ubuntu: apt install libportaudio2)"
        ) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
