"""Time a cold start up to the text of a short clip, for docs/results/included-model.md.

    python experiments/cold_start.py demo/audio/minute.flac
    PYTHONPATH=../other/src python experiments/cold_start.py demo/audio/minute.flac --repeats 20

Each measurement is a new process, while all files are in the page cache: a program that loads the model and transcribes
the first seconds of the recording, the same with the command `unichoir transcribe`, and a program that times its own
parts. Prints two Markdown tables of medians, in ms. CPU time is of all threads of the process. Graphs are loaded in
parallel, so their times overlap. Run it with the bytecode of all modules written.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

PROGRAM = "import sys, unichoir\nprint(unichoir.load_model(sys.argv[2] or None).transcribe(sys.argv[1]).text)"
BACKEND = "unichoir.engine.onnx_backend"
PARTS: dict[tuple[str, str], Callable[[], float]] = {
    (BACKEND, "check_sums"): time.process_time,
    (BACKEND, "saturates"): time.process_time,
    (BACKEND, "_load"): time.thread_time,
    ("unichoir.loading", "load_tokenizer"): time.process_time,
    (BACKEND, "OnnxBackend.encode_chunk"): time.process_time,
    ("unichoir.search.language_model", "NgramLanguageModel.__init__"): time.process_time,
    ("unichoir.text.punctuation", "load_english_punctuation"): time.process_time,
}
"""Functions, each with a clock of what it uses: graphs are loaded in threads of their own."""


class Cost(NamedTuple):
    """Wall and CPU time in s, and the most memory in bytes."""

    wall: float
    cpu: float
    memory: int = 0


def main() -> None:
    """Measure whole processes, then parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--model", default="")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--parts", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.parts:
        print(json.dumps(time_parts(arguments.recording, arguments.model)))
        return
    with tempfile.TemporaryDirectory() as folder:
        clip = str(write_clip(arguments.recording, arguments.seconds, Path(folder)))
        chosen = ["--model", arguments.model] if arguments.model else []
        commands = {
            "`load_model().transcribe(clip)`": ["-c", PROGRAM, clip, arguments.model],
            "`unichoir transcribe clip`": ["-m", "unichoir", "transcribe", clip, *chosen],
        }
        print("| process | wall | CPU | memory, MB |\n|---|---|---|---|")
        for name, command in commands.items():
            costs = [run(command)[0] for _ in range(arguments.repeats + 1)][1:]
            wall, cpu, memory = (statistics.median(each) for each in zip(*costs, strict=True))
            print(f"| {name} | {1e3 * wall:.0f} | {1e3 * cpu:.0f} | {memory / 1e6:.0f} |")
        command = [__file__, clip, "--parts", "--model", arguments.model]
        found = [json.loads(run(command)[1]) for _ in range(arguments.repeats)]
        print("\n| part | wall | CPU |\n|---|---|---|")
        for name in found[0]:
            wall, cpu, _ = (statistics.median(each) for each in zip(*(parts[name] for parts in found), strict=True))
            print(f"| {name} | {1e3 * wall:.1f} | {1e3 * cpu:.1f} |")


def write_clip(recording: Path, seconds: float, folder: Path) -> Path:
    """Write the beginning of a recording to a WAV file."""
    import soundfile

    samples, rate = soundfile.read(recording, frames=int(seconds * soundfile.info(recording).samplerate), dtype="int16")
    soundfile.write(folder / "clip.wav", samples, rate)
    return folder / "clip.wav"


def run(command: list[str]) -> tuple[Cost, str]:
    """Run Python in a new process; return what it cost and its output."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"failed: {' '.join(command)}")
    return Cost(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, 1024 * usage.ru_maxrss), output


def time_parts(clip: Path, model: str) -> dict[str, Cost]:
    """Load the model and transcribe the clip in this process; return the cost of each part in the order of the work."""
    costs = {"start of Python": Cost(0.0, time.process_time())}

    def timed(name: str, function: Callable[..., Any], clock: Callable[[], float], *given: Any, **named: Any) -> Any:
        wall, cpu = time.perf_counter(), clock()
        try:
            return function(*given, **named)
        finally:
            before = costs.get(name, Cost(0.0, 0.0))
            costs[name] = Cost(before.wall + time.perf_counter() - wall, before.cpu + clock() - cpu)

    for module in ("numpy", "onnxruntime", "unichoir.api"):
        timed(f"import {module}", import_module, time.process_time, module)
    for (module, path), clock in PARTS.items():
        *inside, name = path.split(".")
        owner = reduce(getattr, inside, import_module(module))
        setattr(owner, name, wrapped(getattr(owner, name), path, clock, timed))
    load_model = import_module("unichoir").load_model
    loaded = timed("load_model, all of it", load_model, time.process_time, model or None)
    timed("transcribe, all of it", loaded.transcribe, time.process_time, clip)
    return costs


def wrapped(function: Callable[..., Any], path: str, clock: Callable[[], float], timed: Callable[..., Any]) -> Any:
    """Return a function that also times its calls; those that load a graph by the graph's name."""

    def call(*given: Any, **named: Any) -> Any:
        name = f"load {given[0].name}" if path == "_load" else path
        return timed(name, function, clock, *given, **named)

    return call


if __name__ == "__main__":
    main()
