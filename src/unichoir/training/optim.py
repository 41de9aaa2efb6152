"""AdamW, the learning rate schedule, and gradient clipping."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from unichoir.configuration import FRACTION, NOT_NEGATIVE, POSITIVE, check_ranges
from unichoir.errors import ConfigError
from unichoir.training.parallel import placement


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) and its learning rate schedule."""

    learning_rate: float = 1e-3
    """Peak learning rate, reached at the end of the warm-up."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's decay rates for the mean of the gradients and of their squares, in [0, 1)."""
    eps: float = 1e-8
    """AdamW's term that keeps the divisor above 0."""
    weight_decay: float = 0.01
    """Weight decay. It applies to matrices and kernels, not to biases and normalisation weights."""
    warmup_steps: int = 1000
    """Number of updates in which the learning rate rises from 0 to its peak."""
    schedule: Literal["inverse_sqrt", "cosine", "linear", "constant"] = "cosine"
    """Shape of the learning rate after the warm-up. inverse_sqrt falls with 1/sqrt(step). cosine and linear fall to
    `final_fraction` of the peak at the end of the planned training. constant stays at the peak."""
    final_fraction: float = 0.0
    """Learning rate at the end of the planned training, as a fraction of the peak in [0, 1]."""
    grad_clip: float = 5.0
    """Largest norm of the complete gradient. 0 disables clipping."""
    rates: dict[str, float] = field(default_factory=dict)
    """Factors for the learning rate of parts of the model. A key is the beginning of weight names, such as
    `encoder.blocks` or `left_decoder.blocks.0`; the longest matching key applies. 0 freezes the part and doesn't
    compute its gradient."""

    def __post_init__(self) -> None:
        check_ranges(self, learning_rate=POSITIVE, eps=POSITIVE, final_fraction=FRACTION)
        check_ranges(self, weight_decay=NOT_NEGATIVE, warmup_steps=NOT_NEGATIVE, grad_clip=NOT_NEGATIVE)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas must be in [0, 1), found {self.betas}")
        for name, rate in self.rates.items():
            if not (math.isfinite(rate) and rate >= 0):
                raise ConfigError(f"rates: {name} must be a number of at least 0, found {rate}")


def learning_rate(config: OptimConfig, step: int, done: float) -> float:
    """Return the learning rate of update number `step` (from 1), when the fraction `done` of the training is complete.

    `inverse_sqrt` is peak * sqrt(w) * min(1 / sqrt(step), step * w ** -1.5) with w warm-up steps (Vaswani et al., arXiv
    1706.03762, equation 3, scaled to the peak; WeNet's `warmuplr`). The others are a linear warm-up times a curve over
    the planned training, so the end is exact for any number of batches per epoch.
    """
    warmup = max(config.warmup_steps, 1)
    rise = min(step / warmup, 1.0)
    if config.schedule == "inverse_sqrt":
        return config.learning_rate * min(rise, math.sqrt(warmup / step))
    if config.schedule == "constant":
        return config.learning_rate * rise
    done = min(max(done, 0.0), 1.0)
    curve = 0.5 * (1 + math.cos(math.pi * done)) if config.schedule == "cosine" else 1 - done
    return config.learning_rate * rise * (config.final_fraction + (1 - config.final_fraction) * curve)


def rate_of(config: OptimConfig, name: str) -> float:
    """Return the factor for the learning rate of the weight `name`."""
    parts = name.split(".")
    beginnings = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((config.rates[each] for each in beginnings if each in config.rates), 1.0)


def freeze_parts(model: nn.Module, config: OptimConfig) -> None:
    """Exclude parts with a rate of 0 from training. Raises ConfigError for a rate of a part that doesn't exist."""
    names = [name for name, _ in model.named_parameters()]
    for part in config.rates:
        if not any(f"{name}.".startswith(f"{part}.") for name in names):
            raise ConfigError(f"optim.rates: no weight of the model begins with '{part}'")
    for name, parameter in model.named_parameters():
        if not rate_of(config, name):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("optim.rates: every weight of the model has a rate of 0: nothing would be trained")


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Return AdamW over the parameters that require a gradient.

    Each group has one learning rate, one weight decay and one placement.
    """
    groups: dict[object, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # The experts' stacked biases are matrices (E, D), so the number of dimensions is not sufficient.
            is_free = parameter.ndim <= 1 or "bias" in name.rpartition(".")[2]
            decay = 0.0 if is_free else config.weight_decay
            # A fused step requires tensors with the same placement.
            rate = rate_of(config, name)
            made: dict[str, Any] = {"params": [], "weight_decay": decay, "rate": rate}
            group = groups.setdefault((is_free, rate, placement(parameter)), made)
            group["params"].append(parameter)
    decayed_first = sorted(groups.values(), key=lambda group: -group["weight_decay"])
    return torch.optim.AdamW(decayed_first, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group, times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate"]


def clip_gradient(parameters: Iterable[Tensor], largest: float) -> Tensor:
    """Scale the gradient to a norm of at most `largest` (0: no limit).

    Returns the norm before scaling, a scalar tensor.

    The norm covers the whole model, however its parameters are distributed: torch adds up tensors with the same
    placement.
    """
    groups: dict[object, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            groups.setdefault(placement(parameter), []).append(parameter)
    norms = []
    for group in groups.values():
        norm = _total_norm([parameter.grad for parameter in group if parameter.grad is not None])
        norms.append(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    if largest > 0:
        for group in groups.values():
            nn.utils.clip_grads_with_norm_(group, largest, total)
    return total


def _total_norm(gradients: list[Tensor]) -> Tensor:
    """Return the norm of tensors with the same placement, a scalar tensor.

    On a CPU this uses scalar products: torch's own norm runs in one thread, which took a quarter of a step.
    """
    if any(isinstance(gradient, DTensor) or gradient.is_cuda for gradient in gradients):
        return nn.utils.get_total_norm(gradients)
    flat = [gradient.float().flatten() for gradient in gradients]
    return torch.stack([torch.dot(each, each) for each in flat]).sum().sqrt()
