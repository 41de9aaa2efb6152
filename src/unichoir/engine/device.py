"""The devices on which a model can run."""

from typing import Literal

Device = Literal["cpu", "cuda"]
"""`cuda`: the first NVIDIA GPU that is visible to the process (CUDA_VISIBLE_DEVICES)."""
DEVICES: tuple[Device, ...] = ("cpu", "cuda")
