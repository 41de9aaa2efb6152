"""The variants of the Mixture of Experts, all at once, in int8 ONNX: they choose and weigh experts as torch does."""

import copy
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from tests.engine.decoders import token_scores
from torch import nn

from unichoir.engine.onnx_backend import OnnxBackend
from unichoir.engine.torch_backend import TorchBackend
from unichoir.export.quantize import Int8Experts, Int8Linear, quantize_model
from unichoir.network.asr_model import AsrModel
from unichoir.network.masks import ChunkMask
from unichoir.network.moe import MoE

NAME = "options_int8"


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    """Assert near equality. A value between two codes may be rounded to either, so a few may differ by more."""
    difference = np.abs(found - expected)
    assert difference.max() < 0.05
    assert np.median(difference) < 1e-5


def reference_of(exports, change: Callable[[AsrModel], None] = lambda model: None) -> AsrModel:
    model = copy.deepcopy(exports[NAME].model)
    change(model)
    quantize_model(model)
    return model


def speech(length: int = 83) -> tuple[np.ndarray, np.ndarray]:
    feats = np.random.default_rng(0).normal(8.0, 4.0, (2, length, 16)).astype(np.float32)
    return feats, np.array([length, length - 30])


@torch.no_grad()
@pytest.mark.parametrize("top_k", [None, 1, 2])
def test_whole_utterances_and_hypotheses(exports, top_k: int | None) -> None:
    model = reference_of(exports)
    backend = OnnxBackend(exports[NAME].directory, num_threads=1, top_k=top_k)
    (feats, lengths), limit = speech(), None if top_k is None else torch.tensor([top_k])
    found, lens, _ = backend.encode_chunk(feats, lengths, None, -1)
    for row, length in enumerate(lengths):
        expected, _, _ = model.encoder(torch.from_numpy(feats[row, None, :length]), torch.tensor([length]), top_k=limit)
        assert_same(found[row, : lens[row]], expected[0].numpy())
    hyps = [[4, 3, 3, 9], [5]]
    scores = token_scores(TorchBackend(model, top_k=top_k), found[0], hyps, False)
    for ours, right in zip(token_scores(backend, found[0], hyps, False), scores, strict=True):
        assert_same(ours, right)


@torch.no_grad()
def test_streaming_equals_the_chunk_mask(exports) -> None:
    model, (feats, _), size = reference_of(exports), speech(67), 4
    state, parts = None, []
    for start in range(0, 61, 4 * size):
        window = feats[:1, start : start + 4 * (size - 1) + 7]
        out, _, state = exports[NAME].backend.encode_chunk(window, np.array([window.shape[1]]), state, -1)
        parts.append(out[0])
    expected, _, _ = model.encoder(torch.from_numpy(feats[:1]), torch.tensor([67]), chunk=ChunkMask(size))
    assert_same(np.concatenate(parts), expected[0].numpy())


def without_bias(model: AsrModel) -> None:
    for module in model.modules():
        if isinstance(module, MoE):
            module.balance_bias.zero_()


def without_shared_expert(model: AsrModel) -> None:
    for module in model.modules():
        if isinstance(module, MoE):
            nn.init.zeros_(module.shared_expert.w_2.weight)


def softmax_last(model: AsrModel) -> None:
    model.encoder.router.softmax_first = False


def another_router(model: AsrModel) -> None:
    nn.init.normal_(model.encoder.router.gate.weight)


@torch.no_grad()
@pytest.mark.parametrize("change", [without_bias, without_shared_expert, softmax_last, another_router])
def test_a_graph_without_an_option_would_be_found(exports, change: Callable[[AsrModel], None]) -> None:
    feats, lengths = speech()
    found, lens, _ = exports[NAME].backend.encode_chunk(feats, lengths, None, -1)
    other, _, _ = TorchBackend(reference_of(exports, change)).encode_chunk(feats, lengths)
    assert np.median(np.abs(found[0, : lens[0]] - other[0, : lens[0]])) > 1e-3


def test_what_is_stored(exports) -> None:
    """The shared router once and in fp32; the shared expert in int8."""
    encoder = onnx.load(exports[NAME].directory / "encoder.onnx").graph
    router = exports[NAME].model.encoder.router.gate.weight.detach().numpy()
    arrays = [onnx.numpy_helper.to_array(each) for each in encoder.initializer]
    assert sum(np.array_equal(each, router) or np.array_equal(each, router.T) for each in arrays) == 1
    quantized = reference_of(exports)
    layers = [module.shared_expert for module in quantized.encoder.modules() if isinstance(module, Int8Experts)]
    assert len(layers) == 2
    for layer in layers:
        for linear in (layer.w_1, layer.w_2):
            assert isinstance(linear, Int8Linear)
            assert any(each.dtype == np.int8 and np.array_equal(each, linear.weight.numpy()) for each in arrays)
