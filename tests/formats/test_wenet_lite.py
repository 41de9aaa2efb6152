"""WeNet's lite models: in rescoring, the decoders only see frames whose most probable token isn't the blank.

WeNet's smallest checkpoint becomes one by its `train.yaml`, as the weights have the same names.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tests.formats.wenet_checkpoints import edit
from tests.formats.wenet_reference import TINY

from unichoir.audio.fbank import FbankConfig
from unichoir.configuration import to_mapping
from unichoir.engine.backend import Backend
from unichoir.engine.encoding import encode_utterance
from unichoir.engine.onnx_backend import OnnxBackend
from unichoir.engine.torch_backend import TorchBackend
from unichoir.export.onnx import export_onnx
from unichoir.export.wenet import export_wenet, import_wenet
from unichoir.formats.wenet.checkpoint import load_wenet
from unichoir.network.checkpoint import load_checkpoint
from unichoir.recognition.options import DecodingOptions, StreamingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.search.prefix_beam import ctc_prefix_beam_search
from unichoir.search.search import Search
from unichoir.text.tokenizer import load_tokenizer

OPTIONS = DecodingOptions(beam_size=4, ctc_weight=0.5, reverse_weight=0.3)
Engines = dict[str, Backend]


@pytest.fixture(scope="module")
def folder(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The imported model `ours` and what WeNet gets back, `theirs`."""
    made = tmp_path_factory.mktemp("lite")
    (made / "wenet").mkdir()
    for name in ("units.txt", "global_cmvn", "train.yaml", "final.pt"):
        (made / "wenet" / name).write_bytes((fixtures / TINY / name).read_bytes())
    weights = torch.load(made / "wenet" / "final.pt", weights_only=True)
    weights["ctc.ctc_lo.bias"][0] += 3.0  # so that some frames are blank and others aren't
    for name, weight in weights.items():
        if "src_attn.linear_out" in name:
            weight *= 10  # so that the frames decide more of the scores
    torch.save(weights, made / "wenet" / "final.pt")
    edit(made / "wenet", "model_conf.apply_non_blank_embedding", True)
    import_wenet(made / "wenet", made / "ours")
    export_wenet(made / "ours", made / "theirs")
    export_onnx(made / "ours", made / "model")
    return made


@pytest.fixture(scope="module")
def engines(folder: Path) -> Engines:
    return {
        "torch": TorchBackend(load_checkpoint(folder / "ours")[0]),
        "onnx": OnnxBackend(folder / "model", num_threads=1),
    }


@pytest.fixture(scope="module")
def plain(folder: Path) -> TorchBackend:
    """The same weights in a model whose decoders see all frames."""
    edit(folder / "wenet", "model_conf.apply_non_blank_embedding", False)
    return TorchBackend(load_wenet(folder / "wenet").model)


@pytest.fixture(scope="module")
def encoder_out(fixtures: Path, plain: TorchBackend) -> np.ndarray:
    reference = np.load(fixtures / TINY / "reference.npz")
    found, lengths = encode_utterance(plain, reference["feats"][:1], reference["feats_lengths"][:1])
    return np.array(found[0, : lengths[0]])


def by_hand(plain: TorchBackend, encoder_out: np.ndarray, memory: np.ndarray) -> list[tuple[float, tuple[int, ...]]]:
    """Return the score and tokens of each CTC hypothesis, best first; the decoders see `memory`."""
    scored = []
    for hyp in ctc_prefix_beam_search(plain.ctc_log_probs(encoder_out[None])[0], 4):
        score = 0.5 * hyp.score
        for reverse, weight in ((False, 0.7), (True, 0.3)):
            tokens = list(hyp.tokens[::-1] if reverse else hyp.tokens)
            (rows,) = plain.decoder(memory, reverse).continuations([tokens])
            score += weight * sum(float(row[token]) for row, token in zip(rows, [*tokens, 2], strict=True))
        scored.append((score, hyp.tokens))
    return sorted(scored, reverse=True)


def blank_frames(plain: TorchBackend, encoder_out: np.ndarray) -> list[bool]:
    log_probs = plain.ctc_log_probs(encoder_out[None])[0]
    return [row.tolist().index(max(row)) == 0 for row in log_probs]


