"""Cut the utterances of a manifest into words: python cut_words.py CHECKPOINT MANIFEST OUT [--max-seconds S].

Each line of OUT is one word: the audio file of its utterance with the word's `start` and `end`. If training joins the
words again (`augment: {concat: ...}`), they make sequences that nobody read (aligned data augmentation, Lam et al.,
arXiv 2104.01393). Aligning the transcript with the model's CTC output locates the words. The cut between two words is
at the quietest place between their tokens, because CTC only knows one moment of each. Utterances that the model
recognises differently are left out.
"""

import argparse
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from unichoir.api import load_recognizer
from unichoir.audio.fbank import compute_fbank
from unichoir.data.manifest import Utterance, load_utterance, read_manifest
from unichoir.errors import AudioError
from unichoir.recognition.options import DecodingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.transcript.alignment import Span, ctc_align
from unichoir.transcript.timing import FrameClock

MIN_CONFIDENCE = 0.5
"""Minimum confidence of an utterance: the mean of its tokens' CTC probabilities."""


def word_spans(recognizer: Recognizer, samples: NDArray[np.float32], text: str) -> list[tuple[str, Span, Span]]:
    """Return the words of `text` with the spans of their first and last tokens; empty if not recognised."""
    info, tokenizer = recognizer.backend.info, recognizer.tokenizer
    feats = compute_fbank(samples, recognizer.fbank_config)
    words = text.split()
    ids = [tokenizer.encode(word) for word in words]
    tokens = [token for word in ids for token in word]
    if not tokens or info.num_encoder_frames(len(feats)) < len(tokens):
        return []
    [(_, log_probs)] = recognizer.recordings.encode([feats], DecodingOptions())
    spans = ctc_align(log_probs, tokens, info.blank_id)
    if sum(span.probability for span in spans) < MIN_CONFIDENCE * len(spans):
        return []
    ends = list(itertools.accumulate(len(word) for word in ids))
    return [(word, spans[end - len(own)], spans[end - 1]) for word, own, end in zip(words, ids, ends, strict=True)]


def cut(recognizer: Recognizer, samples: NDArray[np.float32], text: str) -> list[tuple[str, float, float]]:
    """Return the words of `text` with start and end in seconds. They are adjacent and do not overlap."""
    clock = FrameClock.of(recognizer.backend.info, recognizer.fbank_config)
    rate = recognizer.fbank_config.sample_rate
    heard = word_spans(recognizer, samples, text)
    edges = [0.0]
    for (_, _, last), (_, first, _) in itertools.pairwise(heard):
        edges.append(quietest(samples, rate, clock.at(last.last + 0.5) / 1000, clock.at(first.first + 0.5) / 1000))
    edges.append(len(samples) / rate)
    return [(word, edges[place], edges[place + 1]) for place, (word, _, _) in enumerate(heard)]


def quietest(samples: NDArray[np.float32], rate: int, start: float, end: float) -> float:
    """Return the time in seconds between `start` and `end` around which 50 ms are the quietest."""
    hop, width = rate // 200, rate // 20
    places = np.arange(int(start * rate), max(int(end * rate), int(start * rate) + 1), hop)
    energy = [np.square(samples[max(place - width // 2, 0) : place + width // 2]).sum() for place in places]
    return float(places[int(np.argmin(energy))] / rate)


def rows(recognizer: Recognizer, utterance: Utterance, max_seconds: float, folder: Path) -> Iterator[dict[str, object]]:
    """Yield the manifest's lines for one utterance."""
    samples = load_utterance(utterance, recognizer.fbank_config.sample_rate)
    for number, (word, start, end) in enumerate(cut(recognizer, samples, utterance.txt)):
        if 0.1 <= end - start <= max_seconds:
            begin = (utterance.start or 0.0) + start
            yield {
                "key": f"{utterance.key}/word-{number}",
                "wav": os.path.relpath(os.path.abspath(utterance.wav), folder.resolve()),
                "txt": word,
                "start": round(begin, 4),
                "end": round(begin + end - start, 4),
                "duration": round(end - start, 4),
                "speaker": utterance.speaker,
                "lang": utterance.lang,
            }


def main() -> None:
    """Cut according to the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("manifest")
    parser.add_argument("output", type=Path)
    parser.add_argument(
        "--max-seconds", type=float, default=1.5, help="maximum length of a word (longer ones contain several words)"
    )
    arguments = parser.parse_args()
    recognizer = load_recognizer(arguments.checkpoint)
    utterances = read_manifest(arguments.manifest)
    if any(utterance.byte_range for utterance in utterances):
        parser.error(f"{arguments.manifest}: manifests cannot refer to words inside a tar")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    count = words = 0
    with arguments.output.open("w", encoding="utf-8") as output:
        for utterance in track(utterances, description="cutting"):
            try:
                for row in rows(recognizer, utterance, arguments.max_seconds, arguments.output.parent):
                    output.write(json.dumps(row, ensure_ascii=False) + "\n")
                    count += 1
            except AudioError as error:
                print(f"skipped {utterance.key}: {error}")
            words += len(utterance.txt.split())
    print(f"{arguments.output}: {count} of {words} words")


if __name__ == "__main__":
    main()
