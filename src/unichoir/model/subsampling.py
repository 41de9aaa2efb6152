"""From log-mel frames (10 ms) to encoder frames (40 ms)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

SUBSAMPLING_RATE = 4
RIGHT_CONTEXT = 6
"""Input frames after its first that an output frame needs: output i sees input frames 4 i to 4 i + 6."""


def subsampled_length(frames: Tensor) -> Tensor:
    """Output frames for so many input frames, elementwise; 0 where there are fewer than 7."""
    return torch.div(torch.div(frames - 1, 2, rounding_mode="floor") - 1, 2, rounding_mode="floor").clamp(min=0)


def convolved_size(size: int) -> int:
    """What the two convolutions in front leave of a dimension of this size, 7 at least."""
    return ((size - 1) // 2 - 1) // 2


class Conv2dSubsampling4(nn.Module):
    """Two 3x3 convolutions of stride 2 with ReLU, then a linear layer: (B, T, M) to (B, T', D)."""

    def __init__(self, input_dim: int, dim: int, channels: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(1, channels, 3, 2)
        self.conv_2 = nn.Conv2d(channels, channels, 3, 2)
        self.out = nn.Linear(channels * convolved_size(input_dim), dim)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv_1(x.unsqueeze(1)))
        x = functional.relu(self.conv_2(x))
        y: Tensor = self.out(x.transpose(1, 2).flatten(2))
        return y
