"""Plans compared with what torch really keeps, computes and stores."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed._tools.mem_tracker import MemTracker
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from unichoir.errors import ConfigError
from unichoir.network.asr_model import AsrModel
from unichoir.network.attention import MultiHeadAttention
from unichoir.network.blocks import ConformerBlock
from unichoir.network.config import NAMED_CONFIGS, ModelConfig
from unichoir.network.decoder import DecoderBlock
from unichoir.network.experts import Experts
from unichoir.training.accelerators import GPUS, find_gpu
from unichoir.training.activations import BatchShape, Types, activations
from unichoir.training.optim import OptimConfig, build_optimizer
from unichoir.training.parallel import ParallelConfig
from unichoir.training.planning import Workload, forward_flops, make_plan


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread, which is faster for models this small; the same experts are drawn."""
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


SHAPE = BatchShape(utterances=4, feature_frames=323, frames=80, tokens=31)


def named(name: str, **encoder: Any) -> ModelConfig:
    config = NAMED_CONFIGS[name].with_vocab_size(300)
    return replace(config, encoder=replace(config.encoder, **encoder))


def mostly_decoders(name: str) -> ModelConfig:
    """One encoder block and six decoder blocks, to make the decoders' share visible."""
    config = named(name, num_blocks=1, subsampling_channels=4)
    return replace(config, decoder=replace(config.decoder, num_blocks=4, num_reverse_blocks=2))


CONFIGS = {
    "moe": named("moe-tiny"),
    "dense": named("dense-small"),
    "moe decoders": mostly_decoders("moe-tiny"),
    "dense decoders": mostly_decoders("dense-small"),
}


def inputs(shape: BatchShape = SHAPE) -> tuple[Tensor, ...]:
    size, tokens = int(shape.utterances), int(shape.tokens)
    lengths, token_lengths = torch.full((size,), shape.feature_frames), torch.full((size,), tokens)
    return torch.randn(size, shape.feature_frames, 80), lengths, torch.randint(3, 300, (size, tokens)), token_lengths


def kept_bytes(model: AsrModel, precision: str) -> int:
    """Of all storages that autograd saves in a forward pass, without parameters and inputs, but with their copies."""
    arguments = inputs()
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers(), *arguments]}
    storages = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage  # held, or its place may be given to another
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast:
        model(*arguments)
    return sum(storage.nbytes() for storage in storages.values())


