"""Attention masks: padding masks, chunk masks, and the chunk drawn for a training batch."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unichoir.network.config import LARGEST_CHUNK

MASKED = -1e30
"""Value added to masked attention scores. It is finite, so a row without any key yields numbers instead of NaN."""


@dataclass(frozen=True)
class ChunkMask:
    """Attention within chunks of `size` encoder frames and `num_left` chunks before them (-1: the complete past)."""

    size: int
    num_left: int = -1

    def __post_init__(self) -> None:
        if self.size < 1 or self.num_left < -1:
            raise ValueError(f"a chunk needs size >= 1 and num_left >= -1, not {self.size} and {self.num_left}")


def frame_mask(lengths: Tensor, max_frames: int) -> Tensor:
    """Return a mask (B, max_frames) that is True for frames of the utterance. lengths: (B,)."""
    return torch.arange(max_frames, device=lengths.device) < lengths.unsqueeze(1)


def chunk_mask(num_frames: int, chunk: ChunkMask, device: torch.device | None = None) -> Tensor:
    """Return a mask (T, T) that is True where frame i sees frame j (U2, section 3.2).

    The condition is max((i//C - left) C, 0) <= j < (i//C + 1) C.
    """
    frame = torch.arange(num_frames, device=device)
    start_of_chunk = torch.div(frame, chunk.size, rounding_mode="floor") * chunk.size
    mask = frame < (start_of_chunk + chunk.size).unsqueeze(1)
    if chunk.num_left >= 0:
        mask = mask & (frame >= (start_of_chunk - chunk.num_left * chunk.size).unsqueeze(1))
    return mask


def attention_bias(mask: Tensor) -> Tensor:
    """Return the bias for the attention scores: 0 where the mask is True, MASKED where it is False."""
    return torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, MASKED)


def draw_dynamic_chunk(
    rng: np.random.Generator, max_frames: int, dynamic_left: bool = False, min_size: int = 1, probability: float = 0.5
) -> ChunkMask | None:
    """Draw the chunk of one training batch (U2++, section 2.2): full context (None) or 1 to 25 frames.

    max_frames: encoder frames of the longest utterance in the batch; min_size: the smallest chunk; probability: the
    probability of a chunk rather than full context.
    """
    if max_frames < 2:
        return None
    drawn = int(rng.integers(1, max_frames))
    if drawn > int(max_frames * probability):
        return None
    size = drawn % (LARGEST_CHUNK + 1 - min_size) + min_size
    max_left = (max_frames - 1) // size
    return ChunkMask(size, int(rng.integers(0, max_left + 1)) if dynamic_left else -1)
