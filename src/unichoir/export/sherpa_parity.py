"""Comparison of the graphs for sherpa-onnx with the model, called as sherpa-onnx calls them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from unichoir.engine.backend import Floats
from unichoir.errors import CheckpointError
from unichoir.export.parity import INT8_TOLERANCE, TOLERANCE
from unichoir.network.asr_model import AsrModel
from unichoir.network.config import EncoderConfig
from unichoir.network.masks import ChunkMask

_TRIALS = 3
_FRAMES = 95
_CHUNK, _LEFT = 5, 2


def check_offline(model: AsrModel, path: Path, int8: bool) -> float:
    """Return the difference from the model on random features of unequal lengths.

    The median of several trials counts, as in `parity.check_parity`. For int8 it compares probabilities, because a
    change of one code changes small log-probabilities a lot. Raises CheckpointError if the difference exceeds the
    tolerance.
    """
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def difference(seed: int) -> float:
        feats, lengths = _random_feats(model, 2, seed), torch.tensor([_FRAMES, 60])
        encoder_out, lens, _ = model.encoder(feats, lengths)
        expected = model.ctc.log_probs(encoder_out)
        found, found_lens = session.run(None, {"x": feats.numpy(), "x_lens": lengths.numpy()})
        if found_lens.tolist() != lens.tolist():
            raise CheckpointError(f"{path.name}: returns other lengths than the model: export refused")
        rows = enumerate(lens.tolist())
        return max(_largest(expected[row, :length], found[row, :length], int8) for row, length in rows)

    return _median(difference, path, int8)


def check_streaming(model: AsrModel, path: Path, int8: bool) -> float:
    """Return the difference between streaming and one call with the same mask; otherwise like `check_offline`."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def difference(seed: int) -> float:
        feats = _random_feats(model, 1, seed)
        encoder_out, _, _ = model.encoder(feats, torch.tensor([_FRAMES]), chunk=ChunkMask(_CHUNK, _LEFT))
        found = stream_log_probs(session, model.config.encoder, feats.numpy(), _CHUNK, _LEFT)
        return _largest(model.ctc.log_probs(encoder_out)[0, : len(found)], found, int8)

    return _median(difference, path, int8)


def stream_log_probs(
    session: onnxruntime.InferenceSession, config: EncoderConfig, feats: Floats, chunk_size: int, num_left_chunks: int
) -> Floats:
    """Return the log-probabilities (T', V) for the complete chunks of features (1, T, M); the rest is ignored."""
    places = chunk_size * num_left_chunks
    shape = (config.num_blocks, config.num_heads, places, 2 * config.dim // config.num_heads)
    attn_cache = np.zeros(shape, np.float32)
    conv_cache = np.zeros((config.num_blocks, 1, config.dim, kernel_size(config) - 1), np.float32)
    names = [each.name for each in session.get_inputs()]
    rate = config.subsampling_rate
    width, outputs = rate * (chunk_size - 1) + config.right_context + 1, []
    for number, start in enumerate(range(0, feats.shape[1] - width + 1, rate * chunk_size)):
        mask = np.ones((1, 1, places + chunk_size), bool)
        mask[..., : max(places - number * chunk_size, 0)] = False
        offset, required = np.array([places + number * chunk_size]), np.array([places])
        values = (feats[:, start : start + width], offset, required, attn_cache, conv_cache, mask)
        log_probs, attn_cache, conv_cache = session.run(None, dict(zip(names, values, strict=True)))
        outputs.append(log_probs[0])
    return np.concatenate(outputs)


def kernel_size(config: EncoderConfig) -> int:
    """Return the kernel size that the caches of convolutions have; Transformer blocks have empty ones."""
    return config.conv_kernel if config.block == "conformer" else 1


def _median(difference: Callable[[int], float], path: Path, int8: bool) -> float:
    with torch.inference_mode():
        found = float(np.median([difference(seed) for seed in range(_TRIALS)]))
    if not found <= (INT8_TOLERANCE if int8 else TOLERANCE):
        raise CheckpointError(f"{path.name}: differs from the model by {found:.1e}: export refused")
    return found


def _random_feats(model: AsrModel, batch: int, seed: int) -> Tensor:
    shape = (batch, _FRAMES, model.config.encoder.input_dim)
    return torch.from_numpy(np.random.default_rng(seed).normal(8.0, 4.0, shape).astype(np.float32))


def _largest(expected: Tensor, found: Floats, int8: bool) -> float:
    """Return the largest difference; infinite if any value is not a number."""
    ours, theirs = (np.exp(each) if int8 else each for each in (expected.numpy(), found))
    difference = np.abs(ours - theirs)
    return float(difference.max()) if np.isfinite(difference).all() else float("inf")
