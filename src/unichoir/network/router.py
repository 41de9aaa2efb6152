"""The router of a Mixture of Experts layer."""

import torch
from torch import Tensor, nn

from unichoir.network.config import FeedForwardConfig


class Router(nn.Module):
    """A linear router that chooses `top_k` experts for each frame.

    It takes the k largest logits, then a softmax over these k in fp32 (U2++ MoE, section 2.1).
    """

    def __init__(self, dim: int, config: FeedForwardConfig) -> None:
        super().__init__()
        self.top_k = config.top_k
        self.softmax_first = config.softmax_first
        self.gate = nn.Linear(dim, config.num_experts, bias=False)

    def forward(
        self, x_ND: Tensor, limit: Tensor | None = None, bias_E: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Route frames (N, D). Returns gates (N, K) fp32, expert numbers (N, K) int64 and the logits (N, E).

        limit: (1,) int64, the number of experts used per frame, at most K. The remaining places get gate 0 and the
        number `num_experts`, which belongs to no expert, so `dispatch` gives them nothing to compute.
        bias_E: added to the logits when choosing experts; it does not affect the gates.
        With `softmax_first` the softmax is over all E logits, so the gates of a frame sum to less than 1.
        """
        logits_NE = self.gate(x_ND)
        logits_NK, experts_NK = torch.topk(logits_NE if bias_E is None else logits_NE + bias_E, self.top_k, dim=-1)
        if bias_E is not None:
            logits_NK = logits_NE.gather(1, experts_NK)
        logits_NK = logits_NK.float()
        if limit is not None:
            resting = torch.arange(self.top_k, device=x_ND.device) >= limit
            logits_NK = logits_NK.masked_fill(resting, -torch.inf)
            experts_NK = experts_NK.masked_fill(resting, self.gate.out_features)
        if self.softmax_first:
            gates_NK = torch.exp(logits_NK - torch.logsumexp(logits_NE.float(), dim=-1, keepdim=True))
        else:
            gates_NK = torch.softmax(logits_NK, dim=-1)
        return gates_NK, experts_NK, logits_NE
