"""A dropout that is fast on CPUs."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Dropout(nn.Module):
    """Dropout: zero each element with probability `p` in training and scale the others up (Srivastava et al. 2014).

    On CPUs, drawing one random number per element takes longer than the surrounding layers, so this draws one byte,
    eight at a time. There, `p` is rounded to a multiple of 1/256, and the scale matches the rounded value.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.dropped_bytes = round(256 * p)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        if x.is_cuda:
            return functional.dropout(x, self.p)
        words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= self.dropped_bytes
        return x * kept * (256 / (256 - self.dropped_bytes))
