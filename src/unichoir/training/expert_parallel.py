"""Expert parallelism: every process holds some of the experts, and frames travel to their experts and back.

A process sorts the copies of its frames by expert. The copies for the experts of one process are consecutive rows. An
all-to-all of uneven sizes exchanges them, the experts compute the received rows, and a second all-to-all returns the
results to the original rows. No copy is dropped, whatever the loads.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from unichoir.errors import ConfigError
from unichoir.network.experts import Experts


def spread_experts(experts: Experts, mesh: DeviceMesh) -> None:
    """Keep this process' part of the experts: rank r of R in the one-dimensional `mesh` keeps the r-th of R parts.

    Parameters become DTensors of all experts, sharded by expert. Raises ConfigError if they can't be divided evenly.
    """
    if experts.num_experts % mesh.size():
        raise ConfigError(f"expert_parallel {mesh.size()} does not divide the {experts.num_experts} experts of a layer")
    for name, parameter in list(experts.named_parameters()):
        own = parameter.data.chunk(mesh.size())[mesh.get_local_rank()].clone()
        experts.register_parameter(name, nn.Parameter(DTensor.from_local(own, mesh, [Shard(0)], run_check=False)))
    experts.exchange = ExpertExchange(mesh.get_group())


class ExpertExchange:
    """Sends sorted rows to the processes that hold their experts, and returns the results."""

    def __init__(self, group: distributed.ProcessGroup) -> None:
        self.group = group

    def __call__(self, x_SD: Tensor, blocks_E: Tensor, compute: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Apply all experts like `Experts.compute`: x_SD sorted by expert, blocks_E rows of each expert.

        compute: applies this process' own experts to rows sorted by expert. The host has to know the sizes, so this
        waits for the device once.
        """
        ranks = self.group.size()
        sent_RL = blocks_E.reshape(ranks, -1)
        received_RL = torch.empty_like(sent_RL)
        distributed.all_to_all_single(received_RL, sent_RL.contiguous(), group=self.group)
        sent, received = torch.stack([sent_RL, received_RL]).tolist()
        going, coming = [sum(row) for row in sent], [sum(row) for row in received]
        rows = _all_to_all(x_SD[: sum(going)], going, coming, self.group)
        by_expert = _regroup(rows, received)
        y = _regroup(compute(by_expert, received_RL.sum(dim=0)), _transposed(received))
        back = _all_to_all(y, coming, going, self.group)
        # Copies without an expert have stayed here.
        return torch.cat([back, back.new_zeros(x_SD.shape[0] - back.shape[0], back.shape[1])])


def _regroup(rows: Tensor, sizes: Sequence[Sequence[int]]) -> Tensor:
    """Reorder blocks of rows from row-major to column-major order; `sizes` lists them."""
    blocks = torch.split(rows, [size for line in sizes for size in line])
    width = len(sizes[0])
    return torch.cat([block for column in range(width) for block in blocks[column::width]])


def _transposed(sizes: Sequence[Sequence[int]]) -> list[list[int]]:
    return [list(column) for column in zip(*sizes, strict=True)]


def _all_to_all(x: Tensor, going: list[int], coming: list[int], group: distributed.ProcessGroup) -> Tensor:
    """Send the first going[0] rows to the first process of the group, and so on.

    Receives coming[r] rows from process r.
    """
    y: Tensor = _AllToAll.apply(x, going, coming, group)  # type: ignore[no-untyped-call]
    return y


class _AllToAll(torch.autograd.Function):
    """An all-to-all whose backward pass returns the gradients of the rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, going: list[int], coming: list[int], group: distributed.ProcessGroup) -> Tensor:
        ctx.going, ctx.coming, ctx.group = going, coming, group
        y = x.new_empty(sum(coming), *x.shape[1:])
        distributed.all_to_all_single(y, x.contiguous(), coming, going, group=group)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x = gradient.new_empty(sum(ctx.going), *gradient.shape[1:])
        distributed.all_to_all_single(x, gradient.contiguous(), ctx.going, ctx.coming, group=ctx.group)
        return x, None, None, None
