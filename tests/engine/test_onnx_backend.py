"""The ONNX Runtime engine: WeNet's reference arrays, and errors about model directories."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from tests.engine.decoders import token_scores

from unichoir.audio.fbank import FbankConfig
from unichoir.bundle.sums import SUMS_FILE
from unichoir.engine.backend import ModelInfo
from unichoir.engine.onnx_backend import CUDA_PROVIDER, OnnxBackend, load_model_directory
from unichoir.errors import CheckpointError, ConfigError, DecodingError


@pytest.fixture(scope="module")
def reference(fixtures: Path):
    return np.load(fixtures / "wenet_moe_tiny" / "reference.npz")


@pytest.fixture(scope="module")
def onnx(model_directory: Path) -> OnnxBackend:
    return OnnxBackend(model_directory, num_threads=1)


@pytest.fixture
def copied(model_directory: Path, tmp_path: Path) -> Path:
    """A copy to damage, without the checksums that would expose it at once."""
    return Path(shutil.copytree(model_directory, tmp_path / "model", ignore=shutil.ignore_patterns(SUMS_FILE)))


def test_model_directory(model_directory: Path) -> None:
    backend, config = load_model_directory(model_directory)
    assert backend.config is config
    assert config.fbank == FbankConfig()
    assert config.streaming
    assert backend.info == ModelInfo(
        vocab_size=20, encoder_dim=32, sos_id=2, eos_id=2, has_reverse_decoder=True, reverse_weight=0.3, top_k=2
    )


def test_whole_utterances_against_wenet(onnx: OnnxBackend, reference) -> None:
    encoder_out, lens, _ = onnx.encode_chunk(reference["feats"], reference["feats_lengths"], None, -1)
    assert lens.tolist() == reference["encoder_out_full_lens"].tolist()
    for row, length in enumerate(lens):
        np.testing.assert_allclose(encoder_out[row, :length], reference["encoder_out_full"][row, :length], atol=1e-4)
    np.testing.assert_allclose(onnx.ctc_log_probs(encoder_out)[0], reference["ctc_log_probs_full"][0], atol=1e-3)


@pytest.mark.parametrize(("size", "left"), [(4, -1), (4, 2)])
def test_streaming_against_wenet(onnx: OnnxBackend, reference, size: int, left: int) -> None:
    name = f"encoder_out_streaming_chunk{size}_left{left}"
    frames = left * size if left >= 0 else -1
    feats, state, outputs = reference["feats"][:1, : reference["feats_lengths"][0]], None, []
    for start in range(0, feats.shape[1] - 6, 4 * size):
        window = feats[:, start : start + 4 * (size - 1) + 7]
        encoder_out, _, state = onnx.encode_chunk(window, np.array([window.shape[1]]), state, frames)
        outputs.append(encoder_out)
        # Bounded memory: the cache owns just the frames that it shows.
        for cache in state.att_cache:
            assert left < 0 or cache.shape[2] <= frames
            assert not isinstance(cache.base, np.ndarray)
    np.testing.assert_allclose(np.concatenate(outputs, axis=1), reference[name], atol=1e-4)


@pytest.mark.parametrize("reverse", [False, True])
def test_decoders_against_wenet(onnx: OnnxBackend, reference, reverse: bool) -> None:
    expected = reference["reverse_decoder_log_probs" if reverse else "decoder_log_probs"][0]
    length = reference["decoder_in_lens"][0]
    hyp = reference["decoder_in"][0, 1:length].tolist()
    encoder_out = reference["encoder_out_full"][0, : reference["encoder_out_full_lens"][0]]
    (scores,) = token_scores(onnx, encoder_out, [hyp], reverse)
    targets = [*(hyp[::-1] if reverse else hyp), 2]
    np.testing.assert_allclose(scores, expected[np.arange(length), targets], atol=1e-3)
    assert token_scores(onnx, encoder_out, [], reverse) == []


def test_too_few_frames(onnx: OnnxBackend) -> None:
    encoder_out, lens, state = onnx.encode_chunk(np.zeros((2, 6, 80), np.float32), np.array([6, 0]), None, -1)
    assert encoder_out.shape == (2, 0, 32)
    assert lens.tolist() == [0, 0]
    assert onnx.encode_chunk(np.zeros((2, 3, 80), np.float32), np.array([3, 3]), state, 4)[2] is state


def test_padding_that_is_not_a_number(onnx: OnnxBackend, reference) -> None:
    feats = reference["feats"].copy()
    feats[1, 40:] = np.nan
    encoder_out, _, _ = onnx.encode_chunk(feats, np.array([feats.shape[1], 40]), None, -1)
    assert np.isfinite(encoder_out).all()


def test_calls_from_several_threads(onnx: OnnxBackend, reference) -> None:
    def encode(row: int) -> np.ndarray:
        length = reference["feats_lengths"][row]
        return onnx.encode_chunk(reference["feats"][row : row + 1, :length], np.array([length]), None, -1)[0]

    rows = [0, 1] * 8
    with ThreadPoolExecutor(4) as pool:
        for row, found in zip(rows, pool.map(encode, rows), strict=True):
            np.testing.assert_array_equal(found, encode(row))


@pytest.mark.parametrize(
    "name", ["encoder.onnx", "ctc.onnx", "decoder_memory.onnx", "decoder.onnx", "reverse_decoder.onnx"]
)
def test_missing_or_damaged_graph(copied: Path, name: str) -> None:
    path = copied / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=f"{name}: cannot be read") as error:
        OnnxBackend(copied)
    assert "\n" not in str(error.value)
    path.unlink()
    with pytest.raises(CheckpointError, match=f"{name}: no such file"):
        OnnxBackend(copied)


@pytest.mark.parametrize("num_threads", [1, 4])
def test_of_several_damaged_graphs_the_encoder_is_named(copied: Path, num_threads: int) -> None:
    """Although graphs are loaded in parallel. No thread is left behind, which a forked process would wait for."""
    threads = set(threading.enumerate())
    for name in ("reverse_decoder.onnx", "ctc.onnx", "encoder.onnx"):
        (copied / name).write_bytes(b"damaged")
    for _ in range(5):
        with pytest.raises(CheckpointError, match=r"encoder\.onnx: cannot be read"):
            OnnxBackend(copied, num_threads)
    assert set(threading.enumerate()) == threads


def test_models_that_are_loaded_from_several_threads_at_once(
    model_directory: Path, onnx: OnnxBackend, reference
) -> None:
    threads = set(threading.enumerate())
    inputs = reference["feats"], reference["feats_lengths"]
    expected = onnx.encode_chunk(*inputs)[0]
    hyp = reference["decoder_in"][0, 1 : reference["decoder_in_lens"][0]].tolist()
    with ThreadPoolExecutor(4) as pool:
        for loaded in pool.map(lambda _: OnnxBackend(model_directory, num_threads=2), range(8)):
            np.testing.assert_allclose(loaded.encode_chunk(*inputs)[0], expected, atol=1e-5)
            for reverse in (False, True):
                scores = [token_scores(each, expected[0], [hyp], reverse)[0] for each in (loaded, onnx)]
                np.testing.assert_allclose(*scores, atol=1e-4)
    assert set(threading.enumerate()) == threads


def test_a_graph_in_the_wrong_place(copied: Path) -> None:
    shutil.copy(copied / "ctc.onnx", copied / "decoder.onnx")
    with pytest.raises(CheckpointError, match=r"decoder\.onnx: has the inputs encoder_out, expected tokens, pos"):
        OnnxBackend(copied)


def test_not_a_model_directory(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such model directory"):
        OnnxBackend(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"not a model directory \(it has no config\.json\)"):
        OnnxBackend(tmp_path)


def test_bad_config(copied: Path) -> None:
    path = copied / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"format_version": 4, "new": 1}))
    with pytest.raises(CheckpointError, match="format version 4, this release reads 3: a newer release is needed"):
        OnnxBackend(copied)
    path.write_text(json.dumps(content | {"format_version": 2}))
    with pytest.raises(CheckpointError, match="format version 2, this release reads 3: export it again"):
        OnnxBackend(copied)
    path.write_text(json.dumps(content | {"colour": "red"}))
    with pytest.raises(ConfigError, match=r"config\.json: unknown key 'colour'"):
        OnnxBackend(copied)
    path.write_text('{"format_version": 1')
    with pytest.raises(ConfigError, match=r"config\.json: cannot be read"):
        OnnxBackend(copied)
    path.write_text("[]")
    with pytest.raises(ConfigError, match=r"config\.json: expected a mapping"):
        OnnxBackend(copied)


needs_cpu_only = pytest.mark.skipif(
    CUDA_PROVIDER in onnxruntime.get_available_providers(), reason="this ONNX Runtime is built with CUDA"
)


@needs_cpu_only
def test_an_onnx_runtime_without_cuda(model_directory: Path) -> None:
    with pytest.raises(DecodingError, match="device cuda: the installed ONNX Runtime computes on CPUs only: pip"):
        OnnxBackend(model_directory, device="cuda")


@needs_cpu_only
def test_a_gpu_that_cannot_be_used_is_not_replaced_by_the_cpu(
    model_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime leaves out what it cannot use, here since this build never can."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA_PROVIDER, "CPUExecutionProvider"])
    with (
        pytest.warns(UserWarning, match=CUDA_PROVIDER),
        pytest.raises(DecodingError, match="device cuda: ONNX Runtime finds no GPU here"),
    ):
        OnnxBackend(model_directory, device="cuda")


def test_int8_is_for_cpus(copied: Path) -> None:
    path = copied / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"weights": "int8"}))
    with pytest.raises(DecodingError, match=r"model: device cuda: ONNX Runtime multiplies int8 on CPUs only"):
        OnnxBackend(copied, device="cuda")


@pytest.mark.skipif(CUDA_PROVIDER not in onnxruntime.get_available_providers(), reason="needs onnxruntime-gpu")
def test_cuda_gives_the_results_of_the_cpu(model_directory: Path, onnx: OnnxBackend, reference) -> None:
    cuda = OnnxBackend(model_directory, num_threads=1, device="cuda")
    inputs = reference["feats"], reference["feats_lengths"]
    expected, found = (each.encode_chunk(*inputs)[0] for each in (onnx, cuda))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    np.testing.assert_allclose(cuda.ctc_log_probs(found), onnx.ctc_log_probs(expected), atol=1e-2)
