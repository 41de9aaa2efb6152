"""All four modes with real models against WeNet's own results."""

from pathlib import Path

import numpy as np
import pytest
from tests.formats.wenet_reference import NAMES, decoded_as_wenet

from unichoir.audio.fbank import FbankConfig
from unichoir.engine.torch_backend import TorchBackend
from unichoir.formats.wenet.checkpoint import load_wenet
from unichoir.recognition.options import DecodingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.search.options import MODES
from unichoir.text.tokenizer import load_tokenizer


@pytest.mark.parametrize("name", NAMES)
def test_wenet(fixtures: Path, name: str) -> None:
    backend = TorchBackend(load_wenet(fixtures / name).model)
    for hyps, reference in decoded_as_wenet(backend, fixtures / name):
        assert list(hyps[0].tokens) == reference["tokens"]
        if reference["score"]:  # WeNet leaves 0.0 where it computes none
            assert hyps[0].score == pytest.approx(reference["score"], abs=1e-3)
        if reference["times"]:
            assert list(hyps[0].frames) == reference["times"]
        if reference["nbest"]:
            assert [list(hyp.tokens) for hyp in hyps] == reference["nbest"]
            scores = [hyp.score for hyp in hyps]
            np.testing.assert_allclose(scores, reference["nbest_scores"], atol=1e-3)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("chunk_size", [None, 4])
def test_batch_mates_change_nothing_in_a_real_model(fixtures: Path, mode, chunk_size) -> None:
    folder = fixtures / "wenet_moe_tiny"
    backend = TorchBackend(load_wenet(folder).model)
    recognizer = Recognizer(backend, load_tokenizer(folder), FbankConfig())
    samples = np.load(folder / "reference.npz")["waveform_int16"]
    batch = [samples, samples[:9000], samples[3000:3800], samples[4000:5500]]
    options = DecodingOptions(mode=mode, chunk_size=chunk_size, beam_size=3)
    together = recognizer.recordings.recognize_batch(batch, options)
    for alone, found in zip(batch, together, strict=True):
        expected = recognizer.recordings.recognize(alone, options)
        assert found.nbest[0].tokens == expected.nbest[0].tokens
        assert found.score == pytest.approx(expected.score, abs=1e-3)
