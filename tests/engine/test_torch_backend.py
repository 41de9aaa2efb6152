"""The torch engine against WeNet's reference arrays and against the model called directly."""

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from tests.engine.decoders import next_token_log_probs, token_scores
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unichoir.engine.torch_backend import TorchBackend, check_device
from unichoir.errors import DecodingError
from unichoir.formats.wenet.checkpoint import load_wenet


@pytest.fixture(scope="module")
def reference(fixtures):
    return np.load(fixtures / "wenet_moe_tiny" / "reference.npz")


@pytest.fixture(scope="module")
def backend(fixtures) -> TorchBackend:
    return TorchBackend(load_wenet(fixtures / "wenet_moe_tiny").model)


def test_whole_utterances(backend, reference) -> None:
    feats, lengths = reference["feats"], reference["feats_lengths"]
    feats.setflags(write=False)
    encoder_out, lens, _ = backend.encode_chunk(feats, lengths, None, -1)
    assert lens.tolist() == reference["encoder_out_full_lens"].tolist()
    for row, length in enumerate(lens):
        np.testing.assert_allclose(encoder_out[row, :length], reference["encoder_out_full"][row, :length], atol=1e-5)
    log_probs = backend.ctc_log_probs(encoder_out)
    np.testing.assert_allclose(log_probs[0], reference["ctc_log_probs_full"][0], atol=1e-4)


@pytest.mark.parametrize(("size", "left"), [(4, -1), (4, 2)])
def test_streaming(backend, reference, size: int, left: int) -> None:
    name = f"encoder_out_streaming_chunk{size}_left{left}"
    frames = left * size if left >= 0 else -1
    feats, state, outputs = reference["feats"][:1, : reference["feats_lengths"][0]], None, []
    for start in range(0, feats.shape[1] - 6, 4 * size):
        window = feats[:, start : start + 4 * (size - 1) + 7]
        encoder_out, _, state = backend.encode_chunk(window, np.array([window.shape[1]]), state, frames)
        outputs.append(encoder_out)
    np.testing.assert_allclose(np.concatenate(outputs, axis=1), reference[name], atol=1e-5)
    assert left < 0 or state.num_past <= frames


