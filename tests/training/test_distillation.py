"""Distillation from a frozen full-context encoder to one that sees chunks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unichoir.configuration import to_mapping
from unichoir.errors import ConfigError
from unichoir.network.checkpoint import load_checkpoint
from unichoir.network.config import EncoderConfig, FeedForwardConfig
from unichoir.network.encoder import Encoder
from unichoir.network.masks import ChunkMask
from unichoir.training.config import ExperimentConfig, first_difference
from unichoir.training.distillation import TeacherConfig, find_teacher
from unichoir.training.trainer import train

Experiment = Callable[..., ExperimentConfig]
SMALL: dict[str, Any] = {
    "dim": 8,
    "num_blocks": 2,
    "num_heads": 2,
    "subsampling_channels": 4,
    "feed_forward": FeedForwardConfig(hidden_dim=16),
    "dropout": 0.0,
}
LENGTHS = torch.tensor([90, 61])


def build(seed: int, **changes: Any) -> Encoder:
    torch.manual_seed(seed)
    return Encoder(EncoderConfig(**{**SMALL, **changes}))


def speech() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(5).normal(size=(2, 90, 80)).astype(np.float32))


@pytest.mark.parametrize("num_top_blocks", [0, 1])
def test_the_distance_counted_out_frame_by_frame(num_top_blocks: int) -> None:
    student, encoder = build(0, num_top_blocks=num_top_blocks).train(), build(1, num_top_blocks=num_top_blocks)
    teacher = find_teacher(TeacherConfig(checkpoint="nowhere"), encoder, student)
    seen: dict[str, np.ndarray] = {}
    for name, each in (("student", student), ("teacher", encoder)):
        compared = each.merge if num_top_blocks else each.after_norm
        compared.register_forward_hook(
            lambda module, inputs, output, name=name: seen.update(
                {name: (output[0] if num_top_blocks else output).detach().numpy()}
            )
        )
    encoder(speech(), LENGTHS)
    _, lengths, _ = student(speech(), LENGTHS, chunk=ChunkMask(2))
    distance = teacher.distance(speech(), LENGTHS)
    frames = [(row, place) for row, length in enumerate(lengths.tolist()) for place in range(length)]
    heard = [seen["teacher"][frame] for frame in frames]
    expected = 0.0
    for dimension in range(8):
        values = [float(frame[dimension]) for frame in heard]
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / len(values)
        for frame, value in zip(frames, values, strict=True):
            expected += (float(seen["student"][frame][dimension]) - value) ** 2 / variance / 8 / 2
    assert float(distance.detach()) == pytest.approx(expected, rel=1e-4)


def test_an_encoder_is_no_distance_from_itself_and_chunks_come_nearer_by_learning() -> None:
    """The teacher does not move; what it hears under chunks is learnt without a word."""
    encoder = build(0)
    teacher = find_teacher(TeacherConfig(checkpoint="nowhere"), encoder, encoder)
    encoder(speech(), LENGTHS)
    assert float(teacher.distance(speech(), LENGTHS).detach()) < 1e-9
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-3)
    weights = {name: tensor.clone() for name, tensor in teacher.encoder.state_dict().items()}
    distances = []
    for _ in range(60):
        encoder(speech(), LENGTHS, chunk=ChunkMask(1, 0))
        distance = teacher.distance(speech(), LENGTHS)
        optimizer.zero_grad()
        distance.backward()
        optimizer.step()
        distances.append(float(distance.detach()))
    assert distances[-1] < 0.5 * distances[0]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in teacher.encoder.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "said"), [({"dim": 16}, "dim 16, the model's has 8"), ({"front": "conv1d"}, "subsampling_rate 2")]
)
def test_frames_that_cannot_be_compared(changes: dict[str, Any], said: str) -> None:
    other = build(0, **{**changes, "subsampling_channels": None})
    with pytest.raises(ConfigError, match=f"teacher: here has an encoder with {said}"):
        find_teacher(TeacherConfig(checkpoint="here"), other, build(0))


def test_a_run_with_a_teacher(experiment: Experiment, corpus: Path, tmp_path: Path) -> None:
    """A whole run, from the checkpoint that also teaches: with a large weight the encoder stays with its teacher where
    without one it leaves. The distance is part of the loss that is reported."""
    manifests = [corpus / "train.jsonl"], [corpus / "dev.jsonl"]
    train(experiment(trainer={"max_epochs": 1}), *manifests, tmp_path / "first")
    first = tmp_path / "first" / "average"
    start = experiment(init=str(first))
    taught = replace(start, teacher=TeacherConfig(checkpoint=str(first), weight=100.0))
    moved = {}
    for name, config in (("alone", start), ("taught", taught)):
        average = train(config, *manifests, tmp_path / name).average
        assert average is not None
        torch.manual_seed(0)
        feats, lengths = torch.randn(1, 120, 80), torch.tensor([120])
        before, after = (load_checkpoint(folder)[0].encoder(feats, lengths)[0] for folder in (first, average))
        moved[name] = float((after - before).square().mean().detach())
    assert moved["taught"] < 0.5 * moved["alone"]
    assert " teacher " in (tmp_path / "taught" / "train.log").read_text()
    assert " teacher " not in (tmp_path / "alone" / "train.log").read_text()
    assert first_difference(start, taught) is not None
    # A teacher that hears other features says so before anything is learnt; so does one that is not there.
    other = replace(taught, fbank=replace(taught.fbank, low_freq=30.0))
    with pytest.raises(ConfigError, match=r"teacher: .* uses other features"):
        train(other, *manifests, tmp_path / "other")
    nowhere = replace(taught, teacher=TeacherConfig(checkpoint=str(tmp_path / "nothing")))
    with pytest.raises(ConfigError, match="nothing"):
        train(nowhere, *manifests, tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="weight must be above 0"):
        TeacherConfig(checkpoint="here", weight=0.0)
    assert to_mapping(taught)["teacher"] == {"checkpoint": str(first), "weight": 100.0}