@pytest.mark.parametrize("name", ["torch", "onnx"])
def test_rescoring_sees_the_frames_chosen_by_hand(
    engines: Engines, plain: TorchBackend, folder: Path, encoder_out: np.ndarray, name: str
) -> None:
    is_blank = blank_frames(plain, encoder_out)
    memory = np.stack([frame for frame, blank in zip(encoder_out, is_blank, strict=True) if not blank])
    assert 3 < len(memory) < len(encoder_out) - 3
    search = Search(engines[name], load_tokenizer(folder / "ours"))
    log_probs = engines[name].ctc_log_probs(encoder_out[None])[0]
    hyps = search(encoder_out, log_probs, OPTIONS)
    expected = by_hand(plain, encoder_out, memory)
    assert [hyp.tokens for hyp in hyps] == [tokens for _, tokens in expected]
    np.testing.assert_allclose([hyp.score for hyp in hyps], [score for score, _ in expected], atol=1e-3)
    others = by_hand(plain, encoder_out, encoder_out)
    assert abs(others[0][0] - expected[0][0]) > 0.02


@pytest.mark.parametrize("name", ["torch", "onnx"])
def test_an_utterance_of_blanks_has_an_answer(
    engines: Engines, plain: TorchBackend, folder: Path, encoder_out: np.ndarray, name: str
) -> None:
    blanks = encoder_out[blank_frames(plain, encoder_out)]
    search = Search(engines[name], load_tokenizer(folder / "ours"))
    hyps = search(blanks, engines[name].ctc_log_probs(blanks[None])[0], OPTIONS)
    expected = by_hand(plain, blanks, blanks)
    np.testing.assert_allclose([hyp.score for hyp in hyps], [score for score, _ in expected], atol=1e-3)


def test_the_decoder_alone_sees_all_frames(
    engines: Engines, plain: TorchBackend, folder: Path, encoder_out: np.ndarray
) -> None:
    """As in WeNet, which chooses frames after its attention beam search."""
    options, tokenizer = DecodingOptions(mode="attention", beam_size=3), load_tokenizer(folder / "ours")
    log_probs = plain.ctc_log_probs(encoder_out[None])[0]
    found, expected = (
        Search(backend, tokenizer)(encoder_out, log_probs, options) for backend in (engines["torch"], plain)
    )
    assert found == expected


def test_streams_and_recordings_agree(engines: Engines, folder: Path, fixtures: Path) -> None:
    """In both engines; the final result of a stream is that of the recording in chunks."""
    samples = np.load(fixtures / TINY / "reference.npz")["waveform_int16"].astype(np.float32) / 32768
    found = []
    for backend in engines.values():
        recognizer = Recognizer(backend, load_tokenizer(folder / "ours"), FbankConfig())
        settings = {"chunk_size": 4, "num_left_chunks": 2, "beam_size": 4, "ctc_weight": 0.5, "reverse_weight": 0.3}
        (whole,) = recognizer.recordings.recognize_batch([samples], DecodingOptions(**settings))
        stream = recognizer.streams.create_stream(StreamingOptions(**settings))
        stream.accept_waveform(samples, 16000)
        stream.input_finished()
        *_, final = recognizer.streams.results(stream)
        found += [whole.nbest[0], final.nbest[0]]
    assert len({each.text for each in found}) == 1
    assert [each.score for each in found] == [pytest.approx(found[0].score, abs=1e-3)] * 4


def test_the_key_comes_back(folder: Path) -> None:
    model, _ = load_checkpoint(folder / "ours")
    assert model.config.decoder.memory == "non_blank"
    assert to_mapping(model.config)["decoder"]["memory"] == "non_blank"
    conf = yaml.safe_load((folder / "theirs" / "train.yaml").read_text())
    assert conf["model_conf"]["apply_non_blank_embedding"] is True
    assert load_wenet(folder / "theirs").model.config == model.config


def test_other_models_are_exported_without_the_key(fixtures: Path, tmp_path: Path) -> None:
    """Older releases of WeNet don't know it."""
    import_wenet(fixtures / TINY, tmp_path / "ours")
    export_wenet(tmp_path / "ours", tmp_path / "theirs")
    conf = yaml.safe_load((tmp_path / "theirs" / "train.yaml").read_text())
    assert "apply_non_blank_embedding" not in conf["model_conf"]