def test_rows_do_not_meet(backend, reference) -> None:
    """Not a number in the padding of one row, and rows of no frames at all."""
    feats = np.concatenate([reference["feats"]] * 2)
    lengths = np.array([feats.shape[1], 30, 0, 5])
    feats[1, 30:] = np.nan
    encoder_out, lens, _ = backend.encode_chunk(feats, lengths, None, -1)
    assert lens.tolist() == [(feats.shape[1] - 3) // 4, 6, 0, 0]
    alone, _, _ = backend.encode_chunk(feats[1:2, :30], lengths[1:2], None, -1)
    # Products of other shapes are summed in another order, which on some processors changes the last digits.
    np.testing.assert_allclose(encoder_out[1, :6], alone[0], atol=1e-5)
    assert np.isfinite(encoder_out).all()


def test_too_few_frames_for_any_row(backend, reference) -> None:
    feats = reference["feats"][:, :20]
    _, _, state = backend.encode_chunk(feats, np.array([20, 20]), None, -1)
    encoder_out, lens, after = backend.encode_chunk(feats[:, :6], np.array([6, 2]), state, -1)
    assert encoder_out.shape == (2, 0, backend.info.encoder_dim)
    assert lens.tolist() == [0, 0]
    assert after is state
    assert backend.encode_chunk(feats[:, :0], np.array([0, 0]), None, -1)[2].offset.tolist() == [0, 0]


@pytest.mark.parametrize("reverse", [False, True])
def test_hypotheses(backend, reference, reverse: bool) -> None:
    inputs = reference["reverse_decoder_in" if reverse else "decoder_in"]
    expected = reference["reverse_decoder_log_probs" if reverse else "decoder_log_probs"]
    hyps = [row[1:length].tolist() for row, length in zip(inputs, reference["decoder_in_lens"], strict=True)]
    # As given to a decoder, a hypothesis is already reversed.
    asked = [hyp[::-1] if reverse else hyp for hyp in hyps]
    encoder_out = reference["encoder_out_full"]
    lens = reference["encoder_out_full_lens"]
    row = 0
    scores = token_scores(backend, encoder_out[row, : lens[row]], [asked[row], [], asked[row][:1]], reverse)
    targets = [*hyps[row], backend.info.eos_id]
    np.testing.assert_allclose(scores[0], [expected[row, i, token] for i, token in enumerate(targets)], atol=1e-4)
    assert [len(each) for each in scores] == [len(targets), 1, 2]
    np.testing.assert_allclose(scores[1], expected[row, 0, backend.info.eos_id], atol=1e-4)
    if not reverse:
        following = next_token_log_probs(backend, encoder_out[row, : lens[row]], inputs[:1, 1:3].tolist())
        np.testing.assert_allclose(following[0], expected[row, 2], atol=1e-4)
    assert token_scores(backend, encoder_out[row], [], reverse) == []


def test_what_a_model_lacks(exports) -> None:
    backend = TorchBackend(exports["not_causal"].model)
    feats = np.zeros((1, 20, 16), np.float32)
    _, _, state = backend.encode_chunk(feats, np.array([20]), None, -1)
    with pytest.raises(DecodingError, match="cannot stream"):
        backend.encode_chunk(feats, np.array([20]), state, -1)
    with pytest.raises(DecodingError, match="right-to-left"):
        token_scores(backend, np.zeros((3, 24), np.float32), [[3]], True)


def test_gradients_and_devices(backend) -> None:
    assert TorchBackend(backend.model, device="cpu").model is backend.model
    assert torch.is_grad_enabled()


def exercise(backend: TorchBackend, reference) -> Iterator[np.ndarray]:
    """Call everything that decoding needs from an engine; yields the results."""
    feats = reference["feats"][:, :60]
    encoder_out, lens, _ = backend.encode_chunk(feats, np.array([60, 41]))
    yield from (encoder_out, lens)
    state = backend.join_states([backend.initial_state(1, 8), backend.initial_state(1, 8)])
    for start in (0, 16, 32):
        chunk, lens, state = backend.encode_chunk(feats[:, start : start + 19], np.array([19, 19]), state, 8)
        yield from (chunk, lens)
        state = backend.restart_positions(backend.join_states(backend.split_state(state)[::-1]))
        device = backend.model.encoder.cmvn_mean.device
        assert {tensor.device for tensor in (*state.att_cache, *state.cnn_cache, state.att_cache_lens)} == {device}
        assert state.offset.device == device
    yield backend.encode_chunk(feats[:, :5], np.array([5, 5]))[0]
    yield backend.ctc_log_probs(encoder_out)
    for reverse in (False, True):
        yield from token_scores(backend, encoder_out[0], [[3, 4], [3, 5, 6], []], reverse)
    yield next_token_log_probs(backend, encoder_out[0], [[3], [4]])


@pytest.mark.parametrize("top_k", [None, 1])
def test_nothing_is_made_on_the_default_device(backend, reference, top_k: int | None) -> None:
    """The model is on the CPU and the default device is another one, on which no values are: as for a GPU, reversed."""
    expected = list(exercise(TorchBackend(backend.model, top_k=top_k), reference))
    with torch.device("meta"):
        assert torch.zeros(1).is_meta
        found = list(exercise(TorchBackend(backend.model, "cpu", top_k), reference))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


class OneDevice(TorchDispatchMode):
    """Fails if an operation mixes devices; scalars may come from the CPU, as CUDA allows."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor) and each.dim()]
        devices = {tensor.device for tensor in tensors}
        assert len(devices) < 2, f"{func} of {devices}"
        return func(*args, **(kwargs or {}))


class Readable(TorchFunctionMode):
    """Tensors without values, read as zeros: counts copies from the device, by caller."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.Tensor.cpu, torch.Tensor.tolist):
            assert args[0].is_meta
            zeros = torch.zeros(args[0].shape, dtype=args[0].dtype, device="cpu")
            return zeros if func is torch.Tensor.cpu else zeros.tolist()
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("top_k", [None, 1])
def test_all_of_it_goes_to_the_device(backend, reference, top_k: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that is not the CPU, though without values: weights, inputs and states meet there."""
    expected = list(exercise(TorchBackend(backend.model, top_k=top_k), reference))
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)  # which knows real devices only
    moved = TorchBackend(copy.deepcopy(backend.model), "meta", top_k)
    assert {tensor.device.type for tensor in moved.model.state_dict().values()} == {"meta"}
    with OneDevice(), Readable():
        found = list(exercise(moved, reference))
    assert [(each.shape, each.dtype) for each in found] == [(each.shape, each.dtype) for each in expected]
    assert all(type(each) is np.ndarray for each in found)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_cuda_device() -> None:
    check_device("cpu")
    with pytest.raises(
        DecodingError, match=r"device cuda: the installed PyTorch (finds no GPU|was built without CUDA)"
    ):
        check_device("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_gives_the_results_of_the_cpu(backend, reference) -> None:
    expected = exercise(backend, reference)
    moved = TorchBackend(copy.deepcopy(backend.model), "cuda")
    with torch.backends.cudnn.flags(allow_tf32=False):
        for one, other in zip(exercise(moved, reference), expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-3)
