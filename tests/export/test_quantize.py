"""Int8: the arithmetic against plain integers, the graphs against the arithmetic, frames alone against batches."""

import copy
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tests.engine.decoders import token_scores
from torch import nn

from unichoir import native
from unichoir.bundle.sums import write_sums
from unichoir.engine.encoding import encode_utterance
from unichoir.engine.onnx_backend import OnnxBackend
from unichoir.engine.torch_backend import TorchBackend
from unichoir.errors import DecodingError
from unichoir.export.quantize import (
    ZERO_POINT,
    Int8Conv1dFront,
    Int8Conv2dFront,
    Int8Linear,
    Int8Mixture,
    quantize_frames,
    quantize_model,
)
from unichoir.network.asr_model import AsrModel
from unichoir.network.config import EncoderConfig, FeedForwardConfig
from unichoir.network.feed_forward import ACTIVATIONS
from unichoir.network.moe import MoE, expert_load
from unichoir.network.router import Router
from unichoir.network.subsampling import Conv1dFront, Conv2dFront

NAMES = ("rotary_moe_int8", "dense_batch_norm_int8", "whisper_moe_int8")
# A value at the border of two codes falls to either side by rounding in float32, and later layers make more of it.
ONE_CODE = 0.05


def random_feats(lengths: list[int], seed: int = 0, loudness: float = 8.0) -> tuple[np.ndarray, np.ndarray]:
    shape = (len(lengths), max(lengths), 16)
    return np.random.default_rng(seed).normal(loudness, 4.0, shape).astype(np.float32), np.array(lengths)


def quantized(model: AsrModel) -> AsrModel:
    model = copy.deepcopy(model)
    quantize_model(model)
    return model


def naive_linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, zero: int, scales: list[float]) -> np.ndarray:
    """The product one number at a time, with Python's integers."""
    y = np.empty((len(x), len(weight)))
    for n, (frame, scale) in enumerate(zip(x.tolist(), scales, strict=True)):
        codes = [min(max(round(value / scale) + zero, 0), 255) for value in frame]
        for m, row in enumerate(weight.tolist()):
            step = max(map(abs, row)) / 127
            total = sum((code - zero) * round(value / step) for code, value in zip(codes, row, strict=True))
            y[n, m] = total * scale * step + bias[m]
    return y


@pytest.fixture(params=["kernels", "bodies"])
def backend_of(request, exports, monkeypatch) -> Callable[[str], OnnxBackend]:
    """Load a model by name; its int8 layers are computed by the C++ kernels, then by the functions in the graph."""
    kernels = request.param == "kernels"
    if kernels and not native.supported_versions():
        pytest.skip("there are no kernels for this processor")
    monkeypatch.setenv(native.ENVIRONMENT_VARIABLE, "1" if kernels else "0")
    return lambda name: OnnxBackend(exports[name].directory, num_threads=1)


@pytest.mark.parametrize(
    ("codes", "zero", "make"),
    [
        ("symmetric", 128, lambda x: x),
        ("relu", 0, lambda x: np.maximum(x, 0)),
        ("swish", 64, lambda x: x / (1 + np.exp(-x))),
        ("gelu", 48, lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2),
    ],
)
def test_a_linear_layer_in_whole_numbers(codes: str, zero: int, make) -> None:
    rng = np.random.default_rng(3)
    # From faint to loud, and one frame of silence.
    x = make(rng.normal(size=(6, 20)) * np.array([[1e-4], [0.1], [1], [3], [100], [0]])).astype(np.float32)
    linear = nn.Linear(20, 7)
    if codes == "symmetric":
        scales = [max(abs(frame)) / 127 for frame in x]
    elif codes == "relu":
        scales = [max(frame) / 255 for frame in x]
    else:  # the least value there is must have a code
        least = {"swish": 0.27847, "gelu": 0.16998}[codes]
        scales = [max(max(frame) / (255 - zero), least / zero) for frame in x]
    scales = [scale or 1.0 for scale in scales]
    weight, bias = linear.weight.detach().numpy(), linear.bias.detach().numpy()
    found = Int8Linear(linear.weight, linear.bias, codes)(torch.from_numpy(x)).numpy()
    size = np.abs(x).max(axis=1, keepdims=True)
    np.testing.assert_allclose(
        found, naive_linear(x, weight, bias, zero, scales), rtol=0, atol=1e-5 * max(1, size.max())
    )
    # What is lost: half a step of the codes and of the weights, in each of twenty products.
    exact = x @ weight.T + bias
    steps = np.array(scales)[:, None] * np.abs(weight).sum(axis=1) / 2 + size * 20 * np.abs(weight).max(axis=1) / 254
    assert (np.abs(found - exact) <= steps + 1e-6).all()


