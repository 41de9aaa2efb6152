"""Show how reliable the confidence of words is, from results of an evaluation, for docs/results/times.md.

    unichoir evaluate unichoir-base-en an4/dev.jsonl fsdd/dev.jsonl --output results
    python experiments/calibration.py results/results.json --plot calibration.svg

It prints a table and draws reliability diagrams. For each set it uses the first setting in the file.
"""

import argparse
import json
from pathlib import Path

from unichoir.evaluation.calibration import Calibration, format_nce, plot_calibration


def main() -> None:
    """Print a table and draw the diagrams."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    sets: dict[str, Calibration] = {}
    for score in json.loads(options.results.read_text(encoding="utf-8"))["scores"]:
        if score["calibration"] is not None:
            sets.setdefault(score["set"], Calibration.from_dict(score["calibration"]))
    print("| set | words | right | mean confidence | ECE | NCE |\n|---|---:|---:|---:|---:|---:|")
    for name, one in sets.items():
        numbers = f"{100 * one.accuracy:.1f} % | {one.mean_confidence:.3f} | {one.ece:.3f} | {format_nce(one)}"
        print(f"| {name} | {one.num_words} | {numbers} |")
    if options.plot is not None:
        plot_calibration(sets, options.plot)


if __name__ == "__main__":
    main()
