"""The devices on which a model can run."""

import os
from typing import Literal

Device = Literal["cpu", "cuda"]
"""`cuda`: the first NVIDIA GPU that is visible to the process (CUDA_VISIBLE_DEVICES)."""
DEVICES: tuple[Device, ...] = ("cpu", "cuda")


def num_cores() -> int:
    """Return the number of cores that this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
