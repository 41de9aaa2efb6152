"""Where a model computes."""

from typing import Literal

Device = Literal["cpu", "cuda"]
"""`cuda`: the first NVIDIA GPU that the process may use (CUDA_VISIBLE_DEVICES)."""
DEVICES: tuple[Device, ...] = ("cpu", "cuda")
