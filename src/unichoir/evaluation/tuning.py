"""Choose the weights of a language model on development utterances."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from unichoir.bundle.replacing import replacing
from unichoir.data.manifest import Utterance
from unichoir.errors import UnichoirError
from unichoir.evaluation.evaluate import Load, evaluate
from unichoir.recognition.options import DecodingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.search.language_model import FusionWeights, read_weights, weights_file
from unichoir.search.options import Mode
from unichoir.text.wer import ErrorCounts

COARSE_WEIGHTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.4)
COARSE_BONUSES = (-1.0, 0.0, 1.0, 2.0, 3.0)
FINE_STEPS = (-0.1, 0.0, 0.1), (-0.5, 0.0, 0.5)
"""Offsets from the best coarse weights: those of the weight, and those of the length bonus."""
OOV_PENALTIES = (1.0, 2.0, 4.0, 8.0)
"""Tried with the best fine weights."""

Errors = dict[FusionWeights, tuple[ErrorCounts, ErrorCounts]]
"""Word and character errors with each set of weights."""


def tune(
    recognizer: Recognizer | Load,
    sets: Mapping[str, Sequence[Utterance]],
    options: Sequence[DecodingOptions],
    *,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Errors:
    """Measure the word and character errors of a recogniser with its language model; the best weights come first.

    Three passes try a coarse grid (including no language model: all weights 0), a finer grid around its best point,
    and penalties for words that the language model does not know. Each pass encodes the audio once. The best weights
    have the fewest word errors; ties are broken by character errors, then by the smallest weights. The errors of
    several `options`, for example with several chunk sizes, are summed.

    Raises as `evaluate` does, and UnichoirError if an utterance cannot be read.
    """
    coarse = {(weight, bonus, 0.0) for weight in COARSE_WEIGHTS for bonus in COARSE_BONUSES if weight or not bonus}
    part = sum(map(len, sets.values()))

    def measure(points: set[tuple[float, float, float]], parts_before: int) -> Errors:
        groups = [
            [
                dataclasses.replace(each, lm_weight=weight, length_bonus=bonus, oov_penalty=penalty)
                for weight, bonus, penalty in sorted(points)
            ]
            for each in options
        ]
        advance = None if progress is None else lambda done, _: progress(parts_before * part + done, 3 * part)
        result = evaluate(recognizer, sets, groups, jobs=jobs, progress=advance)
        for name, broken in result.broken.items():
            for key, reason in broken.items():
                raise UnichoirError(f"{name}: {key}: {reason}")
        found: Errors = {}
        for score in result.scores:
            weights = FusionWeights(
                lm_weight=score.options.lm_weight or 0.0,
                length_bonus=score.options.length_bonus or 0.0,
                oov_penalty=score.options.oov_penalty or 0.0,
            )
            words, characters = found.get(weights, (ErrorCounts(), ErrorCounts()))
            found[weights] = words + score.words, characters + score.characters
        return found

    errors = measure(coarse, 0)
    best = min(errors, key=lambda weights: _rank(errors, weights))
    around = {
        (round(best.lm_weight + dw, 3), round(best.length_bonus + db, 3), 0.0)
        for dw in FINE_STEPS[0]
        for db in FINE_STEPS[1]
    }
    errors |= measure({point for point in around if point[0] > 0} - coarse, 1)
    best = min(errors, key=lambda weights: _rank(errors, weights))
    if best.lm_weight:
        errors |= measure({(best.lm_weight, best.length_bonus, penalty) for penalty in OOV_PENALTIES}, 2)
    elif progress is not None:
        progress(3 * part, 3 * part)
    return {weights: errors[weights] for weights in sorted(errors, key=lambda weights: _rank(errors, weights))}


def write_weights(path: str, mode: Mode, weights: FusionWeights, how: Mapping[str, object]) -> Path:
    """Write the weights for a mode beside their language model, with how they were chosen; return the file.

    The weights for the other mode are kept. Raises CheckpointError if the existing file does not hold weights.
    """
    file = weights_file(path)
    read_weights(path)
    before = json.loads(file.read_bytes()) if file.exists() else {}
    made = {**before, mode: {**dataclasses.asdict(weights), "tuned": how}}
    with replacing(file) as content:
        content.write((json.dumps(made, indent=2) + "\n").encode())
    return file


def _rank(errors: Errors, weights: FusionWeights) -> tuple[int, int, float, float, float]:
    words, characters = errors[weights]
    return words.errors, characters.errors, weights.lm_weight, abs(weights.length_bonus), weights.oov_penalty
