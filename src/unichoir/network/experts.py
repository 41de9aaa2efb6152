"""The experts: feed-forward networks with stacked weights. Tensor suffixes are defined in `dispatch.py`."""

import functools
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from unichoir.network.config import FeedForwardConfig
from unichoir.network.dropout import Dropout
from unichoir.network.feed_forward import ACTIVATIONS


class Exchange(Protocol):
    """Exchanges rows between processes that each hold a part of the experts (`training/expert_parallel.py`)."""

    def __call__(self, x_SD: Tensor, blocks_E: Tensor, compute: Callable[[Tensor, Tensor], Tensor]) -> Tensor: ...


class Experts(nn.Module):
    """`num_experts` feed-forward networks with stacked weights. Each computes its frames in one block."""

    def __init__(self, dim: int, config: FeedForwardConfig, dropout: float) -> None:
        super().__init__()
        num_experts, hidden = config.num_experts, config.hidden_dim
        self.num_experts = num_experts
        self.w_1 = nn.Parameter(torch.empty(num_experts, hidden, dim))
        self.w_2 = nn.Parameter(torch.empty(num_experts, dim, hidden))
        self.bias_1 = nn.Parameter(torch.empty(num_experts, hidden)) if config.bias else None
        self.bias_2 = nn.Parameter(torch.empty(num_experts, dim)) if config.bias else None
        self.activation = config.activation
        self.dropout = Dropout(dropout)
        self.exchange: Exchange | None = None
        """None if this process holds all experts."""
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the weights with the distribution that `nn.Linear` uses in a dense feed-forward network."""
        for weight, bias in ((self.w_1, self.bias_1), (self.w_2, self.bias_2)):
            bound = weight.shape[2] ** -0.5
            nn.init.uniform_(weight, -bound, bound)
            if bias is not None:
                nn.init.uniform_(bias, -bound, bound)

    def forward(self, x_ND: Tensor, source_S: Tensor, blocks_E: Tensor) -> Tensor:
        """Apply the experts. x_ND: frames; source_S: the frame of each sorted row; blocks_E: the number of rows per
        expert.

        Returns (S, D); rows after sum(blocks_E) are 0.
        """
        x_SD = x_ND.index_select(0, source_S)
        if torch.compiler.is_exporting():
            exported: Tensor = torch.ops.unichoir.experts(
                x_SD, blocks_E, self.w_1, self.bias_1, self.w_2, self.bias_2, self.activation
            )
            return exported
        device = x_SD.device.type
        if torch.is_autocast_enabled(device):
            x_SD = x_SD.to(torch.get_autocast_dtype(device))
        if self.exchange is not None:
            return self.exchange(x_SD, blocks_E, self.compute)
        return self.compute(x_SD, blocks_E)

    def compute(self, x_SD: Tensor, blocks_E: Tensor) -> Tensor:
        """Apply the experts of this process to rows sorted by expert, in the dtype of the rows.

        Uses grouped products where available.
        """
        # Cast the complete stack once; casting per expert would repeat the cast for every slice.
        w_1, w_2, b_1, b_2 = (_here(weight, x_SD.dtype) for weight in (self.w_1, self.w_2, self.bias_1, self.bias_2))
        assert w_1 is not None
        assert w_2 is not None
        if has_grouped_products(x_SD.device, x_SD.dtype):
            return self._grouped(x_SD, blocks_E, (w_1, w_2), (b_1, b_2))
        return self._one_by_one(x_SD, blocks_E.tolist(), (w_1, w_2), (b_1, b_2))

    def _grouped(
        self, x_SD: Tensor, blocks_E: Tensor, weights: tuple[Tensor, Tensor], biases: tuple[Tensor | None, ...]
    ) -> Tensor:
        """Compute all experts in two products, without the host knowing the size of any block."""
        offsets_E = torch.cumsum(blocks_E, dim=0, dtype=torch.int32)
        row_S = torch.arange(x_SD.shape[0], device=x_SD.device)
        expert_S = torch.bucketize(row_S, offsets_E, right=True, out_int32=True)
        # Grouped products and their gradients are undefined in rows without an expert, and 0 times such a value may be
        # NaN. Masks before the products keep it out of the gradients, and masks after them keep it out of the values.
        is_idle_S = (expert_S >= len(blocks_E)).unsqueeze(1)
        expert_S = expert_S.clamp(max=len(blocks_E) - 1)
        x_SD = x_SD.masked_fill(is_idle_S, 0.0)
        y_SD = _grouped_linear(x_SD, weights[0], biases[0], offsets_E, expert_S).masked_fill(is_idle_S, 0.0)
        y_SD = self.dropout(ACTIVATIONS[self.activation](y_SD))
        return _grouped_linear(y_SD, weights[1], biases[1], offsets_E, expert_S).masked_fill(is_idle_S, 0.0)

    def _one_by_one(
        self, x_SD: Tensor, blocks: list[int], weights: tuple[Tensor, Tensor], biases: tuple[Tensor | None, ...]
    ) -> Tensor:
        w_1, w_2 = (weight.unbind() for weight in weights)
        b_1, b_2 = ([None] * len(blocks) if bias is None else bias.unbind() for bias in biases)
        rest = x_SD.shape[0] - sum(blocks)
        outputs = []
        for e, x_e in enumerate(torch.split(x_SD, [*blocks, rest])[:-1]):
            # Idle experts still compute a gradient of 0, because other processes may wait for it.
            if blocks[e] or not any(blocks):
                hidden = ACTIVATIONS[self.activation](functional.linear(x_e, w_1[e], b_1[e]))
                hidden = self.dropout(hidden)
                outputs.append(functional.linear(hidden, w_2[e], b_2[e]))
        outputs.append(x_SD.new_zeros(rest, w_2[0].shape[0]))
        return torch.cat(outputs)


def _here(weight: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return the part of a stack that this process holds, in the dtype of the products."""
    if weight is None:
        return None
    # A DTensor. An isinstance check would need its class, which takes a second to import.
    local: Tensor = weight.to_local() if hasattr(weight, "to_local") else weight
    return local.to(dtype)


