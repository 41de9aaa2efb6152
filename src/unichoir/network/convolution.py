"""The Conformer's convolution module, causal (for streaming) or not."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from unichoir.network.config import EncoderConfig
from unichoir.network.normalization import LayerNorm


class ConvolutionModule(nn.Module):
    """Pointwise convolution, GLU, depthwise convolution, norm, swish, pointwise convolution (Conformer, section 2.2).

    A causal module sees the previous `kernel - 1` frames, which come from `cache` in streaming. The frames before the
    start of an utterance are the module's values for a frame of zeros. The cache stores differences from these values,
    so a cache of zeros is the correct initial state.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        dim, kernel = config.dim, config.conv_kernel
        self.causal = config.conv_causal
        self.left_frames = kernel - 1
        self.pointwise_conv1 = nn.Linear(dim, 2 * dim)
        self.depthwise_conv = nn.Conv1d(dim, dim, kernel, groups=dim, padding=0 if self.causal else kernel // 2)
        self.norm: nn.Module = LayerNorm(dim) if config.conv_norm == "layer_norm" else nn.BatchNorm1d(dim)
        self.pointwise_conv2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor, cache: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Process x (B, T, D) with mask (B, T) and cache (B, kernel - 1, D) or None.

        Returns the output (B, T, D) and the input with its past (B, kernel - 1 + T, D), from which the next cache is
        cut; None without a cache.
        """
        x = functional.glu(self.pointwise_conv1(x), dim=2)
        extended = None
        if self.causal:
            before = functional.glu(self.pointwise_conv1.bias, dim=0)
            past = before.expand(x.shape[0], self.left_frames, -1) if cache is None else cache + before
            extended = torch.cat([cache, x - before], dim=1) if cache is not None else None
            x = self._convolve_rows(torch.cat([past.to(x.dtype), x], dim=1))
        else:
            # A frame near the end sees zeros after it, whether the utterance or only its padding ends there.
            x = self.depthwise_conv(x.masked_fill(~mask.unsqueeze(2), 0.0).transpose(1, 2)).transpose(1, 2)
        by_channel = isinstance(self.norm, nn.BatchNorm1d)
        x = self.norm(x.transpose(1, 2)).transpose(1, 2) if by_channel else self.norm(x)
        return self.pointwise_conv2(functional.silu(x)), extended

    def _convolve_rows(self, x: Tensor) -> Tensor:
        """Convolve (B, kernel - 1 + T, D) to (B, T, D).

        The rows are concatenated and convolved as one, which is twice as fast for many short rows. Outputs that span
        two rows are discarded.
        """
        batch, width, dim = x.shape
        rows = functional.pad(x.reshape(1, batch * width, dim), (0, 0, 0, self.left_frames))
        y: Tensor = self.depthwise_conv(rows.transpose(1, 2)).transpose(1, 2)
        return y.reshape(batch, width, dim)[:, : width - self.left_frames]
