"""Layer normalisation that computes in fp32 whatever type its weights come in."""

from torch import Tensor, nn
from torch.nn import functional


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm`, also where sharded weights have been gathered in the type of the matrix products."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        return functional.layer_norm(x, self.normalized_shape, self.weight.float(), self.bias.float(), self.eps)
