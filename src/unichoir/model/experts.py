"""The experts: feed-forward networks with stacked weights. Suffixes of tensors are those of `dispatch.py`."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from unichoir.model.config import FeedForwardConfig
from unichoir.model.dropout import Dropout


class Experts(nn.Module):
    """`num_experts` feed-forward networks with stacked weights; each computes its frames in one block."""

    def __init__(self, dim: int, config: FeedForwardConfig, dropout: float) -> None:
        super().__init__()
        num_experts, hidden = config.num_experts, config.hidden_dim
        self.w_1 = nn.Parameter(torch.empty(num_experts, hidden, dim))
        self.w_2 = nn.Parameter(torch.empty(num_experts, dim, hidden))
        self.bias_1 = nn.Parameter(torch.empty(num_experts, hidden)) if config.bias else None
        self.bias_2 = nn.Parameter(torch.empty(num_experts, dim)) if config.bias else None
        self.activation = config.activation
        self.dropout = Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The same distribution that `nn.Linear` gives to the layers of a dense feed-forward network."""
        for weight, bias in ((self.w_1, self.bias_1), (self.w_2, self.bias_2)):
            bound = weight.shape[2] ** -0.5
            nn.init.uniform_(weight, -bound, bound)
            if bias is not None:
                nn.init.uniform_(bias, -bound, bound)

    def forward(self, x_ND: Tensor, source_S: Tensor, blocks_E: Tensor) -> Tensor:
        """x_ND: frames; source_S: which of them stands in each sorted row; blocks_E: rows of each expert.

        Returns (S, D); rows past sum(blocks_E) come out as 0.
        """
        x_SD = x_ND.index_select(0, source_S)
        if torch.compiler.is_exporting():
            exported: Tensor = torch.ops.unichoir.experts(
                x_SD, blocks_E, self.w_1, self.bias_1, self.w_2, self.bias_2, self.activation
            )
            return exported
        return self._blocks(x_SD, blocks_E.tolist())

    def _blocks(self, x_SD: Tensor, blocks: list[int]) -> Tensor:
        device = x_SD.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_SD.dtype
        # One cast of the whole stack: a cast per expert would be repeated for every slice.
        w_1, w_2, x_SD = self.w_1.to(dtype).unbind(), self.w_2.to(dtype).unbind(), x_SD.to(dtype)
        b_1 = self.bias_1.to(dtype).unbind() if self.bias_1 is not None else [None] * len(blocks)
        b_2 = self.bias_2.to(dtype).unbind() if self.bias_2 is not None else [None] * len(blocks)
        activation = functional.silu if self.activation == "swish" else functional.relu
        rest = x_SD.shape[0] - sum(blocks)
        outputs = []
        for e, x_e in enumerate(torch.split(x_SD, [*blocks, rest])[:-1]):
            if blocks[e]:
                hidden = activation(functional.linear(x_e, w_1[e], b_1[e]))
                hidden = self.dropout(hidden)
                outputs.append(functional.linear(hidden, w_2[e], b_2[e]))
        outputs.append(x_SD.new_zeros(rest, w_2[0].shape[0]))
        return torch.cat(outputs)


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
    """`Experts.forward` as one node of an exported graph; `export/operators.py` says what it becomes in ONNX."""
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
