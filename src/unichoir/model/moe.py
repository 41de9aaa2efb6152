"""Mixture of Experts: Router (which experts), dispatch (frames sorted by expert), Experts (one block each), combine.

Dropless and without auxiliary losses (U2++ MoE, section 2.1): y = sum over the k chosen experts of gate * FFN_e(x),
the gate a softmax over the k largest router logits. Suffixes of tensors: N frames, K chosen experts of a frame,
D width, E experts, S frame copies sorted by expert (N * K of them, and what fills up blocks).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from unichoir.model.config import FeedForwardConfig
from unichoir.model.dropout import Dropout

TRAINING_ALIGNMENT = 32
"""In training the rows of an expert's block are filled up to a multiple of this: on CPUs bf16 matrix products are
compiled for each new number of rows, and the experts' numbers are new in every step (docs/results/training.md)."""


class Router(nn.Module):
    """Chooses `top_k` of the experts for each frame: top-k of the logits, then softmax over those k in fp32."""

    def __init__(self, dim: int, num_experts: int, top_k: int) -> None:
        super().__init__()
        self.top_k = top_k
        self.gate = nn.Linear(dim, num_experts, bias=False)

    def forward(self, x_ND: Tensor, limit: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, D) to gates (N, K) fp32 and expert numbers (N, K) int64.

        limit: (1,) int64, at most so many of the K experts; the others get gate 0 and the number `num_experts`, which
        is no expert's, so that `dispatch` gives them nothing to compute.
        """
        logits_NK, experts_NK = torch.topk(self.gate(x_ND), self.top_k, dim=-1)
        logits_NK = logits_NK.float()
        if limit is not None:
            resting = torch.arange(self.top_k, device=x_ND.device) >= limit
            logits_NK = logits_NK.masked_fill(resting, -torch.inf)
            experts_NK = experts_NK.masked_fill(resting, self.gate.out_features)
        return torch.softmax(logits_NK, dim=-1), experts_NK


@dataclass(frozen=True)
class Dispatch:
    """The order of the frame copies by expert, and the way back."""

    source_S: Tensor
    """Of which frame each row is a copy, those of expert 0 first; copies that belong to no expert stand last."""
    counts_E: Tensor
    """Copies for each expert, int64."""
    blocks_E: Tensor
    """Rows of each expert's block: `counts_E` rounded up to the alignment."""
    position_NK: Tensor
    """Which row of the sorted order is the copy of frame n for its k-th expert."""


def dispatch(experts_NK: Tensor, mask_N: Tensor, num_experts: int, alignment: int = 1) -> Dispatch:
    """Sort the copies of the frames by expert. Padding frames (mask False) are given to no expert and counted nowhere.

    With an alignment, each expert's block is filled up to a multiple of so many rows. The rows that fill up repeat
    frame 0; `position_NK` never points to them, so they change neither values nor gradients.
    """
    top_k = experts_NK.shape[1]
    copies = experts_NK.numel()
    # What no expert computes goes to one past the last: to the end, without a data-dependent selection.
    expert_S = experts_NK.masked_fill(~mask_N.unsqueeze(1), num_experts).reshape(-1)
    chosen_SE = expert_S.unsqueeze(1) == torch.arange(num_experts + 1, device=expert_S.device)
    # Counting is all the sorting there is to do: a row's place is where its expert's block begins, and how many copies
    # of the same expert come before it.
    seen_SE = torch.cumsum(chosen_SE, dim=0, dtype=torch.int32)
    counts_E = seen_SE[-1:, :-1].sum(dim=0)  # of no copies at all there is no last row
    blocks_E = counts_E
    if alignment > 1:
        blocks_E = torch.div(counts_E + alignment - 1, alignment, rounding_mode="floor") * alignment
    begin_E = functional.pad(torch.cumsum(blocks_E, dim=0), (1, 0))
    before_S = seen_SE.gather(1, expert_S.unsqueeze(1)).squeeze(1) - 1
    position_S = begin_E.index_select(0, expert_S) + before_S
    rows = copies if alignment == 1 else copies + int((blocks_E - counts_E).sum())
    frame_S = torch.div(torch.arange(copies, device=expert_S.device), top_k, rounding_mode="floor")
    source_S = position_S.new_zeros(rows).scatter(0, position_S, frame_S)
    return Dispatch(source_S, counts_E, blocks_E, position_S.reshape(-1, top_k))


def combine(y_SD: Tensor, gates_NK: Tensor, position_NK: Tensor, mask_N: Tensor) -> Tensor:
    """Back to the frames' own order, each the gated sum of its experts' outputs; padding becomes 0. Returns (N, D)."""
    gates_NK = gates_NK.masked_fill(~mask_N.unsqueeze(1), 0.0).to(y_SD.dtype)
    y_NKD = y_SD.index_select(0, position_NK.reshape(-1)).reshape(*position_NK.shape, y_SD.shape[1])
    y_ND: Tensor = (y_NKD * gates_NK.unsqueeze(-1)).sum(dim=1)
    return y_ND


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


class MoE(nn.Module):
    """A feed-forward layer of sparse experts: (B, T, D) to (B, T, D), counting each expert's load."""

    load: Tensor

    def __init__(self, dim: int, config: FeedForwardConfig, dropout: float) -> None:
        super().__init__()
        self.router = Router(dim, config.num_experts, config.top_k)
        self.experts = Experts(dim, config, dropout)
        self.num_experts = config.num_experts
        self.register_buffer("load", torch.zeros(config.num_experts, dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor, mask: Tensor, top_k: Tensor | None = None) -> Tensor:
        """x: (B, T, D); mask: (B, T), True for frames of an utterance. Padding is neither routed nor counted.

        top_k: (1,) int64, experts of a frame where they shall be fewer than the configuration's.
        """
        x_ND, mask_N = x.reshape(-1, x.shape[-1]), mask.reshape(-1)
        gates_NK, experts_NK = self.router(x_ND, top_k)
        order = dispatch(experts_NK, mask_N, self.num_experts, TRAINING_ALIGNMENT if self.training else 1)
        if not torch.compiler.is_exporting():
            self.load += order.counts_E
        y_SD = self.experts(x_ND, order.source_S, order.blocks_E)
        return combine(y_SD, gates_NK, order.position_NK, mask_N).reshape(x.shape)


def expert_load(model: nn.Module, reset: bool = False) -> dict[str, Tensor]:
    """Frame copies each expert of each layer has computed since the last reset: {layer name: (E,) int64 on the CPU}."""
    loads = {}
    for name, module in model.named_modules():
        if isinstance(module, MoE):
            loads[name] = module.load.cpu().clone()
            if reset:
                module.load.zero_()
    return loads


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
