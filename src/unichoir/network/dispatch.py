"""Dispatch of frames to experts: copies sorted by expert, and the gated sum of the experts' outputs.

Tensor suffixes: N frames, K chosen experts per frame, D width, E experts, S frame copies sorted by expert (N * K of
them, and the rows that fill up blocks).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

TRAINING_ALIGNMENT = 32
"""In training, the rows of an expert's block are filled up to a multiple of this number. On CPUs, bf16 matrix products
are compiled for each new number of rows, and the numbers change in every step (docs/results/training.md)."""


@dataclass(frozen=True)
class Dispatch:
    """The order of the frame copies by expert, and its inverse."""

    source_S: Tensor
    """The frame of each row, sorted by expert; copies that belong to no expert come last."""
    counts_E: Tensor
    """Number of copies for each expert, int64."""
    blocks_E: Tensor
    """Number of rows in each expert's block: `counts_E` rounded up to the alignment."""
    position_NK: Tensor
    """The row that holds the copy of frame n for its k-th expert."""


def dispatch(experts_NK: Tensor, mask_N: Tensor, num_experts: int, alignment: int = 1) -> Dispatch:
    """Sort the copies of the frames by expert. Padding frames (mask False) go to no expert and aren't counted.

    With an alignment, each expert's block is filled up to a multiple of that number of rows. The added rows repeat
    frame 0. `position_NK` never points to them, so they change neither values nor gradients.
    """
    top_k = experts_NK.shape[1]
    copies = experts_NK.numel()
    # Copies without an expert get the number after the last, which sorts them to the end without a data-dependent
    # selection.
    expert_S = experts_NK.masked_fill(~mask_N.unsqueeze(1), num_experts).reshape(-1)
    chosen_SE = expert_S.unsqueeze(1) == torch.arange(num_experts + 1, device=expert_S.device)
    # Sorting only requires counting: a row's place is the start of its expert's block plus the number of earlier copies
    # of the same expert.
    seen_SE = torch.cumsum(chosen_SE, dim=0, dtype=torch.int32)
    counts_E = seen_SE[-1:, :-1].sum(dim=0)  # without any copies there is no last row
    blocks_E = counts_E
    if alignment > 1:
        blocks_E = torch.div(counts_E + alignment - 1, alignment, rounding_mode="floor") * alignment
    begin_E = functional.pad(torch.cumsum(blocks_E, dim=0), (1, 0))
    before_S = seen_SE.gather(1, expert_S.unsqueeze(1)).squeeze(1) - 1
    position_S = begin_E.index_select(0, expert_S) + before_S
    rows = copies
    if alignment > 1:
        # The number of added rows is only known on the device. On CUDA, use the maximum so the host doesn't wait.
        most = num_experts * (alignment - 1)
        rows += most if experts_NK.is_cuda else int((blocks_E - counts_E).sum())
    frame_S = torch.div(torch.arange(copies, device=expert_S.device), top_k, rounding_mode="floor")
    source_S = position_S.new_zeros(rows).scatter(0, position_S, frame_S)
    return Dispatch(source_S, counts_E, blocks_E, position_S.reshape(-1, top_k))


def combine(y_SD: Tensor, gates_NK: Tensor, position_NK: Tensor, mask_N: Tensor) -> Tensor:
    """Return the gated sum of the experts' outputs for each frame, in frame order (N, D); padding becomes 0."""
    gates_NK = gates_NK.masked_fill(~mask_N.unsqueeze(1), 0.0).to(y_SD.dtype)
    y_NKD = y_SD.index_select(0, position_NK.reshape(-1)).reshape(*position_NK.shape, y_SD.shape[1])
    y_ND: Tensor = (y_NKD * gates_NK.unsqueeze(-1)).sum(dim=1)
    return y_ND
