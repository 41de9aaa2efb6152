"""The variants of the Mixture of Experts against their definitions, frame by frame and expert by expert."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from unichoir.errors import ConfigError
from unichoir.network.asr_model import AsrModel
from unichoir.network.config import DecoderConfig, EncoderConfig, FeedForwardConfig, ModelConfig, draw_top_k
from unichoir.network.encoder import Encoder
from unichoir.network.masks import ChunkMask
from unichoir.network.moe import (
    MoE,
    balance_experts,
    expert_load,
    load_balancing_loss,
    take_load_loss,
)
from unichoir.network.router import Router

DIM = 6
PLAIN = FeedForwardConfig(hidden_dim=7, num_experts=5, top_k=3)
ALL = {
    "softmax_first": True,
    "shared_hidden_dim": 4,
    "shared_router": True,
    "balance_rate": 0.1,
    "load_loss_weight": 0.7,
}
OPTIONS = {name: {name: value} for name, value in ALL.items()} | {
    "all": ALL,
    "relu-without-bias": {"shared_hidden_dim": 4, "bias": False, "activation": "relu"},
}


def feed_forward(w_1: Tensor, b_1: Tensor | None, w_2: Tensor, b_2: Tensor | None, x: Tensor, kind: str) -> Tensor:
    hidden = w_1 @ x if b_1 is None else w_1 @ x + b_1
    hidden = hidden * torch.sigmoid(hidden) if kind == "swish" else hidden.clamp(min=0)
    return w_2 @ hidden if b_2 is None else w_2 @ hidden + b_2


def naive(
    moe: MoE, config: FeedForwardConfig, router: Router, x: Tensor, mask: Tensor, limit: int
) -> tuple[Tensor, Tensor]:
    """The layer as its options are defined, frame by frame: outputs, 0 for padding, and the weighted load loss."""
    num_experts, experts = config.num_experts, moe.experts
    biases = moe.balance_bias.tolist() if config.balance_rate else [0.0] * num_experts
    copies, mass, frames, outputs = [0.0] * num_experts, [torch.zeros(())] * num_experts, 0, torch.zeros_like(x)
    for place in torch.nonzero(mask).tolist():
        frame = x[tuple(place)]
        logits = [row @ frame for row in router.gate.weight]
        order = sorted(range(num_experts), key=lambda e: -(float(logits[e].detach()) + biases[e]))
        chosen = order[: min(config.top_k, limit)]
        total = sum(torch.exp(logits[e]) for e in range(num_experts))
        part = total if config.softmax_first else sum(torch.exp(logits[e]) for e in chosen)
        y = torch.zeros(DIM)
        for e in chosen:
            b_1, b_2 = (None, None) if experts.bias_1 is None else (experts.bias_1[e], experts.bias_2[e])
            out = feed_forward(experts.w_1[e], b_1, experts.w_2[e], b_2, frame, config.activation)
            y = y + torch.exp(logits[e]) / part * out
            copies[e] += 1
        if config.shared_hidden_dim:
            first, second = moe.shared_expert.w_1, moe.shared_expert.w_2
            assert first.weight.shape == (config.shared_hidden_dim, DIM)
            y = y + feed_forward(first.weight, first.bias, second.weight, second.bias, frame, config.activation)
        mass = [mass[e] + torch.exp(logits[e]) / total for e in range(num_experts)]
        frames += 1
        outputs = outputs.index_put(tuple(torch.tensor(place)), y)
    load_loss = num_experts * sum(copies[e] / sum(copies) * mass[e] / frames for e in range(num_experts))
    return outputs, config.load_loss_weight * load_loss


def layer_of(**options: object) -> tuple[MoE, FeedForwardConfig, Router]:
    torch.manual_seed(11)
    config = dataclasses.replace(PLAIN, **options)
    moe = MoE(DIM, config, dropout=0.0)
    router = Router(DIM, config) if config.shared_router else moe.router
    if config.balance_rate:
        moe.balance_bias.normal_()
    return moe, config, router


@pytest.mark.parametrize("limit", [1, 2, 9])
@pytest.mark.parametrize("name", OPTIONS)
def test_values_gradients_and_loss_equal_the_definition(name: str, limit: int) -> None:
    moe, config, router = layer_of(**OPTIONS[name])
    x, weight = torch.randn(2, 9, DIM, requires_grad=True), torch.randn(2, 9, DIM)
    mask = torch.tensor([[True] * 9, [True] * 4 + [False] * 5])
    learnt = [x, *moe.parameters(), *(router.parameters() if config.shared_router else ())]

    def total(y: Tensor, load_loss: Tensor | None) -> tuple[Tensor, ...]:
        value = (y * weight)[mask].sum() + (0.0 if load_loss is None else load_loss)
        return value, *torch.autograd.grad(value, learnt, materialize_grads=True)

    y = moe(x, mask, torch.tensor([limit]), router if config.shared_router else None)
    found = total(y, take_load_loss(moe))
    expected_y, load_loss = naive(moe, config, router, x, mask, limit)
    torch.testing.assert_close(y[mask], expected_y[mask], rtol=1e-5, atol=1e-6)
    for ours, oracle in zip(found, total(expected_y, load_loss), strict=True):
        torch.testing.assert_close(ours, oracle, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_changes_what_it_is_about(name: str) -> None:
    """Or the test above would hold for a layer without them."""
    moe, config, router = layer_of(**OPTIONS[name])
    x, mask = torch.randn(1, 30, DIM), torch.ones(1, 30, dtype=torch.bool)
    y = moe(x, mask, None, router)
    plain = MoE(DIM, dataclasses.replace(PLAIN, bias=config.bias, activation=config.activation), dropout=0.0)
    plain.load_state_dict({n: t for n, t in moe.state_dict().items() if n in plain.state_dict()}, strict=False)
    plain.router.load_state_dict(router.state_dict())
    same = torch.allclose(plain(x, mask), y)
    assert same == (name in ("shared_router", "load_loss_weight"))
    assert (take_load_loss(moe) is not None) == (config.load_loss_weight > 0)
    assert take_load_loss(moe) is None  # taken once


def test_an_even_load_has_the_least_loss() -> None:
    """Switch Transformer: 1 under a uniform router; with one expert per frame E * sum f P as it stands there."""
    logits, mask = torch.zeros(8, 4), torch.ones(8, dtype=torch.bool)
    assert float(load_balancing_loss(logits, mask, torch.tensor([4, 4, 4, 4]))) == pytest.approx(1.0)
    logits[:, 0] = math.log(7.0)  # a probability of 0.7 for expert 0, 0.1 for the others
    assert float(load_balancing_loss(logits, mask, torch.tensor([8, 0, 0, 0]))) == pytest.approx(4 * 0.7)
    assert float(load_balancing_loss(logits, mask, torch.tensor([8, 8, 0, 0]))) == pytest.approx(4 * (0.35 + 0.05))
    assert float(load_balancing_loss(logits, ~mask, torch.zeros(4, dtype=torch.int64))) == 0.0


def test_biases_move_by_the_sign_of_what_is_missing() -> None:
    """Two layers of other sizes, two processes; only training counts, and each update starts at 0."""
    big, small = (MoE(DIM, FeedForwardConfig(num_experts=e, balance_rate=r), 0.0) for e, r in ((4, 0.5), (3, 0.25)))
    model = torch.nn.ModuleList([big, MoE(DIM, PLAIN, 0.0), small])
    big.update_load += torch.tensor([6, 1, 2, 3])
    small.update_load += torch.tensor([5, 0, 4])
    calls = []

    def total(counts: Tensor) -> Tensor:
        """Simulate a process with one more frame in expert 2 of the first layer, and equal counts in the last layer."""
        calls.append(counts.clone())
        return counts + torch.tensor([0, 0, 4, 0, 5, 0, 4])

    balance_experts(model, total)
    assert [each.tolist() for each in calls] == [[6, 1, 2, 3, 5, 0, 4]]
    # Means 4 and 6: loads are 6 1 6 3 and 10 0 8.
    assert big.balance_bias.tolist() == [-0.5, 0.5, -0.5, 0.5]
    assert small.balance_bias.tolist() == [-0.25, 0.25, -0.25]
    balance_experts(model, lambda counts: counts)  # nothing since: all loads are at the mean
    assert big.balance_bias.tolist() == [-0.5, 0.5, -0.5, 0.5]

    x, mask = torch.randn(1, 9, DIM), torch.ones(1, 9, dtype=torch.bool)
    big.eval()(x, mask)
    assert big.update_load.sum() == 0
    big.train()(x, mask)
    big(x, mask)
    assert big.update_load.sum() == 2 * 2 * 9
    assert expert_load(big)[""].sum() == 3 * 2 * 9


def test_a_model_without_balancing_asks_nobody() -> None:
    def total(counts: Tensor) -> Tensor:
        raise AssertionError("nothing to sum")

    balance_experts(MoE(DIM, PLAIN, 0.0), total)


def test_balancing_evens_the_load_out() -> None:
    torch.manual_seed(0)
    moe = MoE(DIM, FeedForwardConfig(hidden_dim=2, num_experts=8, top_k=2, balance_rate=0.02), dropout=0.0)
    x, mask = torch.randn(1, 800, DIM) + 1.0, torch.ones(1, 800, dtype=torch.bool)
    busiest = []
    for _ in range(150):
        with torch.no_grad():
            moe(x, mask)
        busiest.append(float(moe.update_load.max()) / 200)
        balance_experts(moe, lambda counts: counts)
    assert busiest[0] > 1.8
    assert busiest[-1] < 1.15


ENCODER = EncoderConfig(
    input_dim=20,
    dim=16,
    num_blocks=2,
    num_heads=2,
    feed_forward=FeedForwardConfig(hidden_dim=12, num_experts=4, top_k=2),
    subsampling_channels=4,
    conv_kernel=5,
    dropout=0.0,
)


def encoder_of(**options: object) -> Encoder:
    torch.manual_seed(3)
    layer = dataclasses.replace(ENCODER.feed_forward, **options)
    encoder = Encoder(dataclasses.replace(ENCODER, feed_forward=layer))
    for module in encoder.modules():
        if isinstance(module, MoE) and module.balance_bias is not None:
            module.balance_bias.normal_(std=0.3)
    return encoder


@torch.no_grad()
@pytest.mark.parametrize("name", OPTIONS)
def test_chunk_by_chunk_equals_the_whole(name: str) -> None:
    encoder = encoder_of(**OPTIONS[name]).eval()
    feats, size = torch.randn(2, 67, 20), 4
    whole, _, _ = encoder(feats, torch.tensor([67, 67]), chunk=ChunkMask(size))
    state, parts = encoder.initial_state(2), []
    for start in range(0, 61, 4 * size):
        window = feats[:, start : start + 4 * (size - 1) + 7]
        out, _, state = encoder(window, torch.full((2,), window.shape[1]), state=state)
        parts.append(out)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=2e-5)


def model_config(layer: FeedForwardConfig = ENCODER.feed_forward, **changes: object) -> ModelConfig:
    decoder = DecoderConfig(num_blocks=2, num_reverse_blocks=1, num_heads=2, dropout=0.0, feed_forward=layer)
    encoder = dataclasses.replace(ENCODER, feed_forward=layer)
    return ModelConfig(vocab_size=11, encoder=encoder, decoder=decoder, **changes)


def asr_model(layer: FeedForwardConfig = ENCODER.feed_forward, **changes: object) -> AsrModel:
    torch.manual_seed(4)
    return AsrModel(model_config(layer, **changes))


BATCH = (
    torch.randn(3, 80, 20, generator=torch.Generator().manual_seed(6)),
    torch.tensor([80, 71, 40]),
    torch.tensor([[3, 4, 5, 6], [7, 8, -1, -1], [9, -1, -1, -1]]),
    torch.tensor([4, 2, 1]),
)


def test_names_of_weights_with_and_without_options() -> None:
    plain = set(asr_model().state_dict())
    routers = {name for name in plain if ".router." in name}
    assert len(routers) == 4 + 3
    added = {
        name: set(asr_model(dataclasses.replace(ENCODER.feed_forward, **{name: ALL[name]})).state_dict())
        for name in ALL
    }
    assert added["softmax_first"] == added["load_loss_weight"] == plain
    layers = {name.removesuffix(".router.gate.weight") for name in routers}
    assert added["balance_rate"] - plain == {f"{layer}.balance_bias" for layer in layers}
    parts = [f"{w}.{kind}" for w in ("w_1", "w_2") for kind in ("weight", "bias")]
    assert added["shared_hidden_dim"] - plain == {f"{layer}.shared_expert.{part}" for layer in layers for part in parts}
    assert plain - added["shared_router"] == routers
    stacks = ("encoder", "left_decoder", "right_decoder")
    assert added["shared_router"] - plain == {f"{stack}.router.gate.weight" for stack in stacks}


def test_a_shared_router_is_equal_routers_and_sums_their_gradients() -> None:
    shared = asr_model(dataclasses.replace(ENCODER.feed_forward, shared_router=True))
    apart, weights = asr_model(), shared.state_dict()
    for name in apart.state_dict():
        if ".router." in name:
            weights[name] = weights[f"{name.partition('.')[0]}.router.gate.weight"].clone()
    apart.load_state_dict({name: weights[name] for name in apart.state_dict()})
    losses = []
    for model in (shared, apart):
        losses.append(model(*BATCH).loss)
        losses[-1].backward()
    torch.testing.assert_close(*losses)
    for stack in ("encoder", "left_decoder", "right_decoder"):
        gradients = [
            parameter.grad
            for name, parameter in apart.named_parameters()
            if name.startswith(stack) and ".router." in name
        ]
        torch.testing.assert_close(shared.get_submodule(stack).router.gate.weight.grad, sum(gradients))


def test_a_copy_has_its_own_shared_router() -> None:
    model = asr_model(dataclasses.replace(ENCODER.feed_forward, shared_router=True)).eval()
    before = model(*BATCH).loss
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.encoder.router.parameters():
            parameter.neg_()
    assert not torch.equal(other(*BATCH).loss, before)
    assert torch.equal(model(*BATCH).loss, before)


def test_the_load_loss_is_part_of_the_loss_in_training_only() -> None:
    layer = dataclasses.replace(ENCODER.feed_forward, load_loss_weight=0.5)
    with_loss, without = asr_model(layer), asr_model()
    seen = []
    for module in with_loss.modules():
        if isinstance(module, MoE):
            module.register_forward_hook(lambda moe, _, __: seen.append(moe.load_loss))
    found, plain = with_loss(*BATCH), without(*BATCH)
    assert len(seen) == 4 + 3
    torch.testing.assert_close(found.load, torch.stack(seen).sum())
    torch.testing.assert_close(found.loss, plain.loss + found.load)
    assert float(found.load.detach()) >= 0.5 * 7 * 0.9
    assert float(plain.load) == 0.0
    evaluated = with_loss.eval()(*BATCH)
    assert float(evaluated.load) == 0.0
    assert torch.equal(evaluated.loss, without.eval()(*BATCH).loss)


def test_fewer_experts_in_training_are_routers_with_fewer() -> None:
    model = asr_model(dataclasses.replace(ENCODER.feed_forward, load_loss_weight=0.5, softmax_first=True))
    found = model(*BATCH, top_k=torch.tensor([1]))
    assert all(load.sum() > 0 for load in expert_load(model).values())
    loads = expert_load(model, reset=True)
    for module in model.modules():
        if isinstance(module, Router):
            module.top_k = 1
    expected = model(*BATCH)
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(found.load, expected.load)
    assert all(torch.equal(load, loads[name]) for name, load in expert_load(model).items())


def test_top_k_is_drawn_uniformly() -> None:
    layer = FeedForwardConfig(num_experts=8, top_k=4)
    config, rng = model_config(layer, dynamic_top_k=True), np.random.default_rng(0)
    drawn = [draw_top_k(rng, config) for _ in range(4000)]
    assert all(abs(drawn.count(k) - 1000) < 100 for k in (1, 2, 3, 4))  # 3.6 standard deviations
    assert set(drawn) == {1, 2, 3, 4}
    mixed = dataclasses.replace(config, decoder=DecoderConfig())
    assert {draw_top_k(rng, mixed) for _ in range(99)} == {1, 2, 3, 4}
    assert draw_top_k(rng, model_config(layer)) is None


@pytest.mark.parametrize("name", ALL)
def test_an_option_of_experts_is_refused_without_them(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} needs experts, but num_experts is 0"):
        FeedForwardConfig(**{name: ALL[name]})


@pytest.mark.parametrize("name", ["shared_hidden_dim", "balance_rate", "load_loss_weight"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_numbers_that_make_no_sense_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name} must lie between 0 and"):
        FeedForwardConfig(num_experts=4, **{name: value})


def test_dynamic_top_k_needs_a_choice() -> None:
    for layer in (FeedForwardConfig(), FeedForwardConfig(num_experts=4, top_k=1)):
        with pytest.raises(ConfigError, match="dynamic_top_k needs"):
            model_config(layer, dynamic_top_k=True)


def test_nothing_waits_for_the_device() -> None:
    """On the meta device there are no values: whoever asked for one would fail."""
    moe, config, _ = layer_of(**{**ALL, "shared_router": False})
    moe = moe.to("meta")
    mask = torch.ones(9, dtype=torch.bool, device="meta")
    gates, experts, logits = moe.router(torch.empty(9, DIM, device="meta"), None, moe.balance_bias)
    assert gates.shape == experts.shape == (9, config.top_k)
    moe._record(logits, mask, torch.empty(config.num_experts, dtype=torch.int64, device="meta"))
    assert moe.load_loss is not None
    balance_experts(moe, lambda counts: counts)
