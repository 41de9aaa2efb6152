"""`unichoir stream`."""

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unichoir.cli._shared.arguments import (
    DEVICE_HELP,
    HotwordArguments,
    ModelArguments,
    WrittenArguments,
    refuse_unused,
)
from unichoir.cli._shared.common import note, warn, write_line
from unichoir.cli._shared.grouping import grouped
from unichoir.cli._shared.options import Chosen
from unichoir.cli._shared.stream_output import Format, TextLines, make_output
from unichoir.engine.device import DEVICES, Device
from unichoir.errors import AudioError
from unichoir.recognition.latency import LatencyMeter
from unichoir.recognition.options import StreamingOptions

if TYPE_CHECKING:
    from unichoir.api import Stream
    from unichoir.audio.microphone import Microphone

BLOCK_SECONDS = 0.1
"""Length of the blocks of a played file, as of a microphone's."""
_MAX_SLEEP_SECONDS = 0.1

Clock = Callable[[], float]
"""Returns seconds, and never goes back."""
Blocks = Iterable[tuple[Any, float]]
"""Samples (N,) and the time of their arrival."""


def _show_devices(wanted: bool) -> None:
    if wanted:
        from unichoir.audio.microphone import input_devices

        for device in input_devices():
            default = ", the default" if device.is_default else ""
            write_line(f"{device.index:3} {device.name} ({device.sample_rate} Hz{default})")
        raise typer.Exit


@grouped
def stream(
    model: ModelArguments,
    streams: Chosen[StreamingOptions],
    hotwords: HotwordArguments,
    written: WrittenArguments,
    simulate: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Recording to play, in place of the microphone.", show_default=False),
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="X", help="With --simulate: 1 is real time, 0 as fast as possible.", show_default="1"
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="NAME|INDEX", help="Microphone.", show_default="the system's default"),
    ] = None,
    list_devices: Annotated[
        bool, typer.Option("--list-devices", callback=_show_devices, is_eager=True, help="List microphones and exit.")
    ] = False,
    output_format: Annotated[
        Format, typer.Option("--format", help="Text of final results, or JSON of all results, one per line.")
    ] = "text",
    latency: Annotated[
        bool, typer.Option("--latency", help="Report latencies at the end. Terminals always show them.")
    ] = False,
    compute_device: Annotated[
        Device, typer.Option("--compute-device", metavar="|".join(DEVICES), help=DEVICE_HELP)
    ] = "cpu",
) -> None:
    """Transcribe live audio, from a microphone or from a recording that is played as if it were live.

    On a terminal, the last line changes until its utterance ends, and uncertain words are dim. Elsewhere, only final
    lines are written. JSON has every result: text, times in ms, is_final, and under nbest the words of final results
    with times and confidence. Ctrl-C ends the input and waits for the last words. A second Ctrl-C doesn't wait.

    The microphone needs: pip install 'unichoir[mic]'.

    Examples:

        unichoir stream

        unichoir stream --list-devices

        unichoir stream --device USB --chunk-size 8 --silence-after-speech 0.6

        unichoir stream --simulate recording.flac --latency

        unichoir stream --simulate recording.flac --speed 0 --format json | jq -r 'select(.is_final).text'
    """
    if speed is not None and (simulate is None or not math.isfinite(speed)):
        reason = "needs --simulate" if simulate is None else f"{speed} is not a finite number"
        raise typer.BadParameter(reason, param_hint="--speed")
    if simulate is not None and device is not None:
        raise typer.BadParameter("cannot be used with --simulate", param_hint="--device")
    options = streams.make(hotwords=hotwords.read(), written=written.form())
    refuse_unused(options, model.lm)
    source = _find_microphone(device) if simulate is None else simulate
    loaded = model.load(compute_device)
    session = Session(loaded.create_stream(options), make_output(output_format))
    failure = _run(session, source, loaded.sample_rate, 1.0 if speed is None else speed)
    if latency or sys.stdout.isatty():
        note(session.report())
    if failure is not None:
        raise failure


def _find_microphone(device: str | None) -> "Microphone":
    from unichoir.audio.microphone import Microphone

    return Microphone(int(device) if device and device.isascii() and device.isdecimal() else device)