def copied_bytes(model: nn.Module, precision: str) -> int:
    """Of the weights that autocast copies for products: linear layers, convolutions, experts."""
    if precision == "fp32":
        return 0
    copied = 0
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            copied += module.weight.numel()
        elif isinstance(module, Experts):
            copied += module.w_1.numel() + module.w_2.numel()
    return 2 * copied


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_activations_are_what_autograd_keeps(name: str, precision: str) -> None:
    model = AsrModel(CONFIGS[name])
    expected = kept_bytes(model, precision) - copied_bytes(model, precision)
    found = activations(model.config, SHAPE, Types.of(precision, "cpu")).total(False)
    assert found == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_dropout": 0.1},
        {"attention_dropout": 0.1},
        {"dropout": 0.0},
        {"position": "absolute_key"},
        {"subsampling": 6},
        {"subsampling": 8},
        {"block": "transformer"},
        {"feed_forward": replace(NAMED_CONFIGS["moe-tiny"].encoder.feed_forward, shared_hidden_dim=96)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_activations_of_other_choices(changes: dict[str, Any], precision: str) -> None:
    model = AsrModel(named("moe-tiny", **changes))
    expected = kept_bytes(model, precision) - copied_bytes(model, precision)
    shape = replace(SHAPE, frames=model.config.encoder.num_frames(SHAPE.feature_frames))
    found = activations(model.config, shape, Types.of(precision, "cpu")).total(False)
    assert found == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("change", [{"front": "conv1d"}, {"num_top_blocks": 1}])
def test_encoders_whose_memory_is_not_known(change: dict[str, Any]) -> None:
    config = NAMED_CONFIGS["moe-tiny"].with_vocab_size(50)
    config = replace(config, encoder=replace(config.encoder, subsampling_channels=None, **change))
    ((name, value),) = change.items()
    with pytest.raises(ConfigError, match=rf"model\.encoder\.{name} {value}: its memory cannot be planned yet"):
        activations(config, SHAPE, Types.of("fp32", "cpu"))


@contextmanager
def as_on_cuda(model: AsrModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Attention fused, and the encoder's norms in fp32, as CUDA's autocast has them."""

    def attend(self: MultiHeadAttention, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        out: Tensor = self.linear_out(y.transpose(1, 2).flatten(2))
        return out

    monkeypatch.setattr(MultiHeadAttention, "attend", attend)
    handles = [model.encoder.subsampling.register_forward_hook(lambda module, given, y: y.float())]
    for block in model.encoder.blocks:
        norm = block.conv_module.norm
        handles.append(norm.register_forward_pre_hook(lambda module, given: tuple(x.float() for x in given)))
    yield
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_activations_with_the_types_of_cuda(name: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = AsrModel(CONFIGS[name])
    with as_on_cuda(model, monkeypatch):
        expected = kept_bytes(model, precision) - copied_bytes(model, precision)
    types = replace(Types.of(precision, "cuda"), cuda=False)  # only experts' blocks are filled up as on CPUs
    assert activations(model.config, SHAPE, types).total(False) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("name", CONFIGS)
def test_checkpointing_keeps_inputs_of_blocks(name: str) -> None:
    model = AsrModel(CONFIGS[name])
    for block in model.modules():
        if isinstance(block, (ConformerBlock, DecoderBlock)):
            forward = block.forward
            block.forward = lambda *args, forward=forward: checkpoint(forward, *args, use_reentrant=False)
    outside = kept_bytes(model, "fp32")
    kept = activations(model.config, SHAPE, Types.of("fp32", "cpu"))
    assert kept.total(True) - kept.encoder_block == pytest.approx(outside, rel=0.02)
    assert kept.total(True) < kept.total(False)


def test_weights_gradients_and_optimizer_state_are_exact() -> None:
    model = AsrModel(named("moe-tiny"))
    optimizer = build_optimizer(model, OptimConfig())
    model(*inputs()).loss.backward()
    optimizer.step()
    memory = make_plan(model.config, Workload(hours=1, precision="fp32"), GPUS["h100"]).memory
    assert memory.weights == sum(parameter.nbytes for parameter in model.parameters())
    assert memory.gradients == sum(parameter.grad.nbytes for parameter in model.parameters())
    states = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
    assert memory.optimizer == sum(value.nbytes for value in states)
    assert memory.copies == 0


def convolution_backward_flops(gradient: Any, x: Any, weight: Any, *rest: Any, **options: Any) -> int:
    """Each of the two gradients takes what the forward pass took; torch's own count forgets about groups."""
    groups, wanted = rest[6], rest[7]
    places = gradient[0] * torch.Size(gradient[2:]).numel()
    forward = 2 * places * gradient[1] * (x[1] // groups) * torch.Size(weight[2:]).numel()
    return forward * (wanted[0] + wanted[1])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_peak_of_a_whole_step(precision: Any) -> None:
    model = AsrModel(named("moe-tiny"))
    optimizer = build_optimizer(model, OptimConfig())

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(*inputs()).loss
        loss.backward()
        optimizer.step()

    step()
    tracker = MemTracker()
    tracker.track_external(model, optimizer)
    with tracker:
        step()
    (snapshot,) = tracker.get_tracker_snapshot("peak").values()
    frames = int(SHAPE.utterances * SHAPE.feature_frames)
    workload = Workload(
        hours=1,
        device="cpu",
        precision=precision,
        frames_per_batch=frames,
        seconds_per_utterance=SHAPE.feature_frames / 100,
        tokens_per_second=SHAPE.tokens / (SHAPE.feature_frames / 100),
    )
    memory = make_plan(model.config, workload, GPUS["h100"]).memory
    assert memory.peak == pytest.approx(snapshot["Total"], rel=0.1)


@pytest.mark.parametrize("name", CONFIGS)
def test_flops_of_forward_and_backward_pass(name: str) -> None:
    model, shape = AsrModel(CONFIGS[name]), replace(SHAPE, utterances=8)
    counts = {torch.ops.aten.convolution_backward: convolution_backward_flops}
    with FlopCounterMode(display=False) as forward:
        loss = model(*inputs(shape)).loss
    with FlopCounterMode(display=False, custom_mapping=counts) as backward:
        loss.backward()
    expected = shape.utterances * forward_flops(model.config, shape)
    assert expected == pytest.approx(forward.get_total_flops(), rel=0.05)
    assert 3 * expected == pytest.approx(forward.get_total_flops() + backward.get_total_flops(), rel=0.05)


def plan(gpus: int, shard: int = 1, expert_parallel: int = 1, **workload: Any) -> Any:
    parallel = ParallelConfig(shard=shard, expert_parallel=expert_parallel)
    settings = {"hours": 1000, "gpus": gpus, "parallel": parallel, **workload}
    return make_plan(NAMED_CONFIGS["moe-1b"], Workload(**settings), GPUS["h200"])


@pytest.mark.parametrize(("gpus", "shard", "expert"), [(8, 8, 1), (8, 8, 4), (8, 8, 8), (1, 1, 1)])
def test_a_sharded_model_is_there_once(gpus: int, shard: int, expert: int) -> None:
    made = plan(gpus, shard, expert)
    assert gpus * made.memory.weights == pytest.approx(4 * made.sizes.total)
    assert gpus * made.memory.optimizer == pytest.approx(8 * made.sizes.total)
    assert made.traffic.all_reduce == 0


def test_experts_are_divided_by_expert_parallelism_first() -> None:
    made = plan(8, 1, 4)
    dense = made.sizes.total - made.sizes.experts
    assert made.memory.weights == pytest.approx(4 * (dense + made.sizes.experts / 4))
    # Each of the two processes with the same experts, and each of the eight with the same dense weights, sends a ring's
    # share of the gradients: 2 (n - 1) / n.
    assert made.traffic.all_reduce == pytest.approx(4 * (2 * 7 / 8 * dense + 2 * 1 / 2 * made.sizes.experts / 4))
    assert made.traffic.all_gather == made.traffic.reduce_scatter == 0


def test_traffic_of_sharded_weights() -> None:
    made = plan(16, 8)
    dense = made.sizes.total
    assert made.traffic.reduce_scatter == pytest.approx(7 / 8 * 4 * dense)
    assert made.traffic.all_gather == pytest.approx(7 / 8 * 2 * (2 * dense - made.sizes.outside))
    assert made.traffic.all_reduce == pytest.approx(2 * 1 / 2 * 4 * dense / 8)


def test_traffic_of_frames_to_experts() -> None:
    made = plan(4, 1, 4, seconds_per_utterance=10.0, tokens_per_second=1.0, frames_per_batch=2000)
    # 2 utterances of 249 frames and 11 places; 22 layers in the encoder, 6 in the decoders; top 2; 768 wide; bf16;
    # three quarters go elsewhere, and come back, and so do gradients.
    assert made.traffic.all_to_all == 4 * 2 * (22 * 249 + 6 * 11) * 2 * 768 * 2 * 3 / 4
    assert plan(4, 1, 1).traffic.all_to_all == 0


def test_time_is_work_by_rate() -> None:
    made = plan(8, 8, efficiency=0.5, epochs=2.0, accumulate=32)
    assert made.audio_per_update == 32 * 120
    assert made.updates == pytest.approx(2 * 1000 * 3600 / (32 * 120))
    assert made.time.compute == pytest.approx(made.step_flops * 4 * 120 / (0.5 * 989.4e12))
    assert made.time.weights_and_gradients == pytest.approx(made.traffic.total / 450e9)
    assert made.days == pytest.approx(made.updates * made.time.update / 86400)
    assert made.step_flops == 3 * made.forward_flops
    # Six products of each active weight for each frame of 40 ms, and what only tokens or pairs of frames go through.
    assert made.step_flops == pytest.approx(6 * 25 * made.sizes.active, rel=0.3)


def test_gradients_between_batches_of_an_update_are_whole() -> None:
    made = plan(8, 8, accumulate=16)
    assert made.memory.gradients == made.memory.standing_gradients == 4 * made.sizes.total
    alone = plan(8, 8).memory
    assert alone.gradients < made.memory.gradients / 4
    assert alone.standing_gradients == 0
    assert plan(8, 1).memory.standing_gradients == 4 * made.sizes.total


def test_what_fits() -> None:
    config = NAMED_CONFIGS["moe-1b"]
    peak = make_plan(config, Workload(hours=1), GPUS["h100"]).memory.peak
    for memory, fits in ((peak / 0.89, True), (peak / 0.91, False)):
        assert make_plan(config, Workload(hours=1), replace(GPUS["h100"], memory=memory)).fits is fits


@pytest.mark.parametrize(
    ("gpus", "parallel", "message"),
    [
        (6, {"shard": 4}, "shard 4 does not divide"),
        (6, {"expert_parallel": 3}, "expert_parallel 3 does not divide the 8 experts"),
        (8, {"shard": 2, "expert_parallel": 4}, "not a multiple"),
    ],
)
def test_layouts_that_cannot_be(gpus: int, parallel: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(gpus, **parallel)


def test_a_dense_model_has_no_experts_to_spread() -> None:
    workload = Workload(hours=1, gpus=4, parallel=ParallelConfig(expert_parallel=4))
    with pytest.raises(ConfigError, match="has no experts"):
        make_plan(NAMED_CONFIGS["dense-225m"], workload, GPUS["h200"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hours": 0.0}, "hours must be above 0"),
        ({"hours": float("nan")}, "hours must be above 0"),
        ({"efficiency": 1.5}, "efficiency must be above 0 and at most 1"),
        ({"seconds_per_utterance": 0.01}, "seconds_per_utterance must lie between"),
        ({"frames_per_batch": 100}, "less than one utterance"),
    ],
)
def test_workloads_that_make_no_sense(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Workload(**{"hours": 1.0, **values})


def test_gpus_by_name() -> None:
    assert find_gpu("H200").memory == 141e9
    assert find_gpu("h200", memory_gb=100).memory == 100e9
    other = find_gpu("mine", "fp32", memory_gb=10, tflops=20, network_gb=1)
    assert (other.flops("fp32"), other.network, other.rate(8)) == (20e12, 1e9, None)
    with pytest.raises(ConfigError, match="unknown GPU 'mine' \\(known: a100-40, a100-80, h100"):
        find_gpu("mine", memory_gb=10)
    with pytest.raises(ConfigError, match="the bf16 rate of mine is not known"):
        other.flops("bf16")
