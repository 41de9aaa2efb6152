"""Models of configurations, with random weights."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from unichoir.api import load_recognizer
from unichoir.benchmark.plan import Candidate
from unichoir.benchmark.serving.prepared import prepared_model
from unichoir.benchmark.serving.recordings import decode_stream
from unichoir.recognition.options import StreamingOptions


@pytest.mark.slow
def test_a_configuration_can_be_served(
    tiny: Callable[..., Candidate], samples: NDArray[np.float32], tmp_path: Path
) -> None:
    """It loads as any model does, and finds words, each of them one of its tokens."""
    candidate = tiny(experts=0, reverse_blocks=0)
    steps: list[str] = []
    with prepared_model(candidate, samples, 1, tmp_path, steps.append) as folder:
        recognizer = load_recognizer(folder)
    assert recognizer.backend.info.vocab_size == 50
    noise = np.round(samples * 32767).astype(np.int16)
    text = " ".join(result.text for result in decode_stream(recognizer, noise, StreamingOptions()))
    words = re.findall(r"W(\d+)", text)
    assert len(set(words)) > 5
    assert all(3 <= int(number) < 50 for number in words)
    with prepared_model(candidate, samples, 1, tmp_path, steps.append) as again:
        assert again == folder
    assert steps == ["preparing tiny"]
