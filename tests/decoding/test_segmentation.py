"""Cuts lose nothing, keep their bounds and find the pauses."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unichoir.audio.io import load_audio
from unichoir.decoding.segmentation import split_at_pauses

RATE = 16000


@settings(max_examples=60, deadline=None)
@given(
    num_samples=st.integers(1, 60_000),
    rate=st.sampled_from([1000, 4000, 11025]),
    limit=st.floats(1.0, 8.0),
    seed=st.integers(0, 3),
)
def test_pieces_follow_each_other_without_gap_or_overlap(num_samples: int, rate: int, limit: float, seed: int) -> None:
    samples = np.random.default_rng(seed).normal(0, 0.1, num_samples).astype(np.float32) * (seed > 0)
    pieces = list(split_at_pauses(samples, rate, limit))
    joined = np.concatenate([samples[start:end] for start, end in pieces])
    np.testing.assert_array_equal(joined, samples)
    assert [start for start, _ in pieces] == [0, *(end for _, end in pieces[:-1])]
    assert pieces[-1][1] == num_samples
    lengths = [end - start for start, end in pieces]
    assert max(lengths) <= limit * rate
    assert len(pieces) == 1 or min(lengths) >= int(limit * rate) // 4 - 1


def test_short_audio_and_no_limit_are_one_piece() -> None:
    samples = np.zeros(RATE * 30, dtype=np.float32)
    assert list(split_at_pauses(samples[: RATE * 20], RATE, 20.0)) == [(0, RATE * 20)]
    assert list(split_at_pauses(samples, RATE, None)) == [(0, RATE * 30)]


def test_cuts_are_in_the_pauses() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(0, 0.1, 60 * RATE).astype(np.float32)
    pauses = [(11.0, 11.4), (18.0, 18.25), (29.5, 30.0), (44.0, 44.3)]
    for first, last in pauses:
        samples[int(first * RATE) : int(last * RATE)] *= 0.01
    cuts = [end / RATE for _, end in split_at_pauses(samples, RATE, 20.0)][:-1]
    assert len(cuts) == 3
    for cut in cuts:
        assert any(first + 0.05 < cut < last - 0.05 for first, last in pauses)


def test_in_silence_the_cut_is_far_from_what_surrounds_it() -> None:
    samples = np.full(30 * RATE, 0.1, dtype=np.float32)
    samples[14 * RATE : 16 * RATE] = 0.0
    (_, cut), _ = split_at_pauses(samples, RATE, 20.0)
    assert cut / RATE == pytest.approx(15.0, abs=0.05)


def test_real_speech_is_cut_between_utterances(shared: Path) -> None:
    folder = shared / "data" / "an4"
    lines = (folder / "dev.jsonl").read_text().splitlines()[:24]
    pause = np.zeros(RATE // 2, dtype=np.float32)
    parts, pauses, length = [], [], 0
    for line in lines:
        speech = load_audio(folder / json.loads(line)["wav"])
        pauses.append((length + len(speech), length + len(speech) + len(pause)))
        parts += [speech, pause]
        length += len(speech) + len(pause)
    cuts = [end for _, end in split_at_pauses(np.concatenate(parts), RATE, 20.0)][:-1]
    assert len(cuts) >= 2
    for cut in cuts:
        assert any(first <= cut <= last for first, last in pauses)
