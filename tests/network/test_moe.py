"""The sorted Mixture of Experts against the naive loop over frames and experts, in values and gradients."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from unichoir.network import experts
from unichoir.network.config import FeedForwardConfig
from unichoir.network.feed_forward import FeedForward
from unichoir.network.moe import MoE, build_feed_forward, expert_load

DIM = 6


def naive_moe(moe: MoE, x: Tensor, mask: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Frame by frame and expert by expert, as the equation stands in the paper. Returns outputs and expert counts."""
    experts = moe.experts
    outputs = torch.zeros_like(x)
    counts = torch.zeros(moe.num_experts, dtype=torch.int64)
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            if not mask[b, t]:
                continue
            logits = x[b, t] @ moe.router.gate.weight.T
            chosen = sorted(range(moe.num_experts), key=lambda e: -float(logits[e].detach()))[:top_k]
            gates = torch.softmax(torch.stack([logits[e] for e in chosen]), dim=0)
            y = torch.zeros(DIM)
            for gate, e in zip(gates, chosen, strict=True):
                hidden = experts.w_1[e] @ x[b, t]
                hidden = hidden if experts.bias_1 is None else hidden + experts.bias_1[e]
                hidden = hidden * torch.sigmoid(hidden) if experts.activation == "swish" else hidden.clamp(min=0)
                out = experts.w_2[e] @ hidden
                y = y + gate * (out if experts.bias_2 is None else out + experts.bias_2[e])
                counts[e] += 1
            outputs = outputs.index_put((torch.tensor(b), torch.tensor(t)), y)
    return outputs, counts


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize(("num_experts", "top_k"), [(4, 1), (8, 2), (5, 3), (3, 3), (40, 2)])
def test_values_gradients_and_counts_equal_the_naive_loop(
    num_experts: int, top_k: int, bias: bool, training: bool
) -> None:
    torch.manual_seed(num_experts + top_k)
    config = FeedForwardConfig(hidden_dim=7, num_experts=num_experts, top_k=top_k, bias=bias)
    moe = MoE(DIM, config, dropout=0.0).train(training)
    mask = torch.tensor([[True] * 9, [True] * 4 + [False] * 5, [False] * 9])
    x = torch.randn(3, 9, DIM, requires_grad=True)
    weight = torch.randn(3, 9, DIM)

    fast = moe(x, mask)
    fast_gradients = torch.autograd.grad((fast * weight).sum(), [x, *moe.parameters()])
    slow, counts = naive_moe(moe, x, mask, top_k)
    slow_gradients = torch.autograd.grad((slow * weight).sum(), [x, *moe.parameters()], materialize_grads=True)

    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-6)
    for ours, oracle in zip(fast_gradients, slow_gradients, strict=True):
        torch.testing.assert_close(ours, oracle, rtol=1e-4, atol=1e-5)
    assert torch.equal(expert_load(moe)[""], counts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_grouped_products_equal_single_ones(monkeypatch: pytest.MonkeyPatch, bias: bool, dtype: torch.dtype) -> None:
    """As on CUDA, by torch's stand-in for CPUs. What they leave undefined, in rows of no expert, is made NaN here."""

    def grouped(x: Tensor, w: Tensor, *, offs: Tensor) -> Tensor:
        undefined = (torch.arange(len(x)) >= offs[-1]).unsqueeze(1)
        x = x.clone()
        x.register_hook(lambda gradient: gradient.masked_fill(undefined, torch.nan))
        return functional.grouped_mm(x, w, offs=offs).masked_fill(undefined, torch.nan)

    torch.manual_seed(0)
    config = FeedForwardConfig(hidden_dim=32, num_experts=5, top_k=2, bias=bias)
    moe = MoE(16, config, dropout=0.0)
    with torch.no_grad():
        moe.router.gate.weight[3] = 0.0  # an expert that few or none choose
    mask = torch.tensor([[True] * 40, [True] * 11 + [False] * 29])
    x, weight = torch.randn(2, 40, 16, requires_grad=True), torch.randn(2, 40, 16)

    def values_and_gradients() -> list[Tensor]:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            y = moe(x, mask)
        return [y, *torch.autograd.grad((y * weight).sum(), [x, *moe.parameters()])]

    single = values_and_gradients()
    monkeypatch.setattr(experts, "has_grouped_products", lambda *_: True)
    monkeypatch.setattr(experts, "functional", SimpleNamespace(**{**vars(functional), "grouped_mm": grouped}))
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    for ours, theirs in zip(values_and_gradients(), single, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_the_check_of_grouped_products_works_where_recognition_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    check = experts.grouped_products_agree.__wrapped__
    with torch.inference_mode():
        assert check(torch.device("cpu"), torch.float32)
        assert check(torch.device("cpu"), torch.bfloat16)
    wrong = SimpleNamespace(grouped_mm=lambda x, w, offs: torch.zeros(len(x), w.shape[2]) * x.sum() * w.sum())
    monkeypatch.setattr(experts, "functional", wrong)
    assert not check(torch.device("cpu"), torch.float32)


def test_an_expert_that_no_frame_chose_is_not_computed() -> None:
    moe = MoE(DIM, FeedForwardConfig(hidden_dim=7, num_experts=4, top_k=2), dropout=0.0)
    x = torch.rand(1, 20, DIM) + 0.1
    with torch.no_grad():
        # Positive frames: experts 0 and 2 get positive logits, 1 and 3 negative ones.
        moe.router.gate.weight.copy_(torch.tensor([1.0, -1.0, 2.0, -2.0])[:, None].expand(4, DIM))
        moe.experts.w_1[1] = float("nan")
        moe.experts.w_2[3] = float("nan")
    assert torch.isfinite(moe(x, torch.ones(1, 20, dtype=torch.bool))).all()
    assert expert_load(moe)[""].tolist() == [20, 0, 20, 0]


def test_padding_changes_neither_frames_nor_load_nor_gradients() -> None:
    moe = MoE(DIM, FeedForwardConfig(hidden_dim=7, num_experts=4, top_k=2), dropout=0.0)
    x = torch.randn(1, 5, DIM)
    padded = torch.cat([x, torch.full((1, 3, DIM), 1e6)], dim=1)
    mask = torch.tensor([[True] * 5 + [False] * 3])
    alone = moe(x, torch.ones(1, 5, dtype=torch.bool))
    gradient = torch.autograd.grad(alone.square().sum(), list(moe.parameters()))
    load = expert_load(moe, reset=True)[""]
    beside = moe(padded, mask)
    assert torch.equal(beside[:, :5], alone)
    assert torch.equal(beside[:, 5:], torch.zeros(1, 3, DIM))
    assert torch.equal(expert_load(moe)[""], load)
    for ours, expected in zip(
        torch.autograd.grad(beside.square().sum(), list(moe.parameters())), gradient, strict=True
    ):
        torch.testing.assert_close(ours, expected)


def test_no_frame_at_all() -> None:
    moe = MoE(DIM, FeedForwardConfig(hidden_dim=7, num_experts=4, top_k=2), dropout=0.0).eval()
    assert moe(torch.zeros(1, 0, DIM), torch.zeros(1, 0, dtype=torch.bool)).shape == (1, 0, DIM)
    assert torch.equal(moe(torch.ones(2, 3, DIM), torch.zeros(2, 3, dtype=torch.bool)), torch.zeros(2, 3, DIM))


def test_equal_experts_are_one_dense_layer() -> None:
    dense = FeedForward(DIM, FeedForwardConfig(hidden_dim=7, activation="relu"), dropout=0.0)
    config = FeedForwardConfig(hidden_dim=7, num_experts=3, top_k=2, activation="relu")
    moe = build_feed_forward(DIM, config, dropout=0.0)
    assert isinstance(moe, MoE)
    with torch.no_grad():
        for stack, part in (
            (moe.experts.w_1, dense.w_1.weight),
            (moe.experts.w_2, dense.w_2.weight),
            (moe.experts.bias_1, dense.w_1.bias),
            (moe.experts.bias_2, dense.w_2.bias),
        ):
            assert stack is not None
            stack.copy_(part.expand_as(stack))
    x, mask = torch.randn(2, 4, DIM), torch.ones(2, 4, dtype=torch.bool)
    torch.testing.assert_close(moe(x, mask), dense(x, mask))


def test_the_initial_weights_are_spread_as_those_of_linear_layers() -> None:
    torch.manual_seed(0)
    experts = MoE(64, FeedForwardConfig(hidden_dim=256, num_experts=8), dropout=0.0).experts
    for stack, layer in ((experts.w_1, nn.Linear(64, 256)), (experts.w_2, nn.Linear(256, 64))):
        assert abs(float(stack.detach().std() / layer.weight.detach().std()) - 1) < 0.03
