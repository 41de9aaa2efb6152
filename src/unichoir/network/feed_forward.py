"""The dense feed-forward network."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from unichoir.network.config import FeedForwardConfig
from unichoir.network.dropout import Dropout
from unichoir.network.router import Router

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "swish": functional.silu,
    "relu": functional.relu,
    "gelu": functional.gelu,
}


class FeedForward(nn.Module):
    """Two linear layers with an activation between them: (B, T, D) to (B, T, D)."""

    def __init__(self, dim: int, config: FeedForwardConfig, dropout: float) -> None:
        super().__init__()
        self.w_1 = nn.Linear(dim, config.hidden_dim, bias=config.bias)
        self.w_2 = nn.Linear(config.hidden_dim, dim, bias=config.bias)
        self.activation = config.activation
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, top_k: Tensor | None = None, router: Router | None = None) -> Tensor:
        """Process x (B, T, D). Only `MoE` uses the other arguments; a dense layer treats padding like any frame."""
        y: Tensor = self.w_2(self.dropout(ACTIVATIONS[self.activation](self.w_1(x))))
        return y
