"""The torch engine against WeNet's reference arrays and against the model called directly."""

import numpy as np
import pytest
import torch

from unichoir.errors import DecodingError
from unichoir.export.torch_backend import TorchBackend
from unichoir.model.wenet import load_wenet


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
    np.testing.assert_allclose(encoder_out[1, :6], alone[0], atol=1e-6)
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
    scores = backend.score_hypotheses(encoder_out[row, : lens[row]], [asked[row], [], asked[row][:1]], reverse)
    targets = [*hyps[row], backend.info.eos_id]
    np.testing.assert_allclose(scores[0], [expected[row, i, token] for i, token in enumerate(targets)], atol=1e-4)
    assert [len(each) for each in scores] == [len(targets), 1, 2]
    np.testing.assert_allclose(scores[1], expected[row, 0, backend.info.eos_id], atol=1e-4)
    if not reverse:
        following = backend.next_token_log_probs(encoder_out[row, : lens[row]], inputs[:1, :3])
        np.testing.assert_allclose(following[0], expected[row, 2], atol=1e-4)
    assert backend.score_hypotheses(encoder_out[row], [], reverse) == []


def test_what_a_model_lacks(exports) -> None:
    backend = TorchBackend(exports["not_causal"].model)
    feats = np.zeros((1, 20, 16), np.float32)
    _, _, state = backend.encode_chunk(feats, np.array([20]), None, -1)
    with pytest.raises(DecodingError, match="cannot stream"):
        backend.encode_chunk(feats, np.array([20]), state, -1)
    with pytest.raises(DecodingError, match="right-to-left"):
        backend.score_hypotheses(np.zeros((3, 24), np.float32), [[3]], True)


def test_gradients_and_devices(backend) -> None:
    assert TorchBackend(backend.model, device="cpu").model is backend.model
    assert torch.is_grad_enabled()