@pytest.mark.parametrize("activation", ["swish", "gelu"])
@pytest.mark.parametrize("loudest", [-5.0, 0.0, 0.1, 1.0, 50.0])
def test_every_value_of_an_activation_has_a_code(activation: str, loudest: float) -> None:
    """Whatever the largest one of the frame is, no value is more than half a step from what its code says."""
    x = ACTIVATIONS[activation](torch.cat([torch.linspace(-12, min(loudest, 0.0), 4001), torch.tensor([loudest])]))
    codes, scale = quantize_frames(x[None], activation)
    said = scale[:, None] * (codes.double() - ZERO_POINT[activation])
    assert float((said - x).abs().max()) <= float(scale) * 0.5 * (1 + 1e-5)


def test_codes_of_a_frame_do_not_depend_on_other_frames() -> None:
    x = torch.randn(5, 30)
    alone, scale = quantize_frames(x[2:3], "symmetric")
    loud = x.clone()
    loud[[0, 1, 3, 4]] *= 1e6
    beside, scales = quantize_frames(loud, "symmetric")
    assert torch.equal(alone[0], beside[2])
    assert torch.equal(scale[0], scales[2])


@pytest.mark.parametrize("subsampling", [4, 6, 8])
def test_the_front_as_patches_is_the_convolution(subsampling: Any) -> None:
    """With weights and inputs that int8 holds exactly, nothing is lost but rounding."""
    config = EncoderConfig(input_dim=16, dim=12, num_heads=2, subsampling_channels=5, subsampling=subsampling)
    front = Conv2dFront(config)
    with torch.no_grad():
        for parameter in front.parameters():
            parameter.copy_(torch.randint(-1, 2, parameter.shape).float())
        front.conv_1.weight.mul_(127)
        front.conv_1.bias.zero_()
        x = torch.randint(0, 2, (2, 31, 16)).float() / 127
        expected = front(x)
        found = Int8Conv2dFront(front, config)(x)
    assert found.shape == expected.shape == (2, {4: 7, 6: 4, 8: 3}[subsampling], 12)
    assert float((found - expected).abs().max() / expected.abs().max()) < 0.02


