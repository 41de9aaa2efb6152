"""`unichoir stream` with a microphone: the package sounddevice is replaced by one with scripted devices."""

import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from unichoir.audio.io import load_audio
from unichoir.audio.microphone import Microphone
from unichoir.errors import AudioError
from unichoir.transcript.results import StreamResult

RATE = 16000
WORDS = "SIX OH FOUR FIVE NINE ONE TWO"
UNPLUGGED = "error: microphone USB Mic: no more audio (was it unplugged?)"
Run = Callable[..., tuple[int, str, str]]
Feed = Callable[["FakeInput"], None]


class PortAudioError(Exception):
    pass


class FakeInput:
    """`sounddevice.InputStream`: `sound.feed` determines what happens after `start`."""

    def __init__(self, sound: "FakeSound", **options: Any) -> None:
        self.sound, self.options = sound, options
        sound.opened.append(self)
        if sound.broken:
            raise sound.broken

    def start(self) -> None:
        self.sound.feed(self)

    def stop(self) -> None:
        self.options["finished_callback"]()

    def close(self) -> None:
        self.sound.closed.append(self)

    def hear(self, samples: np.ndarray, overflows: int = 0) -> None:
        """Call back once for each block, with a reused buffer, as PortAudio does."""
        size = self.options["blocksize"]
        buffer = np.zeros((size, 1), np.int16)
        for number, start in enumerate(range(0, len(samples), size)):
            block = samples[start : start + size]
            buffer[: len(block), 0] = block
            status = SimpleNamespace(input_overflow=number < overflows)
            self.options["callback"](buffer[: len(block)], len(block), None, status)
        buffer[:] = 32767


class FakeSound(SimpleNamespace):
    """The used part of the module: a loudspeaker and three microphones, the second of which is the default."""

    def __init__(self, feed: Feed) -> None:
        names = [("HDMI", 0), ("Webcam", 2), ("USB Mic", 1), ("USB Headset", 1)]
        devices = [
            {"index": index, "name": name, "max_input_channels": channels, "default_samplerate": float(RATE)}
            for index, (name, channels) in enumerate(names)
        ]
        super().__init__(feed=feed, devices=devices, opened=[], closed=[], broken=None, PortAudioError=PortAudioError)
        self.default = SimpleNamespace(device=[2, 0])

    def InputStream(self, **options: Any) -> FakeInput:
        return FakeInput(self, **options)

    def query_devices(self, device: int | str | None = None, kind: str | None = None) -> Any:
        if kind is None:
            return self.devices
        if isinstance(device, str):
            found = [info for info in self.devices if device in info["name"] and info["max_input_channels"]]
            if len(found) != 1:
                raise ValueError(f"{len(found)} input devices found\nfor {device!r}")
            return found[0]
        index = self.default.device[0] if device is None else device
        if index >= len(self.devices):
            raise PortAudioError(f"Error querying device {index}")
        return self.devices[index]


@pytest.fixture
def speech(clips: list[Path]) -> np.ndarray:
    return (load_audio(clips[0], sample_rate=RATE) * 32767).astype(np.int16)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[Feed], FakeSound]:
    def install(feed: Feed) -> FakeSound:
        sound = FakeSound(feed)
        monkeypatch.setitem(sys.modules, "sounddevice", sound)
        return sound

    return install


def test_what_is_said_until_ctrl_c(
    run: Run, install: Callable[[Feed], FakeSound], speech: np.ndarray, finals_of: Callable[..., list[StreamResult]]
) -> None:
    def feed(device: FakeInput) -> None:
        def talk() -> None:
            device.hear(speech)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=talk).start()

    sound = install(feed)
    code, out, err = run("--threads", 1)
    assert code == 0
    assert (
        out.splitlines() == [line for line in out.splitlines() if re.fullmatch(rf"\[[\d:. -]+\] {WORDS}", line)] != []
    )
    assert err == "listening to USB Mic at 16000 Hz, Ctrl-C ends\n"
    assert [final.text for final in finals_of(speech)] == [WORDS]
    assert sound.opened == sound.closed
    assert sound.opened[0].options["device"] == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_is_obeyed_at_once(run: Run, install: Callable[[Feed], FakeSound], speech: np.ndarray) -> None:
    def feed(device: FakeInput) -> None:
        device.hear(speech)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    install(feed)
    code, out, _ = run()
    assert code != 0
    assert out == ""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(("device", "index"), [("Webcam", 1), ("USB M", 2), ("1", 1)])
