"""Transcribe the clips of a manifest with a model and print how well it went.

python demo/run.py [MANIFEST] [--model NAME_OR_DIRECTORY]
"""

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

import unichoir
from unichoir.data.manifest import load_utterance, read_manifest
from unichoir.errors import UnichoirError
from unichoir.text.normalize import normalize_for_scoring
from unichoir.text.wer import ErrorCounts, word_errors

SAMPLE_RATE = 16000


def transcribe_all(manifest: Path, model_name: str | None, console: Console) -> None:
    """Print one row per clip, then the word error rate and the real-time factor of all."""
    model = unichoir.load_model(model_name) if model_name else unichoir.load_model()
    table = Table("clip", "reference", "hypothesis", "WER")
    total, heard, spent = ErrorCounts(), 0.0, 0.0
    for utterance in read_manifest(manifest):
        began = time.perf_counter()
        samples = load_utterance(utterance, SAMPLE_RATE)
        text = model.transcribe(samples, sample_rate=SAMPLE_RATE).text
        spent += time.perf_counter() - began
        heard += len(samples) / SAMPLE_RATE
        reference, hypothesis = normalize_for_scoring(utterance.txt), normalize_for_scoring(text)
        errors = word_errors(reference, hypothesis)
        table.add_row(utterance.key, reference, hypothesis, f"{100 * errors.rate:.1f} %")
        total += errors
    console.print(table)
    console.print(
        f"word error rate {100 * total.rate:.1f} % ({total.errors} errors in {total.reference} words), "
        f"{heard:.1f} s of speech in {spent:.2f} s (real-time factor {spent / heard:.3f})",
        soft_wrap=True,
    )


def main() -> int:
    """Run the demo; 0 when every clip was transcribed."""
    parser = argparse.ArgumentParser(description="Transcribe the clips of a manifest and print the word error rate.")
    default = Path(__file__).resolve().parent / "references.jsonl"
    parser.add_argument("manifest", nargs="?", type=Path, default=default, help="JSON lines with wav and txt")
    parser.add_argument("--model", help="name or directory of a model (default: the included one)")
    arguments = parser.parse_args()
    try:
        transcribe_all(arguments.manifest, arguments.model, Console(highlight=False))
    except UnichoirError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
