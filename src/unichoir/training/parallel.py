"""Distribution of one model over many processes. The model itself is independent of it.

Every process trains on its own batches. `shard` is the number of processes over which parameters, gradients and
optimizer state are distributed: 1 gives each process a complete copy (DDP), all processes give each one part (FSDP2),
and a number in between makes copies in groups of processes (hybrid). `expert_parallel` gives each process some of the
experts. Ranks are laid out as (replicate, shard, expert), the last fastest, so processes that exchange frames are
neighbours, on one machine if possible.

Gradients are summed, not averaged: the loss of a batch is already its share of the update.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch._C._distributed_c10d import GradBucket
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from unichoir.configuration import AT_LEAST_ONE, NOT_NEGATIVE, check_ranges
from unichoir.errors import ConfigError
from unichoir.network.asr_model import AsrModel
from unichoir.network.blocks import ENCODER_BLOCKS
from unichoir.network.decoder import DecoderBlock
from unichoir.network.experts import Experts
from unichoir.network.moe import ready_for_compiler, recomputing
from unichoir.training.expert_parallel import spread_experts
from unichoir.training.world import World


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """Distribution of the work. It doesn't affect what is learned, and a run may continue with another one."""

    shard: int = 1
    """Number of processes over which parameters, gradients and optimizer state are distributed. 1: each process has all
    of them (DDP). 0: all processes (FSDP2)."""
    expert_parallel: int = 1
    """Number of processes that share the experts of every layer. Frames travel to their experts and back."""
    activation_checkpointing: bool = False
    """Whether the backward pass recomputes each block from its input. This saves memory and takes a third more work."""
    compile: bool = False
    """Whether each block is compiled with torch.compile. This takes minutes at the start and makes steps faster on
    GPUs."""

    def __post_init__(self) -> None:
        check_ranges(self, shard=NOT_NEGATIVE, expert_parallel=AT_LEAST_ONE)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A parallel configuration applied to a number of processes."""

    size: int
    shard: int
    expert: int

    @classmethod
    def of(cls, config: ParallelConfig, size: int) -> "Layout":
        """Return the layout for `size` processes. Raises ConfigError if the numbers don't divide each other."""
        shard, expert = config.shard or size, config.expert_parallel
        for name, number in (("shard", shard), ("expert_parallel", expert)):
            if size % number:
                raise ConfigError(f"parallel.{name} {number} does not divide the number of processes ({size})")
        if shard > 1 and shard % expert:
            raise ConfigError(f"parallel.shard {shard} is not a multiple of parallel.expert_parallel {expert}")
        return cls(size=size, shard=shard, expert=expert)

    @property
    def expert_shard(self) -> int:
        """Number of processes that shard one process' share of the experts."""
        return max(1, self.shard // self.expert)

    @property
    def is_collective(self) -> bool:
        """Whether the forward pass needs all processes."""
        return self.shard > 1 or self.expert > 1


class Spread:
    """A model distributed over its processes: it computes losses and holds this process' part."""

    def __init__(self, model: AsrModel, config: ParallelConfig, world: World, precision: str = "fp32") -> None:
        self.model, self.world = model, world
        self.layout = Layout.of(config, world.size)
        self._unused: set[nn.Parameter] = set()
        if model.right_decoder is not None and not model.config.reverse_weight:
            # No process may wait for gradients that never come.
            self._unused.update(model.right_decoder.requires_grad_(False).parameters())
        blocks = [
            module
            for module in model.modules()
            if isinstance(module, (*ENCODER_BLOCKS, DecoderBlock))
            and not self._unused.intersection(module.parameters())
        ]
        self._experts = [module for module in model.modules() if isinstance(module, Experts)]
        if self.layout.expert > 1:
            self._spread_experts()
        if config.compile:
            ready_for_compiler()
        for block in blocks:
            if config.activation_checkpointing:
                _checkpoint(block)
            if config.compile:
                block.compile(dynamic=True)
        self._forward: nn.Module = model
        if self.layout.shard > 1:
            self._shard(blocks, precision)
        elif world.size > 1:
            self._forward = self._replicate()
        self._units = [module for module in model.modules() if isinstance(module, FSDPModule)]
        for unit in self._units:
            unit.set_gradient_divide_factor(1.0)
            unit.set_force_sum_reduction_for_comms(True)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call `AsrModel.forward`."""
        return self._forward(*arguments, **options)

    @contextmanager
    def summing_gradients(self, wanted: bool) -> Iterator[None]:
        """Enclose the passes of one batch.

        `wanted` is True for the last batch of an update, so gradients are sent once.
        """
        for unit in self._units:
            unit.set_requires_gradient_sync(wanted, recurse=False)
        replica = self._forward
        with nullcontext() if wanted or not isinstance(replica, DistributedDataParallel) else replica.no_sync():
            yield

    def full_weights(self) -> dict[str, Tensor]:
        """Return all complete weights on the CPU of the first process.

        The others take part and get an empty mapping.
        """
        weights = {}
        for name, tensor in self.model.state_dict().items():
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if self.world.is_first:
                weights[name] = whole.detach().cpu().contiguous()
        return weights

    def load_full_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Fill the model from complete weights, which every process has read. Each process takes its part."""
        set_model_state_dict(self.model, dict(weights), options=StateDictOptions(full_state_dict=True))

    def _spread_experts(self) -> None:
        layout = self.layout
        sizes = (layout.size // (layout.expert * layout.expert_shard), layout.expert_shard, layout.expert)
        mesh = init_device_mesh(self.world.device.type, sizes, mesh_dim_names=("replicate", "shard", "expert"))
        if not self._experts:
            raise ConfigError("parallel.expert_parallel: the model has no experts")
        for experts in self._experts:
            spread_experts(experts, mesh["expert"])
        self._expert_mesh = mesh["replicate", "shard"]

    def _shard(self, blocks: Sequence[nn.Module], precision: str) -> None:
        # Weights are sent in the dtype of the products. Master weights, sums of gradients and optimizer state stay in
        # fp32, and so do the weights of batch normalisation.
        halved = precision == "bf16" and self.model.config.encoder.conv_norm == "layer_norm"
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if halved else None,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,
        )
        layout = self.layout
        sizes, names = (layout.size // layout.shard, layout.shard), ("replicate", "shard")
        mesh = init_device_mesh(self.world.device.type, sizes, mesh_dim_names=names)
        if sizes[0] == 1:
            mesh = mesh["shard"]
        ignored = self._share_experts(policy) | self._unused
        along = self._shard_dimension(layout.shard)
        for module in [*blocks, self.model]:
            fully_shard(module, mesh=mesh, mp_policy=policy, ignored_params=ignored, shard_placement_fn=along)
        register_fsdp_forward_method(self.model, "measure")

    def _replicate(self) -> DistributedDataParallel:
        own = set(map(id, self._share_experts(MixedPrecisionPolicy())))
        names = [name for name, parameter in self.model.named_parameters() if id(parameter) in own]
        # Load counters differ between processes, and the other buffers are equal everywhere.
        names += [name for name, _ in self.model.named_buffers()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.model, names)  # type: ignore[no-untyped-call]
        devices = [self.world.device] if self.world.device.type == "cuda" else None
        replica = DistributedDataParallel(self.model, device_ids=devices, gradient_as_bucket_view=True)
        replica.register_comm_hook(None, _sum_bucket)
        return replica

    def _share_experts(self, policy: MixedPrecisionPolicy) -> set[nn.Parameter]:
        """Distribute each process' experts under expert parallelism. Returns the parameters that this handles.

        The processes that hold the same experts shard them further, or only sum their gradients.
        """
        if self.layout.expert == 1:
            return set()
        if self._expert_mesh.size() > 1:
            along = self._shard_dimension(self.layout.expert_shard)
            for experts in self._experts:
                fully_shard(experts, mesh=self._expert_mesh, mp_policy=policy, shard_placement_fn=along)
        return {parameter for experts in self._experts for parameter in experts.parameters()}

    def _shard_dimension(self, shard: int) -> Callable[[nn.Parameter], Shard | None]:
        """Return a function that shards stacks within experts: there may be fewer experts than processes."""
        stacks = {id(parameter) for experts in self._experts for parameter in experts.parameters()}
        return lambda parameter: Shard(1) if id(parameter) in stacks and parameter.shape[1] % shard == 0 else None


def placement(parameter: Tensor) -> object:
    """Return a value that is equal for tensors with the same placement, which torch can process together."""
    if isinstance(parameter, DTensor):
        return parameter.device_mesh, parameter.placements
    return None


def _sum_bucket(state: object, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    # DDP's own reduction averages.
    work = distributed.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    summed: torch.futures.Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
    return summed


def _checkpoint(block: nn.Module) -> None:
    """Make the block keep only its inputs until the backward pass."""
    forward = block.forward

    def forgetful(*arguments: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*arguments)
        return checkpoint(forward, *arguments, use_reentrant=False, context_fn=_contexts)

    block.forward = forgetful


def _contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), recomputing()
