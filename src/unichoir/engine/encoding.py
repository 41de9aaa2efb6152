"""From features to encoder outputs and CTC log-probabilities, for one or several recordings at once."""

from collections.abc import Sequence

import numpy as np

from unichoir.engine.backend import Backend, Floats, Ints
from unichoir.engine.limits import MAX_LEFT_FRAMES
from unichoir.errors import DecodingError


def encode_utterance(
    backend: Backend, feats: Floats, feats_lengths: Ints, chunk_size: int | None = None, num_left_chunks: int = -1
) -> tuple[Floats, Ints]:
    """Encode whole utterances, either at once or chunk by chunk as a stream does.

    feats: (B, T, M) padded; feats_lengths: (B,); chunk_size: encoder frames per chunk; None or 0: one chunk.
    num_left_chunks: chunks before its own to which each frame attends; -1: all. Returns encoder_out (B, T', D) and
    encoder_out_lens (B,). Raises DecodingError if there are several chunks and the model cannot stream.
    """
    info, num_frames = backend.info, feats.shape[1]
    num_outputs = info.num_encoder_frames(num_frames)
    chunk_size = chunk_size or max(num_outputs, 1)
    num_left_frames = num_left_chunks * chunk_size if num_left_chunks >= 0 else -1
    width = info.subsampling_rate * (chunk_size - 1) + info.right_context + 1
    state = None
    if chunk_size >= num_outputs:
        num_left_frames = 0  # no later chunk could see them
    else:
        # The same room as in a stream, so that sums have the same terms. Without a limit the state grows instead.
        state = backend.initial_state(len(feats), num_left_frames if 0 < num_left_frames <= MAX_LEFT_FRAMES else 0)
    outputs = [np.zeros((len(feats), 0, info.encoder_dim), dtype=np.float32)]
    total = np.zeros(len(feats), dtype=np.int64)
    for start in range(0, info.subsampling_rate * num_outputs, info.subsampling_rate * chunk_size):
        window = feats[:, start : min(start + width, num_frames)]
        window_lengths = np.clip(feats_lengths - start, 0, window.shape[1])
        encoder_out, lens, state = backend.encode_chunk(window, window_lengths, state, num_left_frames)
        outputs.append(encoder_out)
        total += lens
    return np.concatenate(outputs, axis=1), total


def encode_batch(
    backend: Backend, feats: Sequence[Floats], chunk_size: int | None = None, num_left_chunks: int = -1
) -> list[tuple[Floats, Floats]]:
    """Return encoder_out (T', D) and the CTC log-probabilities (T', V) of each of `feats` (T, M).

    T' is 0 for too few frames. Raises DecodingError as `encode_utterance` and `check_numbers` do.
    """
    info = backend.info
    nothing = np.zeros((0, info.encoder_dim), np.float32), np.zeros((0, info.vocab_size), np.float32)
    encoded = [nothing] * len(feats)
    rows = [row for row, frames in enumerate(feats) if info.num_encoder_frames(len(frames))]
    if not rows:
        return encoded
    padded, lengths = _pad([feats[row] for row in rows])
    outputs, lens = encode_utterance(backend, padded, lengths, chunk_size, num_left_chunks)
    for row, output, length in zip(rows, outputs, lens, strict=True):
        encoder_out = output[:length]
        log_probs = backend.ctc_log_probs(encoder_out[None])[0]
        check_numbers(log_probs)
        encoded[row] = encoder_out, log_probs
    return encoded


def check_numbers(log_probs: Floats) -> None:
    """Raise DecodingError for log-probabilities that are not numbers."""
    if np.isnan(log_probs).any():
        raise DecodingError("the model's output is not a number: its weights are damaged or overflow")


def _pad(feats: Sequence[Floats]) -> tuple[Floats, Ints]:
    """Return zero-padded features (B, T, M) and their lengths (B,)."""
    lengths = np.array([len(frames) for frames in feats], dtype=np.int64)
    padded = np.zeros((len(feats), int(lengths.max()), feats[0].shape[1]), dtype=np.float32)
    for row, frames in zip(padded, feats, strict=True):
        row[: len(frames)] = frames
    return padded, lengths
