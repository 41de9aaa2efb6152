"""The convolutional front end: from feature frames (10 ms) to the frames of the first block."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from unichoir.network.config import EncoderConfig, convolved_size


def subsampled_length(frames: Tensor, config: EncoderConfig) -> Tensor:
    """Return the number of encoder frames for feature frames, elementwise; 0 if they are too few for one."""
    places = torch.div(frames - config.right_context - 1, config.subsampling_rate, rounding_mode="floor")
    return (places + 1).clamp(min=0)


class Conv2dFront(nn.Module):
    """Convolutions over time and mel bins with ReLU, then a linear layer: (B, T, M) to (B, T', D).

    Their kernel sizes and strides are those of `config.convolutions`. They are called `conv_1`, `conv_2` and so on.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        channels = config.subsampling_channels or config.dim
        self.num_convolutions = len(config.convolutions)
        for number, (kernel, stride) in enumerate(config.convolutions, 1):
            self.add_module(f"conv_{number}", nn.Conv2d(1 if number == 1 else channels, channels, kernel, stride))
        self.out = nn.Linear(channels * convolved_size(config.input_dim, config.convolutions), config.dim)

    @property
    def convolutions(self) -> list[nn.Conv2d]:
        """The convolutions, first to last."""
        return [getattr(self, f"conv_{number}") for number in range(1, self.num_convolutions + 1)]

    def forward(self, x: Tensor, is_start: Tensor | None = None) -> Tensor:
        """Subsample x (B, T, M). `is_start` is ignored, because this front end adds no padding."""
        x = x.unsqueeze(1)
        for convolution in self.convolutions:
            x = functional.relu(convolution(x))
        y: Tensor = self.out(x.transpose(1, 2).flatten(2))
        return y


class Conv1dFront(nn.Module):
    """Whisper's front end: two convolutions of width 3, strides 1 and 2, with GELU (arXiv 2212.04356, section 2.2).

    It maps (B, T, M) to (B, T', D), 20 ms frames. Output i sees input frames 2 i to 2 i + 4. The first two input frames
    precede the utterance and are 0 (`FbankConfig.lead_frames`).
    """

    def __init__(self, input_dim: int, dim: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv1d(input_dim, dim, 3)
        self.conv_2 = nn.Conv1d(dim, dim, 3, 2)

    def forward(self, x: Tensor, is_start: Tensor | None = None) -> Tensor:
        """Subsample x (B, T, M). is_start: (B,) bool, the rows in which an utterance starts here; None means all."""
        x = functional.gelu(self.conv_1(x.transpose(1, 2))).transpose(1, 2)
        x = blank_first_frame(x, is_start)
        y: Tensor = functional.gelu(self.conv_2(x.transpose(1, 2))).transpose(1, 2)
        return y


def blank_first_frame(x: Tensor, is_start: Tensor | None) -> Tensor:
    """Set frame 0 of (B, T, D) to 0 in rows that start an utterance.

    The second convolution pads with zeros, not with the first convolution's output for zeros.
    """
    is_first = torch.arange(x.shape[1], device=x.device).unsqueeze(0) == 0
    blank = is_first if is_start is None else is_first & is_start.unsqueeze(1)
    return x.masked_fill(blank.unsqueeze(2), 0.0)


def build_front(config: EncoderConfig) -> Conv2dFront | Conv1dFront:
    """Return the front end that `config` describes."""
    if config.front == "conv1d":
        return Conv1dFront(config.input_dim, config.dim)
    return Conv2dFront(config)
