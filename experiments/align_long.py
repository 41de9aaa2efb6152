"""Align a long recording with its text: time, memory and accuracy of the times, for docs/results/times.md.

    python experiments/align_long.py an4/train.jsonl --hours 1

The recording repeats clips without the silence at their ends, with pauses of 0.1 to 0.6 s and faint noise, as in
`word_times.py`. The whole text is aligned at once. The memory is the peak of the command's process.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path

import numpy as np
import soundfile
from word_times import RATE, Errors, Samples, trimmed

from unichoir.data.manifest import load_utterance, read_manifest
from unichoir.text.normalize import split_words

COMMAND = """
import atexit, re
from unichoir.cli import main
atexit.register(lambda: print(re.search("VmHWM:.*", open("/proc/self/status").read())[0]))
main()
"""


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest")
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--model")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    clips = [(split_words(one.txt), trimmed(load_utterance(one))) for one in read_manifest(options.manifest)]
    parts: list[Samples] = []
    placed: list[tuple[list[str], float, float]] = []
    length = 0
    for words, samples in cycle([clip for clip in clips if clip[0]]):
        pause = np.zeros(int(rng.uniform(0.1, 0.6) * RATE), dtype=np.float32)
        start, length = length + len(pause), length + len(pause) + len(samples)
        parts += [pause, samples]
        placed.append((words, 1000 * start / RATE, 1000 * length / RATE))
        if length >= options.hours * 3600 * RATE:
            break
    recording = np.concatenate(parts)
    recording += rng.normal(0, 3e-4, len(recording)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording.flac"
        soundfile.write(path, recording, RATE)
        text, output = Path(folder) / "text.txt", Path(folder) / "words.json"
        text.write_text("\n".join(" ".join(words) for words, _, _ in placed), encoding="utf-8")
        command = [sys.executable, "-c", COMMAND, "align", path, text, "--output", output]
        start_time = time.perf_counter()
        extra = ["--model", options.model] if options.model else []
        ran = subprocess.run([*command, *extra], check=True, stdout=subprocess.PIPE, text=True)
        seconds = time.perf_counter() - start_time
        found = json.loads(output.read_text(encoding="utf-8"))
    # A child's ru_maxrss would include the memory that this process had when it started the child.
    peak_mib = int(ran.stdout.split()[1]) / 1024
    errors, place = Errors(num_edges=2 * len(placed)), 0
    for words, start_ms, end_ms in placed:
        errors.starts.append(found["words"][place]["start_ms"] - start_ms)
        place += len(words)
        errors.ends.append(found["words"][place - 1]["end_ms"] - end_ms)
    print(f"{len(found['words'])} words, {len(found['tokens'])} tokens, {found['duration_ms'] / 1000:.0f} s")
    print(f"{seconds:.0f} s; peak {peak_mib:.0f} MiB; confidence {found['confidence']:.2f}")
    print(f"edges | starts | ends | - | -\n{errors.row()}")


if __name__ == "__main__":
    main()
