"""Fixtures: servers with a small model, recordings and the words in them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
import pytest
import soundfile
from tests.samples import CLIPS, SMALL_MODEL
from tests.serving.harness import Running, running, stream_texts

from unichoir.api import load_recognizer
from unichoir.recognition.recognizer import Recognizer


@pytest.fixture(scope="session")
def included() -> Recognizer:
    """The small model."""
    return load_recognizer(SMALL_MODEL)


@pytest.fixture(scope="session")
def server(included: Recognizer) -> Iterator[Running]:
    """One server for all tests without special settings."""
    with running(included) as found:
        yield found


@pytest.fixture
def serve(included: Recognizer) -> Iterator[Callable[..., Running]]:
    """Starts servers with special settings, for example serve(max_sessions=2)."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(running(included, **options))


@pytest.fixture(scope="session")
def clips() -> list[np.ndarray]:
    """Recordings with known words as int16 at 16 kHz."""
    return [soundfile.read(path, dtype="int16")[0] for path in CLIPS]


@pytest.fixture(scope="session")
def expected(included: Recognizer, clips: list[np.ndarray]) -> list[str]:
    """The text that a single stream of the recogniser finds in each clip."""
    return [" ".join(stream_texts(included, clip)) for clip in clips]