def _run(session: "Session", source: "str | Microphone", sample_rate: int, speed: float) -> AudioError | None:
    """Run until the source ends or a signal arrives. Return the error that ended it early, if any."""
    from unichoir.audio.io import load_audio
    from unichoir.stopping import StopRequest

    if isinstance(source, str):
        warnings: list[str] = []
        samples = load_audio(source, sample_rate=sample_rate, warn=warnings.append, strict=False)
        warn(warnings)
        with StopRequest() as stop:
            return session.run(play(samples, sample_rate, speed, stop.__bool__), sample_rate)
    with StopRequest() as stop, source:
        note(f"listening to {source.name} at {source.sample_rate} Hz, Ctrl-C ends")
        failure = session.run(listen(source, stop.__bool__, session.output), source.sample_rate)
    for loss in losses(source):
        note(f"warning: {loss}")
    return failure


class Session:
    """One stream, from its audio to its output. clock: in seconds, as the arrival times of blocks."""

    def __init__(self, stream: "Stream", output: TextLines, clock: Clock = time.monotonic) -> None:
        self.output = output
        self._stream = stream
        self._clock = clock
        self._meter = LatencyMeter()
        self._busy = 0.0

    def run(self, blocks: Blocks, sample_rate: int) -> AudioError | None:
        """Recognise all blocks, show the last words, and return the error that ended them early, if any."""
        failure = None
        arrived = self._clock()
        try:
            for samples, arrived in blocks:
                self._accept(samples, sample_rate, arrived)
                self._show()
        except AudioError as error:
            failure = error
        # The end of the input is known when the last block arrives.
        self._meter.finished(arrived)
        self._stream.input_finished()
        self._show()
        return failure

    def report(self) -> str:
        """The latencies and the real-time factor, for people."""
        seconds = self._stream.accepted_ms / 1000
        factor = f"{self._busy / seconds:.3f}" if seconds else "-"
        return (
            f"{self._meter.report().to_text()}\n"
            f"real-time factor {factor}: {seconds:.1f} s of audio recognised in {self._busy:.2f} s"
        )

    def _accept(self, samples: Any, sample_rate: int, arrived: float) -> None:
        began = self._clock()
        self._stream.accept_waveform(samples, sample_rate)
        self._busy += self._clock() - began
        self._meter.accepted(self._stream.accepted_ms, arrived)

    def _show(self) -> None:
        results = self._stream.results()
        try:
            while True:
                began = self._clock()
                result = next(results, None)
                self._busy += self._clock() - began
                if result is None:
                    return
                self.output.show(result)
                self._meter.shown(result, self._clock())
        except BaseException:
            self.output.clear()
            raise


def play(
    samples: Any,
    sample_rate: int,
    speed: float,
    stop: Callable[[], bool],
    clock: Clock = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[tuple[Any, float]]:
    """Yield blocks of `samples` (N,), each with the time when a microphone would deliver it.

    speed: how many times as fast; 0: at once. A late consumer doesn't delay the next blocks. `stop` ends the stream.
    """
    length = round(BLOCK_SECONDS * sample_rate)
    began = clock()
    for first in range(0, len(samples), length):
        block = samples[first : first + length]
        due = began + (first + len(block)) / sample_rate / speed if speed else clock()
        while not stop() and (left := due - clock()) > 0:
            sleep(min(left, _MAX_SLEEP_SECONDS))  # a signal does not shorten a sleep
        if stop():
            return
        yield block, due


def listen(microphone: "Microphone", stop: Callable[[], bool], output: TextLines) -> Iterator[tuple[Any, float]]:
    """Yield the blocks of a microphone. The first loss of audio is reported at once."""
    warned = False
    for block in microphone.blocks(stop):
        if not warned and losses(microphone):
            warned = True
            output.clear()
            note("warning: audio is being lost; the total follows at the end")
        yield block


def losses(microphone: "Microphone") -> list[str]:
    """Describe what has been lost so far."""
    found = []
    if microphone.lost_seconds:
        found.append(
            f"{microphone.lost_seconds:.1f} s of audio were lost: recognition could not keep up with the speech"
        )
    if microphone.num_overflows:
        found.append(f"the microphone lost audio {microphone.num_overflows} times before it could be read")
    return found
