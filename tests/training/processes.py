"""Run functions in several processes that form one world, like those of torchrun."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

PRELOADED = ["pytest", "torch.distributed.fsdp", "torch._dynamo", "unichoir.training.trainer"]
"""Imported once by the process from which the others are forked: each would take seconds for them."""


def run_processes(count: int, folder: Path, function: Callable[..., None], *arguments: Any) -> None:
    """Call `function(*arguments)` in `count` new processes with a process group; raises if one of them fails."""
    meeting = folder / f"meeting-{function.__name__}-{count}"
    multiprocessing.set_forkserver_preload(PRELOADED)
    multiprocessing.start_processes(
        _join, (count, str(meeting), function, arguments), nprocs=count, start_method="forkserver"
    )


def _join(rank: int, count: int, meeting: str, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    try:
        function(*arguments)
    finally:
        distributed.destroy_process_group()
