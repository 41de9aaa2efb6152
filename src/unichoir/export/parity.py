"""Comparison of two engines after every export, which prevents incorrect exports."""

from collections.abc import Callable, Iterator

import numpy as np

from unichoir.audio.fbank import FbankConfig
from unichoir.engine.backend import Backend, Floats
from unichoir.errors import CheckpointError

TOLERANCE = 1e-4
INT8_TOLERANCE = 0.1
"""fp32 rounding can move a value to the next code, and the next layers amplify the difference."""
_TRIALS = 3
_CHUNK = 3
_LEFT_FRAMES = 6
_Measure = Callable[[Floats, Floats], float]


def check_parity(
    reference: Backend, other: Backend, fbank: FbankConfig, streaming: bool, int8: bool = False
) -> dict[str, float]:
    """Return the largest difference of each part, over whole utterances, chunks, CTC and decoders, on random features.

    For int8, differences of values beyond 1 are relative to the largest value, because the steps between codes grow
    with it.

    Raises CheckpointError, naming the part, if a difference exceeds the tolerance. The median of several trials counts:
    if rounding decides between two experts with equal logits, engines may choose differently, which is not an error of
    the export.
    """
    tolerance, largest = (INT8_TOLERANCE, _largest_share) if int8 else (TOLERANCE, _largest)
    trials = [dict(_differences(reference, other, fbank, streaming, seed, largest)) for seed in range(_TRIALS)]
    found = {part: float(np.median([trial[part] for trial in trials])) for part in trials[0]}
    for part, difference in found.items():
        if not difference <= tolerance:
            raise CheckpointError(f"the exported {part} differs from the model by {difference:.1e}: export refused")
    return found


def _differences(
    reference: Backend, other: Backend, fbank: FbankConfig, streaming: bool, seed: int, largest: _Measure
) -> Iterator[tuple[str, float]]:
    rng = np.random.default_rng(seed)
    lengths = np.array([75, 60, 9], dtype=np.int64)
    mean, deviation = (0.0, 0.4) if fbank.kind == "whisper" else (8.0, 4.0)  # as for speech
    noise = rng.normal(0, deviation, (len(lengths), int(lengths.max()), fbank.num_mel_bins))
    feats = (mean * fbank.unit + noise).astype(np.float32)
    expected, expected_lens, _ = reference.encode_chunk(feats, lengths, None, -1)
    found, found_lens, _ = other.encode_chunk(feats, lengths, None, -1)
    if not np.array_equal(expected_lens, found_lens):
        raise CheckpointError("the exported encoder returns other lengths than the model: export refused")
    yield "encoder", largest(expected, found)
    if streaming:
        yield "streaming encoder", _streaming_difference(reference, other, feats, largest)
    yield "CTC", largest(reference.ctc_log_probs(expected), other.ctc_log_probs(expected))
    hyps = [rng.integers(0, reference.info.vocab_size, size=size).tolist() for size in (7, 0, 3)]
    for reverse in (False, True) if reference.info.has_reverse_decoder else (False,):
        decoders = [engine.decoder(expected[0], reverse) for engine in (reference, other)]
        # Two steps, the second of which continues from the first.
        for known in (hyps[:1], hyps):
            following = [np.concatenate(decoder.continuations(known)) for decoder in decoders]
        yield ("reverse decoder" if reverse else "decoder"), largest(*following)


def _streaming_difference(reference: Backend, other: Backend, feats: Floats, largest: _Measure) -> float:
    """Compare chunk by chunk with limited left context. The last row's frames end first, then the second's."""
    info = reference.info
    window, hop = info.subsampling_rate * (_CHUNK - 1) + info.right_context + 1, info.subsampling_rate * _CHUNK
    ends = np.array([feats.shape[1], feats.shape[1] - hop, hop], dtype=np.int64)
    states: tuple[object, object] = (None, None)
    worst = 0.0
    for start in range(0, feats.shape[1] - info.right_context, hop):
        chunk = feats[:, start : start + window]
        lengths = np.clip(ends - start, 0, chunk.shape[1])
        expected, lens, first = reference.encode_chunk(chunk, lengths, states[0], _LEFT_FRAMES)
        found, _, second = other.encode_chunk(chunk, lengths, states[1], _LEFT_FRAMES)
        states = first, second
        valid = np.arange(expected.shape[1]) < lens[:, None]
        worst = max(worst, largest(expected[valid], found[valid]))
    return worst


def _largest(expected: Floats, found: Floats) -> float:
    """Return the largest difference; infinite if any value is not a number."""
    difference = np.abs(expected - found)
    return float(difference.max(initial=0.0)) if np.isfinite(difference).all() else float("inf")


def _largest_share(expected: Floats, found: Floats) -> float:
    """Return `_largest`, for values beyond 1 relative to the largest value."""
    return _largest(expected, found) / float(np.abs(expected).max(initial=1.0))
