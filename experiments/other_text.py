"""Measure how an alignment's confidence separates right texts from others, for docs/results/times.md.

    python experiments/other_text.py an4/dev.jsonl

Each utterance is aligned with its own text and with the next three different texts, in random order. Texts too long for
a recording are rejected, and counted separately.
"""

import argparse
from itertools import islice

import numpy as np

from unichoir.api import Model, load_model
from unichoir.data.manifest import load_utterance, read_manifest
from unichoir.errors import DecodingError
from unichoir.recognition.forced import LOW_CONFIDENCE
from unichoir.text.normalize import normalize_for_scoring

NUM_OTHERS = 3
THRESHOLDS = sorted({0.1, 0.2, 0.3, 0.4, 0.5, LOW_CONFIDENCE})

Samples = np.ndarray[tuple[int], np.dtype[np.float32]]


def confidence(model: Model, samples: Samples, text: str) -> float | None:
    """Return the confidence of the whole alignment; None for a rejected text."""
    try:
        return model.align(samples, text, sample_rate=model.sample_rate).confidence
    except DecodingError:
        return None


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest")
    parser.add_argument("--model")
    options = parser.parse_args()
    model = load_model(options.model)
    utterances = [each for each in read_manifest(options.manifest) if normalize_for_scoring(each.txt)]
    order = np.random.default_rng(0).permutation(len(utterances)).tolist()
    own: list[float | None] = []
    others: list[float | None] = []
    for place, number in enumerate(order):
        utterance = utterances[number]
        samples = load_utterance(utterance, model.sample_rate)
        own.append(confidence(model, samples, utterance.txt))
        following = (utterances[each].txt for each in order[place + 1 :] + order[:place])
        different = (text for text in following if normalize_for_scoring(text) != normalize_for_scoring(utterance.txt))
        others += [confidence(model, samples, text) for text in islice(different, NUM_OTHERS)]
    found = [np.array([each for each in some if each is not None]) for some in (own, others)]
    print("| lower than | right texts | other texts |\n|---|---:|---:|")
    for threshold in THRESHOLDS:
        shares = " | ".join(f"{100 * (some < threshold).mean():.1f} %" for some in found)
        print(f"| {threshold:.2f} | {shares} |")
    counts = " and ".join(
        f"{len(some)} ({len(all_of) - len(some)} refused)" for some, all_of in zip(found, (own, others), strict=True)
    )
    print(
        f"\n{counts}; the lowest of the right ones {found[0].min():.2f}, the highest of the others {found[1].max():.2f}"
    )


if __name__ == "__main__":
    main()
