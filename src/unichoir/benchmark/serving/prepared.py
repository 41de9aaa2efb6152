"""Prepare a model directory with random weights that can be served; called by the command."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from unichoir.audio.io import Samples
from unichoir.benchmark.plan import BenchmarkOptions, Candidate, Variant
from unichoir.benchmark.prepare import prepared_models
from unichoir.text.tokenizer import SPACE, SPECIAL_TOKENS, BpeTokenizer


@contextlib.contextmanager
def prepared_model(
    candidate: Candidate, samples: Samples, threads: int, models: Path | None, progress: Callable[[str], None]
) -> Iterator[Path]:
    """Yield a model directory in int8 that recognises meaningless words, one for each token.

    samples: the audio for calibration, after which the model finds as many tokens as in speech. models, progress: as
    in `prepared_models`.
    """
    variant = Variant(config=candidate.name, engine="onnx", precision="int8")
    options = BenchmarkOptions(threads=threads)
    with prepared_models([candidate], [variant], samples, options, models, progress) as folders:
        folder = folders[candidate.name] / variant.folder
        words = (f"{SPACE}W{number}" for number in range(len(SPECIAL_TOKENS), candidate.model.vocab_size))
        BpeTokenizer([*SPECIAL_TOKENS, *words], None).save(folder)
        yield folder
