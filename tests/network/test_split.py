"""Splitting a dense model's layers into experts, against the dense layer and against splits at random."""

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from unichoir.errors import ConfigError
from unichoir.network import split
from unichoir.network.asr_model import AsrModel
from unichoir.network.config import DecoderConfig, EncoderConfig, FeedForwardConfig, ModelConfig
from unichoir.network.feed_forward import FeedForward
from unichoir.network.moe import MoE, expert_load
from unichoir.network.router import Router
from unichoir.network.split import SplitOptions, split_config, split_into_experts
from unichoir.network.upcycle import upcycle


def config_of(**layer: object) -> ModelConfig:
    feed_forward = FeedForwardConfig(**{"hidden_dim": 48, **layer})
    return ModelConfig(
        vocab_size=9,
        encoder=EncoderConfig(
            input_dim=20,
            dim=16,
            num_blocks=1,
            num_heads=2,
            feed_forward=feed_forward,
            subsampling_channels=4,
            conv_kernel=5,
        ),
        decoder=DecoderConfig(num_blocks=1, num_reverse_blocks=1, num_heads=2, feed_forward=feed_forward),
    )


def dense_model(**layer: object) -> AsrModel:
    torch.manual_seed(2)
    model = AsrModel(config_of(**layer)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def batch() -> tuple[Tensor, ...]:
    torch.manual_seed(3)
    tokens = torch.tensor([[3, 4, 5, 6], [6, 7, -1, -1]])
    return torch.randn(2, 90, 20), torch.tensor([90, 61]), tokens, torch.tensor([4, 2])


def hear(model: AsrModel) -> Iterator[object]:
    for _ in range(3):
        yield model(*batch())


def layers_of(model: AsrModel, kind: type[nn.Module]) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if isinstance(module, kind)}


def even_gates(model: AsrModel) -> AsrModel:
    for router in layers_of(model, Router).values():
        router.gate.weight.data.zero_()
    return model


@torch.no_grad()
@pytest.mark.parametrize("shared_share", [0.0, 0.5])
@pytest.mark.parametrize("layer", [{}, {"bias": False}, {"activation": "gelu"}, {"activation": "relu"}])
def test_all_experts_at_even_gates_are_the_dense_layer(layer: dict[str, object], shared_share: float) -> None:
    """So every unit stands in exactly one expert or in the shared one, and biases count once."""
    dense = dense_model(**layer)
    options = SplitOptions(num_experts=3, top_k=3, shared_share=shared_share)
    sparse = even_gates(split_into_experts(dense, lambda: hear(dense), options))
    assert not sparse.training
    for expected, found in zip(dense(*batch()), sparse(*batch()), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_sizes() -> None:
    dense = dense_model()
    calls: list[tuple[int, int]] = []
    options = SplitOptions(num_experts=4, top_k=2, balance_rate=1e-3)
    sparse = split_into_experts(dense, lambda: hear(dense), options, lambda *done: calls.append(done))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert sparse.config == split_config(dense.config, options)
    wanted = FeedForwardConfig(hidden_dim=6, num_experts=4, top_k=2, shared_hidden_dim=24, balance_rate=1e-3)
    assert sparse.config.encoder.feed_forward == sparse.config.decoder.feed_forward == wanted
    experts = layers_of(sparse, MoE)
    assert len(experts) == 4
    # Four routers and three more biases of each layer are new.
    before, after = (sum(each.numel() for each in model.parameters()) for model in (dense, sparse))
    assert after - before == 4 * (4 * 16 + 4 * 16)
    for layer in experts.values():
        assert layer.balance_bias.tolist() == [0.0] * 4
    # What is no feed-forward layer is as it was.
    weights = sparse.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in dense.state_dict().items() if name in weights)


