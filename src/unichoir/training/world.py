"""The processes that train one model together, and their communication besides gradients."""

import datetime
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed
from torch._C._distributed_c10d import HashStore, PrefixStore
from torch.distributed.rendezvous import rendezvous

T = TypeVar("T")
TIMEOUT = datetime.timedelta(minutes=30)


@dataclass(frozen=True, kw_only=True)
class World:
    """All processes of a run. A single process is a world of size 1."""

    rank: int
    size: int
    device: torch.device
    """The device that this process computes on."""
    messages: distributed.ProcessGroup = field(repr=False)
    """The group for numbers in main memory, usable while the device computes."""
    saving: distributed.ProcessGroup = field(repr=False)
    """The group for checkpoints written in the background, which must not interfere with messages."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes what is written once: logs and checkpoints of weights."""
        return self.rank == 0

    def gather(self, values: Sequence[float]) -> NDArray[np.float64]:
        """Return the values of all processes: (size, len(values)), one row per rank."""
        own = torch.tensor(values, dtype=torch.float64)
        rows = [torch.empty_like(own) for _ in range(self.size)]
        distributed.all_gather(rows, own, group=self.messages)
        return torch.stack(rows).numpy()

    def gather_objects(self, value: T) -> list[T]:
        """Return one picklable object from each process."""
        values: list[T] = [value] * self.size
        distributed.all_gather_object(values, value, group=self.messages)
        return values

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum over all processes, on the device of `tensor`, which is not changed."""
        if self.size == 1:
            return tensor
        summed = tensor.clone()
        distributed.all_reduce(summed)
        return summed

    def wait(self) -> None:
        """Wait until every process has called this."""
        self.gather([0.0])  # gathering nothing would not wait


@contextmanager
def join_world(device: torch.device) -> Iterator[World]:
    """Yield the world that torchrun started this process in, or a world of one process.

    A process group initialised by the calling program is used and left as it is.
    """
    ours = not distributed.is_initialized()
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if ours:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        if distributed.is_torchelastic_launched():
            store, rank, size = next(rendezvous("env://", timeout=TIMEOUT))
            if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
                # The agent's store outlives processes. After a restart it still holds the addresses of the dead ones.
                store = PrefixStore(f"attempt-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
            distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
        else:
            distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        yield World(
            rank=distributed.get_rank(),
            size=distributed.get_world_size(),
            device=device,
            messages=distributed.new_group(backend="gloo", timeout=TIMEOUT),
            saving=distributed.new_group(backend="gloo", timeout=TIMEOUT),
        )
    finally:
        if ours:
            distributed.destroy_process_group()
