"""All four modes with real models against WeNet's own results."""

import json
from pathlib import Path

import numpy as np
import pytest

from unichoir.audio.fbank import FbankConfig
from unichoir.engine.encoding import encode_utterance
from unichoir.engine.torch_backend import TorchBackend
from unichoir.formats.wenet.checkpoint import load_wenet
from unichoir.recognition.options import DecodingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.search.options import MODES
from unichoir.search.search import Search
from unichoir.text.tokenizer import load_tokenizer

# How the references in chunks were made: chunk size to left chunks.
LEFT_CHUNKS = {0: -1, 16: -1, 4: 2}


@pytest.mark.parametrize(
    "name",
    ["wenet_moe_tiny", "wenet_dense", "wenet_moe_top1_nobias", "wenet_conv2d6", "wenet_conv2d8", "wenet_transformer"],
)
def test_wenet(fixtures: Path, name: str) -> None:
    folder = fixtures / name
    backend = TorchBackend(load_wenet(folder).model)
    search = Search(backend, load_tokenizer(folder))
    arrays = np.load(folder / "reference.npz")
    decoded = json.loads((folder / "decode.json").read_text())
    assert len(decoded["results"]) == 2
    for name, results in decoded["results"].items():
        chunk_size = int(name.removeprefix("chunk").replace("full", "0"))
        left = LEFT_CHUNKS[chunk_size]
        encoder_out, lens = encode_utterance(backend, arrays["feats"], arrays["feats_lengths"], chunk_size, left)
        assert set(results) == set(MODES)
        for mode, references in results.items():
            options = DecodingOptions(
                mode=mode,
                beam_size=decoded["beam_size"],
                ctc_weight=decoded["ctc_weight"],
                reverse_weight=decoded["reverse_weight"],
                max_length=encoder_out.shape[1],  # WeNet's limit is the longest of the batch
            )
            for output, length, reference in zip(encoder_out, lens, references, strict=True):
                hyps = search(output[:length], backend.ctc_log_probs(output[None, :length])[0], options)
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
