"""The Conformer's convolution module, causal (streaming) or not."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from unichoir.network.config import EncoderConfig
from unichoir.network.normalization import LayerNorm


class ConvolutionModule(nn.Module):
    """Pointwise convolution, GLU, depthwise convolution, norm, swish, pointwise convolution (Conformer, section 2.2).

    A causal module sees the `kernel - 1` frames before, taken from `cache` when streaming. Before the start of an
    utterance stands what the module computes for a frame of zeros; the cache holds differences from that, so that
    zeros are the right cache to start with.
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
        """x: (B, T, D); mask: (B, T); cache: (B, kernel - 1, D) or None. Returns the output and x extended by its past.

        The second value, (B, kernel - 1 + T, D), is what the next cache is cut from; None without a cache.
        """
        x = functional.glu(self.pointwise_conv1(x), dim=2)
        extended = None
        if self.causal:
            before = functional.glu(self.pointwise_conv1.bias, dim=0)
            past = before.expand(x.shape[0], self.left_frames, -1) if cache is None else cache + before
            extended = torch.cat([cache, x - before], dim=1) if cache is not None else None
            x = self._convolve_rows(torch.cat([past.to(x.dtype), x], dim=1))
        else:
            # A frame near the end sees ahead: into zeros, whether the utterance or only its padding ends there.
            x = self.depthwise_conv(x.masked_fill(~mask.unsqueeze(2), 0.0).transpose(1, 2)).transpose(1, 2)
        by_channel = isinstance(self.norm, nn.BatchNorm1d)
        x = self.norm(x.transpose(1, 2)).transpose(1, 2) if by_channel else self.norm(x)
        return self.pointwise_conv2(functional.silu(x)), extended

    def _convolve_rows(self, x: Tensor) -> Tensor:
        """(B, kernel - 1 + T, D) to (B, T, D).

        The rows go through the convolution one behind the other: for many short ones that is twice as fast, and what
        spans two of them is cut off.
        """
        batch, width, dim = x.shape
        rows = functional.pad(x.reshape(1, batch * width, dim), (0, 0, 0, self.left_frames))
        y: Tensor = self.depthwise_conv(rows.transpose(1, 2)).transpose(1, 2)
        return y.reshape(batch, width, dim)[:, : width - self.left_frames]