@torch.no_grad()
@pytest.mark.parametrize("is_start", [None, torch.tensor([True, False])])
def test_whispers_front_as_rows_is_the_convolution(is_start: torch.Tensor | None) -> None:
    front = Conv1dFront(16, 12)
    for frames in (5, 22, 23):
        x = torch.randn(2, frames, 16)
        expected, found = front(x, is_start), Int8Conv1dFront(front)(x, is_start)
        assert found.shape == expected.shape == (2, (frames - 3) // 2, 12)
        assert float((found - expected).abs().max()) < 0.02


@torch.no_grad()
@pytest.mark.parametrize("shared", [0, 100])
@pytest.mark.parametrize("bias", [False, True])
def test_small_experts_as_one_wide_network_give_the_same_sum(shared: int, bias: bool) -> None:
    """Against the experts themselves, each of which gets its frames: with 3 chosen of 4, with fewer, in a wide and in a
    narrow network beside them."""
    config = FeedForwardConfig(
        hidden_dim=20, num_experts=4, top_k=3, activation="gelu", bias=bias, shared_hidden_dim=shared
    )
    moe = MoE(24, config, dropout=0.0).eval()
    for parameter in moe.parameters():
        parameter.copy_(torch.randn_like(parameter) / 4)
    mixture, x, mask = Int8Mixture(moe), torch.randn(2, 50, 24), torch.ones(2, 50, dtype=torch.bool)
    for top_k in (None, torch.tensor([1]), torch.tensor([2])):
        expected, found = moe(x, mask, top_k), mixture(x, mask, top_k)
        assert float((found - expected).norm() / expected.norm()) < 0.03
    assert float((mixture(x, mask) - mixture(x, mask, torch.tensor([1]))).norm() / expected.norm()) > 0.1


def test_only_small_experts_are_computed_without_being_chosen() -> None:
    def worthwhile(**sizes: int) -> bool:
        return Int8Mixture.worthwhile(MoE(8, FeedForwardConfig(**sizes), dropout=0.0))

    assert worthwhile(hidden_dim=128, num_experts=4, top_k=2, shared_hidden_dim=1536)
    assert worthwhile(hidden_dim=8, num_experts=5, top_k=4)
    assert not worthwhile(hidden_dim=8, num_experts=5, top_k=3)
    assert not worthwhile(hidden_dim=8, num_experts=8, top_k=2)


def test_products_of_the_same_frames_are_one(exports) -> None:
    """Queries, keys and values; of a decoder's memory all keys and values."""
    for name in NAMES:
        products = {
            part: [node.input[1] for node in graph.node if node.op_type.startswith("Linear_")]
            for part in ("encoder", "decoder_memory")
            if (graph := onnx.load(exports[name].directory / f"{part}.onnx").graph)
        }
        (joined,) = products["decoder_memory"]
        assert joined.count("+") == 1  # one block
        attention = [each for each in products["encoder"] if "self_attn.linear_q" in each]
        assert all(each.count("+") == 2 for each in attention)
        assert attention


@pytest.mark.parametrize("name", NAMES)
def test_graphs_compute_what_the_modules_define(exports, backend_of, name: str) -> None:
    backend, reference = backend_of(name), TorchBackend(quantized(exports[name].model))
    feats, lengths = random_feats([83, 45, 7, 10, 6, 0])
    found, lens, _ = backend.encode_chunk(feats, lengths, None, -1)
    expected, expected_lens, _ = reference.encode_chunk(feats, lengths, None, -1)
    assert lens.tolist() == expected_lens.tolist() == [20, 10, 1, 1, 0, 0]
    valid = np.arange(found.shape[1]) < lens[:, None]
    np.testing.assert_allclose(found[valid], expected[valid], rtol=0, atol=ONE_CODE)
    assert np.median(np.abs(found[valid] - expected[valid])) < 1e-5
    memory = expected[0]
    np.testing.assert_allclose(backend.ctc_log_probs(memory[None]), reference.ctc_log_probs(memory[None]), atol=1e-4)
    hyps = [[4, 3, 3, 9], [], [5], [4, 3, 7]]
    for reverse in (False, True) if backend.info.has_reverse_decoder else (False,):
        pairs = zip(*(token_scores(engine, memory, hyps, reverse) for engine in (backend, reference)), strict=True)
        for score, expected_score in pairs:
            np.testing.assert_allclose(score, expected_score, rtol=0, atol=ONE_CODE)


@pytest.mark.parametrize("name", NAMES)
def test_int8_is_close_to_fp32(exports, backend_of, name: str) -> None:
    feats, lengths = random_feats([83])
    exact, _, _ = TorchBackend(exports[name].model).encode_chunk(feats, lengths, None, -1)
    found, _, _ = backend_of(name).encode_chunk(feats, lengths, None, -1)
    # A frame whose router wavers between two experts may be given the other one; most are not.
    error = np.sqrt(np.square(found - exact).mean(axis=2) / np.square(exact).mean(axis=2))
    assert np.median(error) < 0.03


@pytest.mark.parametrize("name", NAMES)
def test_a_frame_is_the_same_in_any_company(backend_of, name: str) -> None:
    """To the bit: alone, beside louder utterances, and in streams of several; one scale for all would fail here."""
    backend = backend_of(name)
    feats, lengths = random_feats([83, 83, 83])
    feats[1:] = feats[1:] * 50 + 100
    together, _, _ = backend.encode_chunk(feats, lengths, None, -1)
    alone, _, _ = backend.encode_chunk(feats[:1], lengths[:1], None, -1)
    np.testing.assert_array_equal(together[0], alone[0])
    stream_together = encode_utterance(backend, feats, lengths, 4, 2)[0]
    stream_alone = encode_utterance(backend, feats[:1], lengths[:1], 4, 2)[0]
    np.testing.assert_array_equal(stream_together[0], stream_alone[0])
    assert not np.array_equal(stream_alone, alone)


@pytest.mark.parametrize("name", NAMES)
def test_one_frame(exports, backend_of, name: str) -> None:
    backend, reference = backend_of(name), TorchBackend(quantized(exports[name].model))
    feats, lengths = random_feats([7])
    found, lens, _ = backend.encode_chunk(feats, lengths, None, -1)
    assert lens.tolist() == [1]
    np.testing.assert_allclose(found, reference.encode_chunk(feats, lengths, None, -1)[0], rtol=0, atol=ONE_CODE)
    silence = np.zeros((1, 7, 16), np.float32)
    assert np.isfinite(backend.encode_chunk(silence, lengths, None, -1)[0]).all()


def test_experts_that_nobody_chooses(exports, backend_of, tmp_path: Path) -> None:
    """All frames go to experts 3 and 1, the first most; the graph multiplies no rows by the others' weights."""
    model = copy.deepcopy(exports["rotary_moe"].model)
    graph = onnx.load(exports["rotary_moe_int8"].directory / "encoder.onnx")
    with torch.no_grad():
        for name, module in model.encoder.named_modules():
            if isinstance(module, Router):
                norm = model.encoder.get_submodule(name.replace("feed_forward", "norm_ff").replace(".router", ""))
                norm.bias.fill_(1.0)
                norm.weight.mul_(0.1)
                module.gate.weight.copy_(torch.tensor([-1.0, 1.0, -1.0, 2.0, -1.0]).unsqueeze(1).expand(5, 24))
    values = {f"{name}": value.detach().numpy() for name, value in model.encoder.named_parameters()}
    replaced = 0
    for initializer in graph.graph.initializer:
        array = onnx.numpy_helper.to_array(initializer)
        before = dict(exports["rotary_moe"].model.encoder.named_parameters())
        for name, value in before.items():
            old, new = value.detach().numpy(), values[name]
            for turn in (lambda a: a, lambda a: a.T):
                if array.dtype == np.float32 and array.shape == turn(old).shape and np.array_equal(array, turn(old)):
                    if not np.array_equal(old, new):
                        initializer.CopyFrom(
                            onnx.numpy_helper.from_array(np.ascontiguousarray(turn(new)), initializer.name)
                        )
                        replaced += 1
                    break
    assert replaced == 6  # weight and bias of two norms, two routers
    shutil.copytree(exports["rotary_moe_int8"].directory, tmp_path / "model")
    onnx.save(graph, tmp_path / "model" / "encoder.onnx")
    write_sums(tmp_path / "model")
    feats, lengths = random_feats([83])
    expert_load(model, reset=True)
    TorchBackend(model).encode_chunk(feats, lengths, None, -1)
    loads = [load.tolist() for name, load in expert_load(model).items() if name.startswith("encoder")]
    assert loads == [[0, 20, 0, 20, 0]] * 2
    expected, _, _ = TorchBackend(quantized(model)).encode_chunk(feats, lengths, None, -1)
    found, _, _ = OnnxBackend(tmp_path / "model").encode_chunk(feats, lengths, None, -1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=ONE_CODE)


@pytest.mark.parametrize("name", ["rotary_moe", "rotary_moe_int8"])
def test_fewer_experts_than_trained(exports, name: str) -> None:
    """top_k 1 of a top-2 model is the model with top-1 routers; top_k 2 is the model itself."""
    directory = exports[name].directory
    model = copy.deepcopy(exports[name].model)
    for module in model.modules():
        if isinstance(module, Router):
            module.top_k = 1
    reference = TorchBackend(quantized(model) if name.endswith("int8") else model)
    feats, lengths = random_feats([83, 30])
    limited = OnnxBackend(directory, num_threads=1, top_k=1)
    found, _, _ = limited.encode_chunk(feats, lengths, None, -1)
    expected, _, _ = reference.encode_chunk(feats, lengths, None, -1)
    tolerance = ONE_CODE if name.endswith("int8") else 1e-4
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=tolerance)
    hyps = [[4, 3], [5]]
    for score, right in zip(
        token_scores(limited, found[0], hyps, True), token_scores(reference, found[0], hyps, True), strict=True
    ):
        np.testing.assert_allclose(score, right, rtol=0, atol=tolerance)
    eager, _, _ = TorchBackend(exports[name].model, top_k=1).encode_chunk(feats, lengths, None, -1)
    if not name.endswith("int8"):
        np.testing.assert_allclose(eager[0], expected[0], rtol=0, atol=1e-5)
    whole, _, _ = exports[name].backend.encode_chunk(feats, lengths, None, -1)
    both, _, _ = OnnxBackend(directory, num_threads=1, top_k=2).encode_chunk(feats, lengths, None, -1)
    np.testing.assert_array_equal(whole, both)
    assert np.abs(whole[0] - found[0]).max() > 10 * tolerance