def structured(num_groups: int, seed: int = 0) -> tuple[FeedForward, Tensor]:
    """A layer with shuffled groups of units, and frames that each activate one group."""
    torch.manual_seed(seed)
    dim, units = 16, 48
    layer = FeedForward(dim, FeedForwardConfig(hidden_dim=units, activation="relu"), 0.0).eval()
    directions = torch.linalg.qr(torch.randn(dim, dim))[0][:num_groups]
    group_of = torch.arange(units)[torch.randperm(units)] % num_groups
    with torch.no_grad():
        layer.w_1.weight.copy_(directions[group_of] + 0.05 * torch.randn(units, dim))
        layer.w_1.bias.fill_(-0.5)
    frames = directions[torch.randint(num_groups, (3000,))] * 3 + 0.2 * torch.randn(3000, dim)
    return layer, frames


def as_experts(layer: FeedForward, frames: Tensor, config: FeedForwardConfig) -> MoE:
    moe = MoE(frames.shape[1], config, 0.0).eval()
    loaded = moe.load_state_dict(split._split(layer, frames, config))
    assert not loaded.missing_keys
    return moe


@torch.no_grad()
@pytest.mark.parametrize("shared", [0, 24])
def test_a_split_by_activity_is_closer_than_one_at_random(shared: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, frames = structured(4)
    config = FeedForwardConfig(
        hidden_dim=(48 - shared) // 4, num_experts=4, top_k=1, shared_hidden_dim=shared, activation="relu"
    )
    x, mask = frames[None, :1000], torch.ones(1, 1000, dtype=torch.bool)
    expected = layer(x, mask)

    def error(moe: MoE) -> float:
        return float((moe(x, mask) - expected).square().mean() / expected.var())

    found = as_experts(layer, frames, config)
    monkeypatch.setattr(
        split, "_balanced_groups", lambda hidden, groups: torch.randperm(hidden.shape[1]).reshape(groups, -1)
    )
    at_random = [error(as_experts(layer, frames, config)) for _ in range(3)]
    assert error(found) < 0.6 * min(at_random)
    # Each group of frames has its expert: none is left out, none gets everything.
    expert_load(found, reset=True)
    found(x, mask)
    (load,) = expert_load(found).values() if expert_load(found) else (found.load,)
    assert load.sum() == 1000
    assert load.min() > 50
    assert load.max() < 600


def test_frames_are_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "MAX_FRAMES", 10)
    frames = split._Frames()
    for part in torch.arange(173.0).unsqueeze(1).split([1, 9, 50, 3, 60, 0, 50]):
        frames.add(part)
    assert frames.all().flatten().tolist() == list(range(0, 173, 32))


def test_what_cannot_be_split() -> None:
    dense = dense_model()
    moe = upcycle(dense, 2)
    with pytest.raises(ConfigError, match=r"encoder\.feed_forward\.num_experts is 2: only a dense model can be split"):
        split_into_experts(moe, lambda: hear(moe), SplitOptions())
    with pytest.raises(ConfigError, match=r"encoder\.feed_forward: 24 units cannot be divided into 5 experts"):
        split_config(dense.config, SplitOptions(num_experts=5))
    with pytest.raises(ConfigError, match="0 units cannot be divided into 4 experts"):
        split_config(dense.config, SplitOptions(shared_share=0.999))
    with pytest.raises(ConfigError, match=r"encoder\.blocks\.0\.feed_forward_macaron: no speech went through"):
        split_into_experts(dense, lambda: [], SplitOptions())
    without_reverse = AsrModel(dataclasses.replace(dense.config, reverse_weight=0.0)).eval()
    with pytest.raises(ConfigError, match=r"right_decoder\.blocks\.0\.feed_forward: no speech"):
        split_into_experts(without_reverse, lambda: hear(without_reverse), SplitOptions())
    for options in ({"num_experts": 1}, {"top_k": 5}, {"top_k": 0}, {"shared_share": 1.0}, {"shared_share": -0.1}):
        with pytest.raises(ConfigError):
            SplitOptions(**options)
