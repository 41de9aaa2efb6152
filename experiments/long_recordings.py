"""Measure lost, repeated and invented words in a recording of hours, for docs/results/long-recordings.md.

    python experiments/long_recordings.py an4/test.jsonl --hours 2 --vad silero
    python experiments/long_recordings.py --hours 1 --vad ctc --filling pink

The recording repeats the utterances of a manifest, with pauses of 0.3 to 5 s (every twentieth lasts half a minute) of
digital silence, white or pink noise, hum or chords. It is written to one WAV file and transcribed. The script prints
the word errors, those of each utterance alone, those of each with the 0.2 s around it (the effect of noise with perfect
cuts), words outside of their utterance, the real-time factor and the resident memory. Without a manifest there is no
speech, so every word is invented.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
import soundfile

from unichoir.api import Model, load_model
from unichoir.audio.io import Samples
from unichoir.data.manifest import Utterance, load_utterance, read_manifest
from unichoir.recognition.options import VAD_MODES, DecodingOptions
from unichoir.recognition.vad_options import VadOptions
from unichoir.text.normalize import normalize_for_scoring
from unichoir.text.wer import word_errors

RATE = 16000
FILLINGS = ("silence", "white", "pink", "hum", "chords")
MARGIN_MS = 200
"""Tolerance for the times of a word outside of its utterance, because files are cut tightly."""


def filling(kind: str, seconds: float, rng: np.random.Generator) -> Samples:
    """Return (N,) samples without speech, about 40 dB below full scale, or silence."""
    length = int(seconds * RATE)
    times = np.arange(length) / RATE
    if kind == "silence":
        return np.zeros(length, np.float32)
    if kind == "white":
        sound = rng.standard_normal(length)
    elif kind == "pink":
        spectrum = np.fft.rfft(rng.standard_normal(length))
        sound = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), length)
    elif kind == "hum":
        sound = sum(np.sin(2 * np.pi * 50 * n * times) / n for n in (1, 2, 3, 5))
    else:  # a chord of plucked strings every half second
        roots = 110 * 2 ** (rng.integers(0, 24, length // 8000 + 1).repeat(8000)[:length] / 12)
        sound = np.exp(-4 * (times % 0.5)) * sum(np.sin(2 * np.pi * times * roots * n) for n in (1, 1.25, 1.5, 2))
    return (0.01 * sound / max(float(np.std(sound)), 1e-9)).astype(np.float32)


def write_recording(
    path: Path, seconds: float, utterances: list[Utterance], kinds: list[str]
) -> tuple[list[Utterance], list[tuple[float, float]]]:
    """Write utterances and return them with their places in ms. It writes in small parts to limit memory."""
    rng, played, places, position = np.random.default_rng(0), [], [], 0
    order: Iterator[Utterance | None] = cycle(utterances or [None])
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as out:
        while position < seconds * RATE:
            utterance = next(order)
            if utterance is not None:
                samples = load_utterance(utterance)
                places.append((position / 16, (position + len(samples)) / 16))
                played.append(utterance)
                out.write(samples)
                position += len(samples)
            pause = 30.0 if utterance is None or len(played) % 20 == 0 else rng.uniform(0.3, 5.0)
            samples = filling(str(rng.choice(kinds)), pause, rng)
            out.write(samples)
            position += len(samples)
    return played, places


def resident_megabytes() -> float:
    """Return the resident memory of this process (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def transcribe(model: Model, path: Path, options: DecodingOptions, places: list[tuple[float, float]]) -> str:
    """Transcribe a file and return its text. Prints the cost, and where words were found."""
    memory: dict[int, float] = {}

    def watch(done: float, total: float) -> None:
        minutes = int(done // 600) * 10
        memory[minutes] = max(memory.get(minutes, 0.0), resident_megabytes())

    memory[0] = resident_megabytes()
    print(f"resident before: {memory[0]:.0f} MB")
    clock, processor = time.perf_counter(), time.process_time()
    transcript = model.transcribe(path, options=options, progress=watch)
    seconds, length = time.perf_counter() - clock, transcript.duration_ms / 1000
    print(f"{length:.0f} s of audio: real-time factor {seconds / length:.4f}")
    print(f"seconds of processor for each of audio: {(time.process_time() - processor) / length:.4f}")
    print(
        "resident: "
        + ", ".join(f"{memory[at]:.0f} MB after {at} min" for at in sorted(memory)[:: len(memory) // 6 + 1])
    )
    print(f"most: {max(memory.values()):.0f} MB")
    begins = np.array([begin for begin, _ in places])
    outside = 0
    for word in transcript.words:
        place = int(np.searchsorted(begins, word.start_ms + MARGIN_MS, side="right")) - 1
        outside += place < 0 or word.end_ms > places[place][1] + MARGIN_MS
    print(f"{len(transcript.words)} words, {outside} of them outside of every utterance's place")
    return transcript.text


def cut_by_hand(model: Model, path: Path, places: list[tuple[float, float]]) -> Iterator[str]:
    """Yield the text of each place, with the margins that a detector leaves."""
    pad = round(VadOptions().speech_pad_seconds * RATE)
    with soundfile.SoundFile(path) as sound:
        for begin, end in places:
            first = max(round(begin * 16) - pad, 0)
            sound.seek(first)
            yield model.transcribe(sound.read(round(end * 16) + pad - first, dtype="float32"), sample_rate=RATE).text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", nargs="?", help="manifest of utterances with text")
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--vad", default="auto", choices=VAD_MODES)
    parser.add_argument("--filling", default="all", choices=["all", *FILLINGS], help="content of the pauses")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a field of VadOptions, for example hysteresis=0",
    )
    parser.add_argument("--model", help="model to measure (default: the included one)")
    arguments = parser.parse_args()
    fields = {name: float(value) for name, _, value in (option.partition("=") for option in arguments.option)}
    options = DecodingOptions(vad=arguments.vad, vad_options=VadOptions(**fields))
    model = load_model(arguments.model)
    utterances = list(read_manifest(arguments.manifest)) if arguments.manifest else []
    kinds = list(FILLINGS) if arguments.filling == "all" else [arguments.filling]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.wav"
        played, places = write_recording(path, 3600 * arguments.hours, utterances, kinds)
        text = normalize_for_scoring(transcribe(model, path, options, places))
        cut = normalize_for_scoring(" ".join(cut_by_hand(model, path, places)))
    if not played:
        return
    reference = normalize_for_scoring(" ".join(utterance.txt for utterance in played))
    alone = {
        utterance.key: model.transcribe(load_utterance(utterance), sample_rate=RATE).text for utterance in utterances
    }
    apart = normalize_for_scoring(" ".join(alone[utterance.key] for utterance in played))
    rows = ("the recording", text), ("each utterance by itself", apart), ("each with the 0.2 s around it", cut)
    for name, found in rows:
        errors = word_errors(reference, found)
        print(f"{name}: {errors.errors} errors in {errors.reference} words, {100 * errors.rate:.2f} %: {errors}")


if __name__ == "__main__":
    main()