def test_a_top_k_that_the_model_does_not_have(exports) -> None:
    for top_k in (0, 3):
        with pytest.raises(DecodingError, match=f"top_k {top_k}: this model supports 1 to 2 experts"):
            OnnxBackend(exports["rotary_moe"].directory, top_k=top_k)
    with pytest.raises(DecodingError, match="top_k 1: this model has no experts"):
        OnnxBackend(exports["dense_batch_norm_int8"].directory, top_k=1)
    with pytest.raises(DecodingError, match="top_k 3"):
        TorchBackend(exports["rotary_moe"].model, top_k=3)


def test_an_hour_of_audio(exports) -> None:
    """Frames repeat every 12.8 s; after an hour they are encoded as after a minute, and memory has not grown."""
    backend = exports["rotary_moe_int8"].backend
    chunk, left, period = 64, 64, 320
    sound = np.random.default_rng(1).normal(8.0, 4.0, (1, 4 * period, 16)).astype(np.float32)
    sound = np.concatenate([sound, sound[:, :3]], axis=1)
    lengths = np.array([4 * chunk + 3])
    state, turns = None, []
    for _ in range(3600 * 25 // period):
        outputs = []
        for start in range(0, 4 * period, 4 * chunk):
            encoder_out, _, state = backend.encode_chunk(sound[:, start : start + lengths[0]], lengths, state, left)
            outputs.append(encoder_out)
        turns.append(np.concatenate(outputs, axis=1))
    assert state.offset.tolist() == [3600 * 25 // period * period]
    assert [cache.shape[2] for cache in state.att_cache] == [left]
    np.testing.assert_array_equal(turns[-1], turns[4])


def test_what_is_stored(exports) -> None:
    """All that multiplies frames is int8, a byte each; routers and norms are not, and nothing is stored twice."""
    directory, model = exports["rotary_moe_int8"].directory, exports["rotary_moe"].model
    assert json.loads((directory / "config.json").read_text())["weights"] == "int8"
    graphs = [onnx.load(path).graph for path in directory.glob("*.onnx")]
    stored = sum(int(np.prod(each.dims)) for graph in graphs for each in graph.initializer if each.data_type == 3)
    matrices = sum(
        value.numel()
        for name, value in model.named_parameters()
        if value.dim() >= 2
        and not any(part in name for part in ("router", "embedding", "depthwise", "conv_1", "bias_1", "bias_2"))
    )
    assert stored == matrices
    types = {node.op_type for graph in graphs for node in graph.node if node.domain == "unichoir"}
    assert types >= {"Experts_swish", "Linear_symmetric", "Linear_symmetric_glu", "Linear_swish", "Linear_relu_relu"}
