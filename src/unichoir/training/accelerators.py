"""GPUs as described in their data sheets, and the fraction of the peak rate that training is assumed to reach."""

from dataclasses import dataclass, replace
from typing import Literal

from unichoir.errors import ConfigError

ASSUMED_EFFICIENCY = 0.3
"""Assumed fraction of the peak rate while a GPU computes. Training was not measured on GPUs."""
MACHINE = 8
"""Number of GPUs connected by the link."""
NETWORK = 50e9
"""Bytes per second that each GPU sends to other machines: 400 Gbit/s per GPU, as in a DGX H100."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """An accelerator as described in its data sheet. Rates are dense peak rates of one GPU."""

    name: str
    memory: float
    """Memory in bytes."""
    bf16_flops: float | None = None
    fp32_flops: float | None = None
    """Rate without TF32, which PyTorch doesn't use by default."""
    bandwidth: float | None = None
    """Memory bandwidth in bytes per second."""
    link: float | None = None
    """Bytes per second in one direction to other GPUs of the same machine."""
    network: float = NETWORK
    """Bytes per second in one direction to GPUs of other machines."""

    def rate(self, group: int) -> float | None:
        """Return the bytes per second that one GPU sends within a group of that many GPUs; None if unknown."""
        return self.network if group > MACHINE else self.link

    def flops(self, precision: str) -> float:
        """Return the rate in FLOP/s. Raises ConfigError if the rate is unknown."""
        rate = self.bf16_flops if precision == "bf16" else self.fp32_flops
        if rate is None:
            raise ConfigError(f"the {precision} rate of {self.name} is not known")
        return rate


def _gpu(name: str, gb: float, bf16: float, fp32: float, bandwidth: float, link: float) -> Gpu:
    """Convert from GB, TFLOP/s, TB/s and GB/s."""
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
        # From the data sheets of NVIDIA and AMD. Rates given there with sparsity, and for both directions of a link,
        # are halved.
        _gpu("a100-40", 40, 312, 19.5, 1.555, 300),
        _gpu("a100-80", 80, 312, 19.5, 2.039, 300),
        _gpu("h100", 80, 989.4, 66.9, 3.35, 450),
        _gpu("h200", 141, 989.4, 66.9, 4.8, 450),
        _gpu("l40s", 48, 362.05, 91.6, 0.864, 32),
        _gpu("mi300x", 192, 1307.4, 163.4, 5.3, 448),
    )
}
"""GPUs by name: SXM or OAM modules, except L40S (PCIe)."""


def find_gpu(
    name: str,
    precision: Literal["bf16", "fp32"] = "bf16",
    *,
    memory_gb: float | None = None,
    tflops: float | None = None,
    network_gb: float | None = None,
) -> Gpu:
    """Return a GPU by name, with another memory or rate in `precision` if given. An unknown GPU needs both.

    memory_gb: GB; tflops: dense TFLOP/s; network_gb: GB/s between machines, per GPU and direction. Raises ConfigError
    that lists the known GPUs.
    """
    gpu = GPUS.get(name.lower())
    if gpu is None:
        if memory_gb is None or tflops is None:
            raise ConfigError(f"unknown GPU '{name}' (known: {', '.join(GPUS)}; for others, state memory and rate)")
        gpu = Gpu(name=name, memory=memory_gb * 1e9)
    if memory_gb is not None:
        gpu = replace(gpu, memory=memory_gb * 1e9)
    if network_gb is not None:
        gpu = replace(gpu, network=network_gb * 1e9)
    if tflops is None:
        return gpu
    return replace(gpu, bf16_flops=tflops * 1e12) if precision == "bf16" else replace(gpu, fp32_flops=tflops * 1e12)
