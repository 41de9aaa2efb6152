"""Measure which languages a model recognises, and the benefit of setting the language.

python languages.py MODEL MANIFEST... prints a Markdown table for each manifest and language: the number of utterances,
the fraction whose language was recognised, and the character error rate without and with the language set
(DecodingOptions.language).
"""

import sys
from collections.abc import Sequence

from unichoir.api import load_recognizer
from unichoir.data.manifest import Utterance, load_utterance, read_manifest
from unichoir.recognition.options import DecodingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.text.normalize import normalize_for_scoring
from unichoir.text.wer import ErrorCounts, char_errors

COLUMNS = ("set", "utterances", "language recognised %", "CER %, language open", "CER %, language given")


def measure(recognizer: Recognizer, utterances: Sequence[Utterance], language: str | None) -> tuple[int, ErrorCounts]:
    """Return the number of utterances whose language was recognised, and the character errors of all."""
    right, errors = 0, ErrorCounts()
    for utterance in utterances:
        samples = load_utterance(utterance, recognizer.fbank_config.sample_rate)
        transcript = recognizer.recordings.recognize(samples, DecodingOptions(language=language))
        right += transcript.language == utterance.lang
        reference, hypothesis = (normalize_for_scoring(t, utterance.lang) for t in (utterance.txt, transcript.text))
        errors += char_errors(reference, hypothesis)
    return right, errors


def main(model: str, *manifests: str) -> None:
    """Print the table."""
    recognizer = load_recognizer(model)
    print(f"| {' | '.join(COLUMNS)} |\n|---|{'---:|' * (len(COLUMNS) - 1)}")
    for manifest in manifests:
        utterances = read_manifest(manifest)
        for language in sorted({utterance.lang for utterance in utterances}):
            spoken = [utterance for utterance in utterances if utterance.lang == language]
            right, free = measure(recognizer, spoken, None)
            _, told = measure(recognizer, spoken, language)
            share = f"{100 * right / len(spoken):.1f}"
            row = (
                f"{manifest} [{language}]",
                str(len(spoken)),
                share,
                f"{100 * free.rate:.2f}",
                f"{100 * told.rate:.2f}",
            )
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