def test_unplugged_in_the_middle(
    run: Run, install: Callable[[Feed], FakeSound], speech: np.ndarray, device: str, index: int
) -> None:
    def feed(device: FakeInput) -> None:
        device.hear(speech)
        device.options["finished_callback"]()

    sound = install(feed)
    code, out, err = run("--device", device, "--latency")
    assert code == 1
    assert out.strip().endswith(f"] {WORDS}")  # what it gave is not lost
    name = sound.devices[index]["name"]
    assert err.splitlines()[-1] == UNPLUGGED.replace("USB Mic", name)
    assert "real-time factor" in err
    assert sound.opened == sound.closed
    assert sound.opened[0].options["device"] == index


def test_lost_audio_is_counted_and_told(run: Run, install: Callable[[Feed], FakeSound], speech: np.ndarray) -> None:
    """Nothing takes the blocks while 13 seconds of them come: ten fit."""

    def feed(device: FakeInput) -> None:
        device.hear(np.concatenate([speech, np.zeros(13 * RATE - len(speech), np.int16)]), overflows=2)
        device.options["finished_callback"]()

    install(feed)
    code, out, err = run()
    assert code == 1
    assert out.strip().endswith(f"] {WORDS}")
    assert err.splitlines() == [
        "listening to USB Mic at 16000 Hz, Ctrl-C ends",
        "warning: audio is being lost; the total follows at the end",
        "warning: 3.0 s of audio were lost: recognition could not keep up with the speech",
        "warning: the microphone lost audio 2 times before it could be read",
        UNPLUGGED,
    ]


def test_a_device_that_just_falls_silent(install: Callable[[Feed], FakeSound], speech: np.ndarray) -> None:
    """Not every system says that a device has gone."""
    install(lambda device: device.hear(speech))
    now = iter(np.arange(0, 10**6, 1.5))
    blocks = []
    with Microphone(clock=lambda: float(next(now))) as microphone, pytest.raises(AudioError, match="unplugged"):
        blocks.extend(block for block, _ in microphone.blocks(lambda: False))
    np.testing.assert_array_equal(np.concatenate(blocks), speech)


def test_devices_are_listed(run: Run, install: Callable[[Feed], FakeSound]) -> None:
    install(lambda device: None)
    code, out, err = run("--list-devices")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "  1 Webcam (16000 Hz)",
        "  2 USB Mic (16000 Hz, the default)",
        "  3 USB Headset (16000 Hz)",
    ]


@pytest.mark.parametrize(
    ("device", "message"),
    [("Nothing", "'Nothing' is not an audio input (0 input devices found for"), ("USB", "(2 input"), ("9", "device 9")],
)
def test_devices_that_there_are_not(run: Run, install: Callable[[Feed], FakeSound], device: str, message: str) -> None:
    install(lambda device: None)
    code, out, err = run("--device", device)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("error: microphone: ")
    assert message in err


@pytest.mark.parametrize("arguments", [[], ["--list-devices"], ["--device", "0"]])
def test_no_microphone_at_all(run: Run, install: Callable[[Feed], FakeSound], arguments: list[str]) -> None:
    sound = install(lambda device: None)
    sound.devices = sound.devices[:1]
    assert run(*arguments) == (1, "", "error: microphone: this machine has no audio input\n")


@pytest.mark.parametrize(
    ("at_start", "error", "message"),
    [
        (False, PortAudioError("Device unavailable", -9985), "another program is using it, or it was unplugged"),
        (True, PortAudioError("Error starting stream: Unanticipated host error", -9999), "Unanticipated host error"),
    ],
)
def test_devices_that_cannot_be_opened(
    run: Run, install: Callable[[Feed], FakeSound], at_start: bool, error: PortAudioError, message: str
) -> None:
    def fail(device: FakeInput) -> None:
        raise error

    sound = install(fail)
    if not at_start:
        sound.broken = error
    code, out, err = run()
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("error: microphone USB Mic: cannot be opened (")
    assert message in err
    assert sound.closed == (sound.opened if at_start else [])


def test_what_the_microphone_needs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    expected = "error: the microphone needs an extra: pip install 'unichoir[mic]' (no sounddevice)\n"
    assert run() == run("--list-devices") == (1, "", expected)


def test_portaudio_may_be_missing(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    code, out, err = run()
    assert (code, out, err.count("\n")) == (1, "", 1)
    for part in ("PortAudio library not found", "pip install 'unichoir[mic]'", "libportaudio2"):
        assert part in err