def _grouped_linear(x_SD: Tensor, w: Tensor, bias: Tensor | None, offsets_E: Tensor, expert_S: Tensor) -> Tensor:
    """Multiply the rows of each expert e by w[e] (D_out, D_in); they end at offsets_E[e]. Returns (S, D_out)."""
    y: Tensor = functional.grouped_mm(x_SD, w.transpose(1, 2), offs=offsets_E)
    return y if bias is None else y + bias.index_select(0, expert_S)


def has_grouped_products(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether `torch.nn.functional.grouped_mm` works here. The result of one trial is cached.

    The trial compares values and gradients with single products. On CPUs the function only loops over the groups, so it
    isn't used there.
    """
    return device.type == "cuda" and grouped_products_agree(device, dtype)


@functools.cache
def grouped_products_agree(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether a small grouped product with an empty group equals single products, including gradients."""
    sizes, width = [16, 0, 48], 32
    generator = torch.Generator().manual_seed(0)
    # Recognition calls this in inference mode, whose tensors can't have gradients.
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        x = torch.randn(sum(sizes), width, generator=generator).to(device, dtype).requires_grad_()
        w = torch.randn(len(sizes), width, width, generator=generator).to(device, dtype).requires_grad_()
        offsets = torch.tensor(sizes, device=device).cumsum(0).to(torch.int32)
        try:
            y = functional.grouped_mm(x, w.transpose(1, 2), offs=offsets)
        except (AttributeError, RuntimeError, ValueError):  # an older torch, or an unsupported dtype
            return False
        loop = torch.cat([part @ w[e].T for e, part in enumerate(torch.split(x, sizes))])
        ours, theirs = (
            [product.detach(), *torch.autograd.grad(product.square().sum(), (x, w))] for product in (y, loop)
        )
    tolerance = 0.05 if dtype in (torch.bfloat16, torch.float16) else 1e-4
    return all(
        torch.linalg.vector_norm((grouped - single).float()) <= tolerance * torch.linalg.vector_norm(single.float())
        for grouped, single in zip(ours, theirs, strict=True)
    )


@torch.library.custom_op("unichoir::experts", mutates_args=())
def _experts_for_export(
    x_SD: Tensor,
    blocks_E: Tensor,
    w_1: Tensor,
    b_1: Tensor | None,
    w_2: Tensor,
    b_2: Tensor | None,
    activation: str,
) -> Tensor:
    """`Experts.forward` as one node of an exported graph. `export/operators.py` translates it to ONNX."""
    raise RuntimeError("unichoir::experts stands for the experts in exported graphs only")


@_experts_for_export.register_fake
def _(
    x_SD: Tensor,
    blocks_E: Tensor,
    w_1: Tensor,
    b_1: Tensor | None,
    w_2: Tensor,
    b_2: Tensor | None,
    activation: str,
) -> Tensor:
    return torch.empty_like(x_SD)
