"""A tiny corpus of tone melodies (a letter is a tone) and experiments on it that take a second or two."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from unichoir.text.tokenizer import CharTokenizer
from unichoir.training.config import ExperimentConfig, experiment_from_mapping
from unichoir.training.world import World, join_world

LETTERS = "ABCDEF"


def write_corpus(folder: Path, name: str, count: int, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(count):
        letters = "".join(rng.choice(list(LETTERS), size=rng.integers(2, 6)))
        time = np.arange(3200) / 16000
        tones = [np.sin(2 * np.pi * (300 + 250 * LETTERS.index(letter)) * time) for letter in letters]
        samples = 0.3 * np.concatenate(tones) + rng.normal(0, 0.01, 3200 * len(letters))
        soundfile.write(folder / f"{name}{i}.wav", samples, 16000)
        lines.append(json.dumps({"key": f"{name}{i}", "wav": f"{name}{i}.wav", "txt": letters}))
    manifest = folder / f"{name}.jsonl"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable drawing, which takes longer than the runs; test_plot.py and a run in test_trainer.py do draw."""
    monkeypatch.setattr("unichoir.training.trainer.plot_training", lambda folder: folder / "training.png")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.jsonl (16 utterances), dev.jsonl (4) and tokenizer/."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, "train", 16, seed=1)
    write_corpus(folder, "dev", 4, seed=2)
    CharTokenizer(["<blank>", "<unk>", "<sos/eos>", *LETTERS]).save(folder / "tokenizer")
    return folder


@pytest.fixture
def world() -> Iterator[World]:
    """A world of this process alone."""
    with join_world(torch.device("cpu")) as joined:
        yield joined


@pytest.fixture
def experiment(corpus: Path) -> Callable[..., ExperimentConfig]:
    """Builds an experiment with every source of randomness; keyword arguments are merged into its sections."""

    def build(**sections: dict[str, Any]) -> ExperimentConfig:
        experts = {"hidden_dim": 16, "num_experts": 3}
        encoder = {"dim": 16, "num_blocks": 2, "num_heads": 2, "subsampling_channels": 4, "conv_kernel": 5}
        dropout = {"dropout": 0.1, "attention_dropout": 0.1, "hidden_dropout": 0.1}
        layer = {"feed_forward": experts, **dropout}
        decoder = {"num_blocks": 1, "num_reverse_blocks": 1, "num_heads": 2, **layer}
        mapping: dict[str, Any] = {
            "tokenizer": str(corpus / "tokenizer"),
            "model": {"encoder": {**encoder, **layer}, "decoder": decoder},
            "augment": {"dither": 1.0, "noise": {"probability": 0.5}},
            "data": {"max_frames_in_batch": 400},
            "optim": {"learning_rate": 0.01, "warmup_steps": 4},
            "trainer": {"max_epochs": 3, "accumulate": 2, "num_threads": 1, "log_every": 1, "device": "cpu"},
        }
        for name, values in sections.items():
            mapping[name] = {**mapping.get(name, {}), **values} if isinstance(values, dict) else values
        return experiment_from_mapping(mapping, "experiment")

    return build
