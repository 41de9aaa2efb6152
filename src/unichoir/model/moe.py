"""Mixture of Experts: Router (which experts), dispatch (frames sorted by expert), Experts (one block each), combine.

Dropless and without auxiliary losses (U2++ MoE, section 2.1): y = sum over the k chosen experts of gate * FFN_e(x),
the gate a softmax over the k largest router logits. Suffixes of tensors are those of `dispatch.py`.
"""

import torch
from torch import Tensor, nn

from unichoir.model.config import FeedForwardConfig
from unichoir.model.dispatch import TRAINING_ALIGNMENT, combine, dispatch
from unichoir.model.experts import Experts


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
