"""Measure the accuracy of word times, for docs/results/times.md.

    python experiments/word_times.py an4/dev.jsonl fsdd/dev.jsonl

The recordings contain clips of speech at known places. Clips are trimmed: silence at both ends is removed (25 dB
quieter than the loud parts), and so are clicks and breath that a pause separates from the speech (shorter than 80 ms or
15 dB quieter, 120 ms away). They are joined, in random order, to recordings of at most 18 s with pauses of 0.1 to 0.6 s
and faint noise; `--gap 0` joins them without pauses. The start of a clip is the start of its first word, and its end
the end of its last word. Only correctly recognised words count. `edges of recordings` are the first start and the last
end of each recording.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from unichoir.api import Model, load_model
from unichoir.data.manifest import load_utterance, read_manifest
from unichoir.text.normalize import split_words
from unichoir.text.wer import align
from unichoir.transcript.results import Word

RATE = 16000
MAX_SECONDS = 18.0
QUIET_DB = 25.0
HOP = 160
MIN_SPEECH_HOPS = 8
MIN_PAUSE_HOPS = 12
BREATH_DB = 15.0

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Placed:
    """A clip in a recording: its words, and its place in ms."""

    words: list[str]
    start_ms: float
    end_ms: float


@dataclass
class Errors:
    """Differences between found and true times in ms."""

    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    first_starts: list[float] = field(default_factory=list)
    last_ends: list[float] = field(default_factory=list)
    num_edges: int = 0

    def row(self) -> str:
        """Return cells: median absolute error, its 90th percentile and the median error of each kind."""
        kinds = (self.starts, self.ends, self.first_starts, self.last_ends)
        found = len(self.starts) + len(self.ends)
        return " | ".join([f"{found} of {self.num_edges}", *map(_cells, kinds)])


def trimmed(samples: Samples) -> Samples:
    """Remove silence at both ends, and clicks and breath before and after the speech."""
    hops = samples[: len(samples) // HOP * HOP].reshape(-1, HOP)
    energy = np.convolve(np.square(hops).mean(axis=1), np.ones(3) / 3, mode="same")
    level = np.percentile(energy, 95)
    loud = energy > level * 10 ** (-QUIET_DB / 10)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], loud, [False]])))
    stretches = list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))

    def is_speech(start: int, end: int) -> bool:
        return end - start >= MIN_SPEECH_HOPS and energy[start:end].max() >= level * 10 ** (-BREATH_DB / 10)

    while len(stretches) > 1 and stretches[1][0] - stretches[0][1] >= MIN_PAUSE_HOPS and not is_speech(*stretches[0]):
        del stretches[0]
    while (
        len(stretches) > 1 and stretches[-1][0] - stretches[-2][1] >= MIN_PAUSE_HOPS and not is_speech(*stretches[-1])
    ):
        del stretches[-1]
    return samples[stretches[0][0] * HOP : stretches[-1][1] * HOP]


def joined(
    clips: Sequence[tuple[list[str], Samples]], rng: np.random.Generator, gap: float, noise: float
) -> Iterator[tuple[Samples, list[Placed]]]:
    """Yield recordings of the clips. gap: the longest pause between them in seconds; noise: its standard deviation."""
    rest = list(clips)
    while rest:
        parts: list[Samples] = [np.zeros(int(rng.uniform(0.2, 0.4) * RATE), dtype=np.float32)]
        placed: list[Placed] = []
        length = len(parts[0])
        while rest and (not placed or length + len(rest[0][1]) + gap * RATE < MAX_SECONDS * RATE):
            words, samples = rest.pop(0)
            pause = int(rng.uniform(min(0.1, gap), gap) * RATE) if placed else 0
            start = length + pause
            parts += [np.zeros(pause, dtype=np.float32), samples]
            length = start + len(samples)
            placed.append(Placed(words, 1000 * start / RATE, 1000 * length / RATE))
        parts.append(np.zeros(int(rng.uniform(0.2, 0.4) * RATE), dtype=np.float32))
        recording = np.concatenate(parts)
        yield recording + rng.normal(0, noise, len(recording)).astype(np.float32), placed


def compare(words: Sequence[Word], placed: Sequence[Placed], errors: Errors) -> None:
    """Count the edges of clips whose words are found."""
    reference = [word for clip in placed for word in clip.words]
    found: dict[int, Word] = {}
    place = other = 0
    for _, expected, heard in align(reference, [word.text for word in words]):
        if expected is not None and expected == heard:
            found[place] = words[other]
        place += expected is not None
        other += heard is not None
    first = 0
    for number, clip in enumerate(placed):
        last = first + len(clip.words) - 1
        errors.num_edges += 2
        if first in found:
            errors.starts.append(found[first].start_ms - clip.start_ms)
            if number == 0:
                errors.first_starts.append(errors.starts[-1])
        if last in found:
            errors.ends.append(found[last].end_ms - clip.end_ms)
            if number == len(placed) - 1:
                errors.last_ends.append(errors.ends[-1])
        first = last + 1


def words_of(model: Model, recording: Samples, how: str) -> Sequence[Word]:
    """Return the words with their times, found in one of three ways."""
    if how == "stream":
        results = model.stream(np.array_split(recording, 20), sample_rate=RATE, chunk_size=16)
        return [word for result in results if result.is_final for word in result.words]
    chunk_size = 16 if how == "chunk 16" else None
    return model.transcribe(recording, sample_rate=RATE, chunk_size=chunk_size).words


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", nargs="+")
    parser.add_argument("--model")
    parser.add_argument("--clips", type=int, default=240, help="clips of each manifest")
    parser.add_argument("--gap", type=float, default=0.6, help="longest pause between clips, in seconds")
    parser.add_argument("--noise", type=float, default=3e-4, help="standard deviation of the noise")
    options = parser.parse_args()
    model = load_model(options.model)
    print("| set | how | edges | starts | ends | first starts | last ends |\n|---|---|---|---|---|---|---|")
    for manifest in options.manifests:
        rng = np.random.default_rng(0)
        utterances = read_manifest(manifest)
        chosen = [utterances[place] for place in rng.permutation(len(utterances))[: options.clips]]
        clips = [(split_words(one.txt), trimmed(load_utterance(one))) for one in chosen if split_words(one.txt)]
        recordings = list(joined(clips, rng, options.gap, options.noise))
        for how in ("full context", "chunk 16", "stream"):
            errors = Errors()
            for recording, placed in recordings:
                compare(words_of(model, recording, how), placed, errors)
            print(f"| {manifest} | {how} | {errors.row()} |", flush=True)


def _cells(errors: Sequence[float]) -> str:
    if not errors:
        return "-"
    size = np.abs(errors)
    return f"{np.median(size):.0f} (90 %: {np.percentile(size, 90):.0f}; median {np.median(errors):+.0f})"


if __name__ == "__main__":
    main()
