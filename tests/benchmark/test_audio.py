"""The benchmark's audio."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from unichoir.benchmark.audio import load_benchmark_audio, rotated, speech_like_noise
from unichoir.errors import AudioError

RATE = 16000


def test_noise_is_the_same_every_time_and_has_pauses() -> None:
    audio = load_benchmark_audio(None, 20.0, RATE)
    assert len(audio.samples) == 20 * RATE
    assert np.array_equal(audio.samples, speech_like_noise(20 * RATE, RATE))
    assert np.abs(audio.samples).max() < 1
    level = np.sqrt(np.square(audio.samples.reshape(-1, RATE // 20)).mean(axis=1))
    assert 0.1 < (level < 0.005).mean() < 0.5
    assert "noise" in audio.description


def test_short_files_are_looped_and_that_is_said(tmp_path: Path) -> None:
    sound = np.linspace(-0.5, 0.5, RATE, dtype=np.float32)
    soundfile.write(tmp_path / "a.wav", sound, RATE, subtype="FLOAT")
    audio = load_benchmark_audio(tmp_path / "a.wav", 2.5, RATE)
    assert np.array_equal(audio.samples, np.concatenate([sound, sound, sound[: RATE // 2]]))
    assert "looped: the source has only 1.0 s" in audio.description
    with pytest.raises(AudioError, match=r"none\.wav"):
        load_benchmark_audio(tmp_path / "none.wav", 1.0, RATE)


def test_manifests_are_read_as_far_as_needed(tmp_path: Path) -> None:
    lines = []
    for place in range(3):
        soundfile.write(tmp_path / f"{place}.wav", np.full(RATE, place / 10, np.float32), RATE, subtype="FLOAT")
        lines.append(json.dumps({"key": str(place), "wav": f"{place}.wav", "txt": ""}) + "\n")
    (tmp_path / "set.jsonl").write_text("".join(lines), encoding="utf-8")
    audio = load_benchmark_audio(tmp_path / "set.jsonl", 1.5, RATE)
    assert np.array_equal(np.unique(audio.samples), np.array([0, 0.1], np.float32))
    assert audio.description == "2 utterances of set.jsonl, 1.5 s"


def test_rows_of_a_batch_begin_at_different_places() -> None:
    rows = rotated(np.arange(8, dtype=np.float32), 4)
    assert [int(row[0]) for row in rows] == [0, 2, 4, 6]
    assert all(sorted(row) == list(range(8)) for row in rows)
