"""Layer normalisation that computes in fp32 for any dtype of its weights."""

from torch import Tensor, nn
from torch.nn import functional


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` that also accepts sharded weights gathered in the dtype of the matrix products."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., D)."""
        return functional.layer_norm(x, self.normalized_shape, self.weight.float(), self.bias.float(), self.eps)
