"""The expert load of a real model, checked by invariants."""

import math
from pathlib import Path

import numpy as np
import pytest

from unichoir.api import load_recognizer
from unichoir.errors import DecodingError
from unichoir.evaluation.experts import expert_load
from unichoir.network.load import LayerLoad
from unichoir.recognition.options import DecodingOptions


def test_entropy_and_dead_experts() -> None:
    assert LayerLoad(frames=(5, 5, 5, 5)).entropy == pytest.approx(1)
    assert LayerLoad(frames=(9, 0, 0)).entropy == 0
    assert LayerLoad(frames=(9, 0, 0)).dead == (1, 2)
    assert LayerLoad(frames=(0, 0)).entropy == 0
    expected = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert LayerLoad(frames=(3, 1)).entropy == pytest.approx(expected)


def test_load_of_an_encoder_is_its_frames_times_top_k(tiny_checkpoint: Path) -> None:
    recognizer = load_recognizer(tiny_checkpoint)
    samples = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    recognizer.recordings.recognize(samples, DecodingOptions(mode="ctc_greedy_search"))
    loads = expert_load(recognizer.backend)
    frames = recognizer.backend.info.num_encoder_frames(98)
    encoder = {name: load for name, load in loads.items() if name.startswith("encoder.")}
    assert len(encoder) == 2  # the two halves of one block
    assert all(sum(load.frames) == 2 * frames for load in encoder.values())
    assert all(sum(load.frames) == 0 for name, load in loads.items() if name not in encoder)


def test_onnx_models_do_not_know(tiny_model: Path) -> None:
    with pytest.raises(DecodingError, match="only available for torch checkpoints"):
        expert_load(load_recognizer(tiny_model, 1).backend)
