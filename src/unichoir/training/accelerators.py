"""GPUs as their makers' data sheets describe them, and what part of their rate training is taken to reach."""

from dataclasses import dataclass, replace
from typing import Literal

from unichoir.errors import ConfigError

ASSUMED_EFFICIENCY = 0.3
"""Of the peak rate, while one GPU computes. An assumption: training was not measured on GPUs."""
MACHINE = 8
"""GPUs that the link connects."""
NETWORK = 50e9
"""Bytes per second and GPU in one direction between machines: 400 Gbit/s for each GPU, as in a DGX H100."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """An accelerator as its maker's data sheet describes it; rates are peaks, dense, of one GPU."""

    name: str
    memory: float
    """Bytes."""
    bf16_flops: float | None = None
    fp32_flops: float | None = None
    """Without TF32, which PyTorch does not use unless told to."""
    bandwidth: float | None = None
    """Of the memory, bytes per second."""
    link: float | None = None
    """To the other GPUs of a machine, bytes per second in one direction."""
    network: float = NETWORK
    """To those of other machines."""

    def rate(self, group: int) -> float | None:
        """Bytes per second that one GPU sends in a group of so many; None where the data sheet was not read."""
        return self.network if group > MACHINE else self.link

    def flops(self, precision: str) -> float:
        """Per second. Raises ConfigError for a rate that is not known."""
        rate = self.bf16_flops if precision == "bf16" else self.fp32_flops
        if rate is None:
            raise ConfigError(f"the {precision} rate of {self.name} is not known")
        return rate


def _gpu(name: str, gb: float, bf16: float, fp32: float, bandwidth: float, link: float) -> Gpu:
    """From GB, TFLOP/s, TB/s and GB/s."""
    return Gpu(
        name=name,
        memory=gb * 1e9,
        bf16_flops=bf16 * 1e12,
        fp32_flops=fp32 * 1e12,
        bandwidth=bandwidth * 1e12,
        link=link * 1e9,
    )


GPUS = {
    gpu.name: gpu
    for gpu in (
        # NVIDIA's and AMD's data sheets; rates there with sparsity are halved, links of both directions too.
        _gpu("a100-40", 40, 312, 19.5, 1.555, 300),
        _gpu("a100-80", 80, 312, 19.5, 2.039, 300),
        _gpu("h100", 80, 989.4, 66.9, 3.35, 450),
        _gpu("h200", 141, 989.4, 66.9, 4.8, 450),
        _gpu("l40s", 48, 362.05, 91.6, 0.864, 32),
        _gpu("mi300x", 192, 1307.4, 163.4, 5.3, 448),
    )
}
"""SXM or OAM modules, except L40S (PCIe)."""


def find_gpu(
    name: str,
    precision: Literal["bf16", "fp32"] = "bf16",
    *,
    memory_gb: float | None = None,
    tflops: float | None = None,
    network_gb: float | None = None,
) -> Gpu:
    """A GPU by its name, with another memory or rate in `precision` if given; an unknown one needs both.

    memory_gb: GB; tflops: TFLOP/s, dense; network_gb: GB/s between machines, for each GPU and direction. Raises
    ConfigError naming the known ones.
    """
    gpu = GPUS.get(name.lower())
    if gpu is None:
        if memory_gb is None or tflops is None:
            raise ConfigError(f"unknown GPU '{name}' (known: {', '.join(GPUS)}; another needs its memory and its rate)")
        gpu = Gpu(name=name, memory=memory_gb * 1e9)
    if memory_gb is not None:
        gpu = replace(gpu, memory=memory_gb * 1e9)
    if network_gb is not None:
        gpu = replace(gpu, network=network_gb * 1e9)
    if tflops is None:
        return gpu
    return replace(gpu, bf16_flops=tflops * 1e12) if precision == "bf16" else replace(gpu, fp32_flops=tflops * 1e12)
