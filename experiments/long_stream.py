"""Measure gaps, cost and word errors of a long stream, for docs/results/serving.md and included-model.md.

    python experiments/long_stream.py an4/train.jsonl --minutes 60
    python experiments/long_stream.py an4/dev.jsonl --noise 0.0003 --left 8 --anew
    python experiments/long_stream.py fsdd/dev.jsonl --pause 3 --every 8

Utterances of a manifest, with a pause after each, pass through one stream of the included model in blocks of 100 ms.
The script prints the resident memory during the stream, whether the results cover the stream without gaps or overlaps,
and the word errors of the stream and of each utterance in its own stream.
"""

import argparse
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle, pairwise
from pathlib import Path

import numpy as np

from unichoir.api import load_recognizer
from unichoir.audio.io import Samples
from unichoir.data.manifest import Utterance, load_utterance, read_manifest
from unichoir.recognition.options import StreamingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.recognition.stream import Stream
from unichoir.text.normalize import normalize_for_scoring
from unichoir.text.wer import word_errors

RATE = 16000
BLOCK = RATE // 10


@dataclass
class Streaming:
    """The included model with the options of a stream. anew: whether each utterance resets the encoder."""

    recognizer: Recognizer
    options: StreamingOptions
    anew: bool

    def finals(self, blocks: Iterable[Samples]) -> Iterator[tuple[int, int, str]]:
        """Yield start_ms, end_ms and text of each final result."""
        stream = self.recognizer.streams.create_stream(self.options)
        for block in blocks:
            stream.accept_waveform(block, RATE)
            yield from self._results(stream)
        stream.input_finished()
        yield from self._results(stream)

    def _results(self, stream: Stream) -> Iterator[tuple[int, int, str]]:
        for result in self.recognizer.streams.results(stream):
            if not result.is_final:
                continue
            if self.anew:
                stream.state = self.recognizer.backend.initial_state(1, self.options.num_left_frames)
            yield result.start_ms, result.end_ms, result.text


def resident_megabytes() -> float:
    """Return the resident memory of this process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def blocks_of(
    utterances: Iterable[Utterance], pause: float, noise: float, played: list[Utterance]
) -> Iterator[Samples]:
    """Yield all audio in blocks. Utterances are appended to `played` when they start."""
    rng, rest = np.random.default_rng(0), np.zeros(0, np.float32)
    for utterance in utterances:
        played.append(utterance)
        silence = rng.normal(0, noise, int(pause * RATE)).astype(np.float32)
        rest = np.concatenate([rest, load_utterance(utterance), silence])
        for start in range(0, len(rest) - BLOCK + 1, BLOCK):
            yield rest[start : start + BLOCK]
        rest = rest[len(rest) // BLOCK * BLOCK :]
    yield rest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", help="manifest of utterances with text")
    parser.add_argument("--minutes", type=float, help="minutes to repeat the manifest (default: once)")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="use every Nth utterance of the manifest")
    parser.add_argument("--model", help="name or directory (default: the included model)")
    parser.add_argument("--pause", type=float, default=1.5, help="seconds after each utterance")
    parser.add_argument(
        "--noise", type=float, default=0.0, help="standard deviation of noise in pauses; 0: digital silence"
    )
    parser.add_argument("--left", type=int, default=4, help="number of left chunks")
    parser.add_argument("--anew", action="store_true", help="reset the encoder with every utterance")
    arguments = parser.parse_args()
    recognizer, options = load_recognizer(arguments.model), StreamingOptions(num_left_chunks=arguments.left)
    utterances, played = read_manifest(arguments.manifest)[:: arguments.every], []
    order = cycle(utterances) if arguments.minutes else utterances
    began, finals, minutes = time.perf_counter(), [], 0
    blocks = blocks_of(order, arguments.pause, arguments.noise, played)
    if arguments.minutes:
        blocks = (block for block, _ in zip(blocks, range(int(600 * arguments.minutes)), strict=False))
    for final in Streaming(recognizer, options, arguments.anew).finals(blocks):
        finals.append(final)
        while final[1] >= 60_000 * (minutes + 1):
            minutes += 1
            if minutes in (1, 2) or minutes % 10 == 0:
                print(f"after {minutes:3} minutes: {resident_megabytes():6.1f} MB", flush=True)
    seconds, length = time.perf_counter() - began, finals[-1][1] / 1000
    gaps = sum(before[1] != after[0] for before, after in pairwise(finals))
    print(f"{len(finals)} results from {finals[0][0]} ms to {length:.3f} s, {gaps} gaps or overlaps between them")
    print(f"real-time factor {seconds / length:.4f}")
    reference = normalize_for_scoring(" ".join(utterance.txt for utterance in played))
    errors = word_errors(reference, normalize_for_scoring(" ".join(text for _, _, text in finals)))
    print(f"the stream: {errors.errors} errors in {errors.reference} words, {100 * errors.rate:.2f} %")
    single = Streaming(recognizer, options, anew=False)
    alone = {
        utterance.key: " ".join(text for _, _, text in single.finals([load_utterance(utterance)]))
        for utterance in played[: len(utterances)]
    }
    errors = word_errors(reference, normalize_for_scoring(" ".join(alone[utterance.key] for utterance in played)))
    print(f"each utterance in a stream of its own: {errors.errors} errors, {100 * errors.rate:.2f} %")


if __name__ == "__main__":
    main()
