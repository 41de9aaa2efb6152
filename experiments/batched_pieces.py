"""Compare recognition of a recording's pieces one by one and in batches, for docs/results/long-recordings.md.

    python experiments/batched_pieces.py an4/dev.jsonl --minutes 8
    python experiments/batched_pieces.py an4/dev.jsonl --minutes 2 --model exported/moe-1b

Utterances of a manifest, separated by silence, are cut into pieces by the included model's CTC. The pieces are
recognised in batches of several sizes, and time and result are compared.
"""

import argparse
import time

import numpy as np

from unichoir.api import load_recognizer
from unichoir.data.manifest import load_utterance, read_manifest
from unichoir.recognition import pieces
from unichoir.recognition.options import DecodingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.recognition.segmentation import Piece
from unichoir.search.options import Mode
from unichoir.transcript.segments import Segment

RATE = 16000
SIZES = (1, 2, 4, 8, 16)
MODES: tuple[Mode, ...] = ("ctc_greedy_search", "attention_rescoring")


def recognize(recognizer: Recognizer, found: list[Piece], options: DecodingOptions) -> dict[int, Segment]:
    """Return the segments by the start of their pieces."""
    batches = pieces.batched_by_length(((0, piece) for piece in found), RATE)
    return {
        piece.start: segment
        for batch in batches
        for (_, piece), segment in zip(
            batch, recognizer.recordings.recognize_pieces([each for _, each in batch], options), strict=True
        )
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--model", help="model to measure (default: the included one)")
    arguments = parser.parse_args()
    recognizer, parts, seconds = load_recognizer(arguments.model), [], 0.0
    for utterance in read_manifest(arguments.manifest):
        if seconds < 60 * arguments.minutes:
            parts += [load_utterance(utterance), np.zeros(2 * RATE, np.float32)]
            seconds += (len(parts[-2]) + len(parts[-1])) / RATE
    every = load_recognizer(None).recordings.pieces([np.concatenate(parts)], DecodingOptions(vad="ctc"))
    found = [piece for piece in every if piece.samples is not None]
    print(f"{len(found)} pieces of {seconds:.0f} s")
    for mode in MODES:
        options, expected = DecodingOptions(mode=mode), None
        for size in SIZES * 2:
            pieces.BATCH_PIECES = size
            began = time.perf_counter()
            segments = recognize(recognizer, found, options)
            took = time.perf_counter() - began
            expected = expected or segments
            same = "the same" if segments == expected else "another result"
            print(f"{mode}, batches of {size:2}: {took:.2f} s, {same}", flush=True)


if __name__ == "__main__":
    main()
