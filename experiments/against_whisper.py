"""Compare the time of the included model and of Whisper for 10 s of speech, for docs/results/included-model.md.

    python experiments/against_whisper.py WHISPER MANIFEST

WHISPER is a folder that faster-whisper reads (pip install faster-whisper; int8, beam size 1). The utterances of
MANIFEST closest to 10 s are used. Both models use the same number of threads and run alternately. The script also
prints how our time is distributed.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from faster_whisper import WhisperModel

from unichoir import load_model
from unichoir.data.manifest import load_utterance, read_manifest


class Clock:
    """Seconds and calls by activity."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with timing."""

        def call(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds[name] += time.perf_counter() - start
                self.calls[name] += 1

        return call


def main() -> None:
    """Measure according to the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("whisper", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--model", default=None, help="our model (default: the included one)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--utterances", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    listed = sorted(read_manifest(arguments.manifest), key=lambda each: abs((each.duration or 0) - 10))
    recordings = [load_utterance(each, 16000) for each in listed[: arguments.utterances]]
    tens = sum(map(len, recordings)) / 160_000
    model = load_model(arguments.model, num_threads=arguments.threads)
    whisper = WhisperModel(str(arguments.whisper), device="cpu", compute_type="int8", cpu_threads=arguments.threads)

    def ours() -> list[str]:
        return [model.transcribe(samples, sample_rate=16000).text for samples in recordings]

    def theirs() -> list[str]:
        options = {"language": "en", "beam_size": 1, "without_timestamps": True, "temperature": 0.0}
        return ["".join(part.text for part in whisper.transcribe(samples, **options)[0]) for samples in recordings]

    found: dict[str, list[float]] = {"ours": [], "whisper": []}
    ours(), theirs()
    for _ in range(arguments.rounds):
        for name, run in (("ours", ours), ("whisper", theirs)):
            start = time.perf_counter()
            run()
            found[name].append((time.perf_counter() - start) / tens)
    for name, seconds in found.items():
        print(f"{name:8} median {median(seconds):.3f} s, least {min(seconds):.3f} s for 10 s of speech")
    print(f"ratio of medians {median(found['ours']) / median(found['whisper']):.3f}")

    clock, backend = Clock(), model.recognizer.backend
    backend.encode_chunk = clock.timed("encoder", backend.encode_chunk)
    make = clock.timed("decoder: memory", backend.decoder)

    def decoder(encoder_out: np.ndarray, reverse: bool = False) -> Any:
        made = make(encoder_out, reverse)
        made._run = clock.timed("decoder: steps, reverse" if reverse else "decoder: steps", made._run)
        return made

    backend.decoder = decoder
    clock.timed("whole", ours)()
    for name, spent in clock.seconds.items():
        print(f"{name:24} {1000 * spent / tens:7.1f} ms in {clock.calls[name] / tens:5.1f} calls")


if __name__ == "__main__":
    main()
