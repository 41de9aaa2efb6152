"""Transcribe the recordings of a manifest, whole and as a stream, and compare the results with the spoken texts.

python demo/run.py [MANIFEST] [--model NAME_OR_DIRECTORY]
"""

import argparse
import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

try:
    import unichoir
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}: run `make demo`, or first run `pip install .` in the parent folder")
from unichoir.data.manifest import load_utterance, read_manifest
from unichoir.data.utterance import Utterance
from unichoir.errors import UnichoirError
from unichoir.text.normalize import normalize_for_scoring
from unichoir.text.wer import ErrorCounts, word_errors

SAMPLE_RATE = 16000
CHUNK_MS = 640
FEATURE_MS = 10
BLOCK = SAMPLE_RATE // 10
"""Samples per block, as from a microphone."""
WAYS = {"full": "whole recordings", "stream": f"chunks of {CHUNK_MS} ms"}


@dataclass
class Total:
    """Errors and times so far of one way of recognising; times in seconds."""

    errors: ErrorCounts = field(default_factory=ErrorCounts)
    heard: float = 0.0
    spent: float = 0.0

    @property
    def speed(self) -> str:
        return f"{self.heard / max(self.spent, 1e-9):.0f} times as fast as real time"


class Demo:
    """Recognises recordings and prints the results in lines that fit the terminal."""

    def __init__(self, model: unichoir.Model) -> None:
        frame_ms = FEATURE_MS * model.recognizer.backend.info.subsampling_rate
        self.model = model
        self.chunk_size = max(1, round(CHUNK_MS / frame_ms))
        self.totals = {way: Total() for way in WAYS}
        self.is_broken = False
        self.width = min(100, shutil.get_terminal_size((100, 24)).columns)

    def full(self, samples: np.ndarray) -> str:
        """Return the text recognised in all (N,) samples at once."""
        return self.model.transcribe(samples, sample_rate=SAMPLE_RATE).text

    def stream(self, samples: np.ndarray) -> str:
        """Return the joined final results of a stream that gets the samples in small blocks."""
        blocks = (samples[start : start + BLOCK] for start in range(0, len(samples), BLOCK))
        results = self.model.stream(blocks, sample_rate=SAMPLE_RATE, chunk_size=self.chunk_size)
        return " ".join(result.text for result in results if result.is_final and result.text)

    def play(self, number: int, utterance: Utterance, about: str) -> None:
        """Recognise and print one recording."""
        try:
            samples = load_utterance(utterance, SAMPLE_RATE)
        except UnichoirError as error:
            print(f"{number}. {about}\n   error  {error}\n")
            self.is_broken = True
            return
        seconds = len(samples) / SAMPLE_RATE
        print(*textwrap.wrap(f"{number}. {about} ({seconds:.1f} s)", self.width), sep="\n")
        self.say("said", utterance.txt)
        ways: dict[str, Callable[[np.ndarray], str]] = {"full": self.full, "stream": self.stream}
        for way, recognise in ways.items():
            self.recognise(way, recognise, samples, utterance.txt)
        print(flush=True)

    def recognise(self, way: str, recognise: Callable[[np.ndarray], str], samples: np.ndarray, reference: str) -> None:
        """Recognise in one way, print text, errors and speed, and add them to the total."""
        began = time.perf_counter()
        try:
            text = recognise(samples)
        except UnichoirError as error:  # for example, the model cannot stream
            print(f"   {way:6} error: {error}")
            self.is_broken = True
            return
        spent = time.perf_counter() - began
        # As everywhere in the project, case and punctuation do not count as errors.
        errors = word_errors(normalize_for_scoring(reference), normalize_for_scoring(text))
        now = Total(errors, len(samples) / SAMPLE_RATE, spent)
        total = self.totals[way]
        self.totals[way] = Total(total.errors + errors, total.heard + now.heard, total.spent + now.spent)
        self.say(way, text or "(nothing)")
        self.say("", f"-> {counts(errors)}, {now.speed}")

    def say(self, label: str, text: str) -> None:
        """Print a label and a text in two columns."""
        label, space = f"   {label:7}", " " * 10
        lines = textwrap.wrap(text, self.width, initial_indent=label, subsequent_indent=space, break_on_hyphens=False)
        print(*lines, sep="\n")

    def summary(self) -> None:
        """Print the word error rates of all recordings, and the next commands to try."""
        print(f"All recordings, {self.totals['full'].heard:.0f} s of speech")
        for way, total in self.totals.items():
            if total.heard:
                rate = f"word error rate {100 * total.errors.rate:.1f} %"
                self.say(way, f"{WAYS[way]}: {rate} ({counts(total.errors)}), {total.speed}")
        command = Path(sys.executable).with_name("unichoir")
        name = os.path.relpath(command) if command.exists() else "unichoir"
        name = str(command) if name.startswith("..") else name
        also = "serve (needs pip install '.[serve]')"
        text = f"Next, with {name}: transcribe FILE, stream --simulate FILE, {also}"
        print("", textwrap.fill(text, self.width, break_on_hyphens=False), sep="\n")


def counts(errors: ErrorCounts) -> str:
    """Return, for example, `1 error in 7 words`."""
    return f"{errors.errors} error{'' if errors.errors == 1 else 's'} in {errors.reference} words"


def descriptions(manifest: Path, utterances: list[Utterance]) -> dict[str, str]:
    """Return the `about` of each recording in a JSON Lines manifest, otherwise its key."""
    about = {utterance.key: utterance.key for utterance in utterances}
    if manifest.suffix == ".jsonl":
        for line in manifest.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line) if line.strip() else {}
            if entry.get("about"):
                about[entry["key"]] = str(entry["about"])
    return about


def run(manifest: Path, model_name: str | None) -> int:
    """Recognise all recordings; return 1 if one of them could not be processed, 0 otherwise."""
    utterances = read_manifest(manifest)
    about = descriptions(manifest, utterances)
    demo = Demo(unichoir.load_model(model_name))
    print(
        textwrap.fill(
            "For each recording: the spoken text (said), the text recognised in the whole recording (full), and that "
            f"of a stream in chunks of {CHUNK_MS} ms (stream). Case and punctuation do not count as errors.",
            demo.width,
        ),
        end="\n\n",
    )
    for number, utterance in enumerate(utterances, 1):
        demo.play(number, utterance, about[utterance.key])
    demo.summary()
    return int(demo.is_broken)


def main() -> int:
    """Run the demo; return 0 if all recordings could be processed, even with wrong words."""
    parser = argparse.ArgumentParser(description="Transcribe recordings, whole and as a stream, and count the errors.")
    default = Path(__file__).resolve().parent / "clips.jsonl"
    parser.add_argument("manifest", nargs="?", type=Path, default=default, help="JSON Lines with key, wav and txt")
    parser.add_argument("--model", help="name or directory of a model (default: the included one)")
    arguments = parser.parse_args()
    try:
        return run(arguments.manifest, arguments.model)
    except UnichoirError as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader has closed the pipe, like `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


if __name__ == "__main__":
    sys.exit(main())
