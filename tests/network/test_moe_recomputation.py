"""Recomputed activations and sharded parameters, as in training at scale, with every option on."""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from unichoir.network.asr_model import AsrModel, LossOutput
from unichoir.network.config import DecoderConfig, EncoderConfig, FeedForwardConfig, ModelConfig
from unichoir.network.moe import MoE, expert_load, ready_for_compiler, recomputing, take_load_loss

LAYER = FeedForwardConfig(
    hidden_dim=12,
    num_experts=4,
    softmax_first=True,
    shared_hidden_dim=5,
    shared_router=True,
    balance_rate=0.1,
    load_loss_weight=3.0,
)
CONFIG = ModelConfig(
    vocab_size=11,
    encoder=EncoderConfig(
        input_dim=20, dim=16, num_blocks=2, num_heads=2, feed_forward=LAYER, subsampling_channels=4, conv_kernel=5
    ),
    decoder=DecoderConfig(num_blocks=1, num_reverse_blocks=1, num_heads=2, feed_forward=LAYER),
)
BATCH = (
    torch.randn(3, 80, 20, generator=torch.Generator().manual_seed(6)),
    torch.tensor([80, 71, 40]),
    torch.tensor([[3, 4, 5, 6], [7, 8, -1, -1], [9, -1, -1, -1]]),
    torch.tensor([4, 2, 1]),
)
KINDS = {"shared router": LAYER, "own routers": dataclasses.replace(LAYER, shared_router=False)}


def build(layer: FeedForwardConfig) -> AsrModel:
    torch.manual_seed(1)
    encoder, decoder = (dataclasses.replace(part, feed_forward=layer) for part in (CONFIG.encoder, CONFIG.decoder))
    return AsrModel(dataclasses.replace(CONFIG, encoder=encoder, decoder=decoder))


def blocks(model: AsrModel) -> list[nn.Module]:
    return [block for stack in (model.encoder, model.left_decoder, model.right_decoder) for block in stack.blocks]


def step(model: AsrModel, in_thread: bool = False) -> tuple[LossOutput, dict[str, torch.Tensor]]:
    """Loss and gradients; dropout is the same in every call."""
    torch.manual_seed(2)
    losses = model(*BATCH)
    if in_thread:
        thread = threading.Thread(target=losses.loss.backward)
        thread.start()
        thread.join()
    else:
        losses.loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return losses, {
        name: grad.full_tensor() if isinstance(grad, DTensor) else grad
        for name, grad in gradients.items()
        if grad is not None
    }


def counts(model: AsrModel) -> dict[str, list[int]]:
    """Return both counters of each layer."""
    loads = {name: load.tolist() for name, load in expert_load(model).items()}
    updates = {n: m.update_load.tolist() for n, m in model.named_modules() if isinstance(m, MoE)}
    assert loads == updates
    return loads


def assert_equal(found: tuple, expected: tuple) -> None:
    (losses, gradients), (plain_losses, plain_gradients) = found, expected
    for field in LossOutput._fields:
        torch.testing.assert_close(getattr(losses, field), getattr(plain_losses, field))
    assert gradients.keys() == plain_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, plain_gradients[name], rtol=1e-4, atol=1e-5)


def recompute(model: AsrModel, record_once: bool) -> None:
    """Make the backward pass recompute every block."""

    def contexts() -> tuple[contextlib.AbstractContextManager, contextlib.AbstractContextManager]:
        return contextlib.nullcontext(), recomputing() if record_once else contextlib.nullcontext()

    for block in blocks(model):
        block.forward = lambda *args, forward=block.forward: checkpoint(
            forward, *args, use_reentrant=False, context_fn=contexts
        )


@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_activations_are_recorded_once(kind: str, in_thread: bool) -> None:
    plain, model = build(KINDS[kind]), build(KINDS[kind])
    recompute(model, record_once=True)
    expected = step(plain)
    assert float(expected[0].load.detach()) > 0
    assert_equal(step(model, in_thread), expected)
    assert counts(model) == counts(plain)
    assert all(module.load_loss is None for module in model.modules() if isinstance(module, MoE))
    # The flag is gone, and without it everything is there twice.
    twice = build(KINDS[kind])
    recompute(twice, record_once=False)
    step(twice)
    assert counts(twice) == {name: [2 * load for load in loads] for name, loads in counts(plain).items()}


# The compiler warns of what it does itself where it goes on after a break, and of caches it looks through.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_compiled_layer_is_recorded_once_too() -> None:
    """Compiled code must see the flag, and save the same tensors with and without it."""
    torch.manual_seed(3)
    layer = MoE(6, KINDS["own routers"], dropout=0.0)
    x, mask = torch.randn(2, 9, 6, requires_grad=True), torch.ones(2, 9, dtype=torch.bool)

    def results(forward: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
        layer.load.zero_()
        layer.update_load.zero_()
        y = forward(x, mask)
        value = y.square().sum() + take_load_loss(layer)
        gradients = torch.autograd.grad(value, [x, *layer.parameters()])
        return [y, layer.load.clone(), layer.update_load.clone(), *gradients]

    def contexts() -> tuple[contextlib.AbstractContextManager, contextlib.AbstractContextManager]:
        return contextlib.nullcontext(), recomputing()

    expected = results(layer)
    ready_for_compiler()  # as `Spread` does before it compiles blocks
    compiled = torch.compile(layer, backend="aot_eager")
    for forward in (compiled, lambda *args: checkpoint(compiled, *args, use_reentrant=False, context_fn=contexts)):
        for found, right in zip(results(forward), expected, strict=True):
            torch.testing.assert_close(found, right)


def test_recomputing_ends_with_an_error_too() -> None:
    model = build(LAYER)
    with pytest.raises(ZeroDivisionError), recomputing(), recomputing():
        raise ZeroDivisionError
    model(*BATCH)
    assert all(sum(load) > 0 for load in counts(model).values())


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group that consists of this process."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("again", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("kind", KINDS)
def test_sharded_parameters(kind: str, again: bool) -> None:
    """Each block by itself and the rest by the root, which owns shared routers."""
    plain, model = build(KINDS[kind]), build(KINDS[kind])
    if again:
        recompute(model, record_once=True)
    mesh = init_device_mesh("cpu", (1,))
    for block in blocks(model):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    for _ in range(2):  # the second time gradients are added up
        assert_equal(step(model), step(plain))
    assert counts(model) == counts(plain)
