"""Whether the confidence of words can be believed: calibration errors and reliability diagrams of dev sets.

python benchmarks/calibration.py an4/dev.jsonl fsdd/dev.jsonl --plot calibration.svg
"""

import argparse
from pathlib import Path

from unichoir.api import load_model
from unichoir.data.manifest import load_utterance, read_manifest
from unichoir.evaluation.calibration import correct_words, measure_calibration, plot_calibration


def main() -> None:
    """Print a table and draw a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", nargs="+")
    parser.add_argument("--model")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    model = load_model(options.model)
    print("| set | words | right | mean confidence | ECE | NCE |\n|---|---:|---:|---:|---:|---:|")
    sets = {}
    for manifest in options.manifests:
        judged = []
        for utterance in read_manifest(manifest):
            words = model.transcribe(load_utterance(utterance), sample_rate=model.sample_rate).words
            judged += correct_words(utterance.txt, words, utterance.lang or None)
        found = sets[manifest.removesuffix(".jsonl")] = measure_calibration(judged)
        mean = sum(confidence for confidence, _ in judged) / len(judged)
        numbers = f"{100 * found.accuracy:.1f} % | {mean:.3f} | {found.expected_error:.3f} | {found.cross_entropy:.2f}"
        print(f"| {manifest} | {found.num_words} | {numbers} |", flush=True)
    if options.plot is not None:
        plot_calibration(sets, options.plot)


if __name__ == "__main__":
    main()
