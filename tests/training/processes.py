"""Functions run by several processes that form one world, as torchrun would start them."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing


def run_processes(count: int, folder: Path, function: Callable[..., None], *arguments: Any) -> None:
    """Call `function(*arguments)` in `count` new processes with a process group; raises when one of them fails."""
    meeting = folder / f"meeting-{function.__name__}-{count}"
    multiprocessing.spawn(_join, (count, str(meeting), function, arguments), nprocs=count)


def _join(rank: int, count: int, meeting: str, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    try:
        function(*arguments)
    finally:
        distributed.destroy_process_group()
