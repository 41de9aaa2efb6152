"""Fixtures for the tests of `unichoir stream`."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.samples import CLIPS, SMALL_MODEL, WITH_SMALL_MODEL

from unichoir import api
from unichoir.audio.io import load_audio
from unichoir.recognition.options import StreamingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.transcript.results import StreamResult

RATE = 16000
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(run_command: Run) -> Run:
    """Runs `unichoir stream` with the small model in this process: exit code, standard output, standard error."""
    return partial(run_command, "stream", *WITH_SMALL_MODEL)


@pytest.fixture(scope="session")
def clips() -> list[Path]:
    """Recordings with known words."""
    return CLIPS


@pytest.fixture(scope="session")
def long_speech(clips: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All clips in a row; half a minute of them has no long pause."""
    samples = np.concatenate([load_audio(path, sample_rate=RATE) for path in clips] * 4)
    path = tmp_path_factory.mktemp("speech") / "long.wav"
    soundfile.write(path, samples, RATE)
    return path


@pytest.fixture(scope="session")
def recognizer() -> Recognizer:
    return api.load_recognizer(SMALL_MODEL, num_threads=1)


@pytest.fixture
def finals_of(recognizer: Recognizer) -> Callable[..., list[StreamResult]]:
    """Returns the final results for (samples or a file, options), computed with the recogniser's own methods."""

    def finals_of(source: np.ndarray | Path, options: StreamingOptions | None = None) -> list[StreamResult]:
        samples = load_audio(source, sample_rate=RATE) if isinstance(source, Path) else source
        stream, finals = recognizer.streams.create_stream(options), []
        stream.accept_waveform(samples, RATE)
        stream.input_finished()
        while recognizer.streams.is_ready(stream) or recognizer.streams.is_endpoint(stream):
            if recognizer.streams.is_endpoint(stream):
                finals.append(recognizer.streams.get_result(stream))
                recognizer.streams.reset(stream)
            else:
                recognizer.streams.decode_streams([stream])
        return finals

    return finals_of
