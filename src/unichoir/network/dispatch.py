"""The way of frames to their experts and back: copies sorted by expert, and their gated sum.

Suffixes of tensors: N frames, K chosen experts of a frame, D width, E experts, S frame copies sorted by expert (N * K
of them, and what fills up blocks).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

TRAINING_ALIGNMENT = 32
"""In training the rows of an expert's block are filled up to a multiple of this: on CPUs bf16 matrix products are
compiled for each new number of rows, and the experts' numbers are new in every step (docs/results/training.md)."""


@dataclass(frozen=True)
class Dispatch:
    """The order of the frame copies by expert, and the way back."""

    source_S: Tensor
    """Of which frame each row is a copy, those of expert 0 first; copies that belong to no expert stand last."""
    counts_E: Tensor
    """Copies for each expert, int64."""
    blocks_E: Tensor
    """Rows of each expert's block: `counts_E` rounded up to the alignment."""
    position_NK: Tensor
    """Which row of the sorted order is the copy of frame n for its k-th expert."""


def dispatch(experts_NK: Tensor, mask_N: Tensor, num_experts: int, alignment: int = 1) -> Dispatch:
    """Sort the copies of the frames by expert. Padding frames (mask False) are given to no expert and counted nowhere.

    With an alignment, each expert's block is filled up to a multiple of so many rows. The rows that fill up repeat
    frame 0; `position_NK` never points to them, so they change neither values nor gradients.
    """
    top_k = experts_NK.shape[1]
    copies = experts_NK.numel()
    # What no expert computes goes to one past the last: to the end, without a data-dependent selection.
    expert_S = experts_NK.masked_fill(~mask_N.unsqueeze(1), num_experts).reshape(-1)
    chosen_SE = expert_S.unsqueeze(1) == torch.arange(num_experts + 1, device=expert_S.device)
    # Counting is all the sorting there is to do: a row's place is where its expert's block begins, and how many copies
    # of the same expert come before it.
    seen_SE = torch.cumsum(chosen_SE, dim=0, dtype=torch.int32)
    counts_E = seen_SE[-1:, :-1].sum(dim=0)  # of no copies at all there is no last row
    blocks_E = counts_E
    if alignment > 1:
        blocks_E = torch.div(counts_E + alignment - 1, alignment, rounding_mode="floor") * alignment
    begin_E = functional.pad(torch.cumsum(blocks_E, dim=0), (1, 0))
    before_S = seen_SE.gather(1, expert_S.unsqueeze(1)).squeeze(1) - 1
    position_S = begin_E.index_select(0, expert_S) + before_S
    rows = copies
    if alignment > 1:
        # How many are needed is known where the loads are: on CUDA the host does not wait for that, but takes the most.
        most = num_experts * (alignment - 1)
        rows += most if experts_NK.is_cuda else int((blocks_E - counts_E).sum())
    frame_S = torch.div(torch.arange(copies, device=expert_S.device), top_k, rounding_mode="floor")
    source_S = position_S.new_zeros(rows).scatter(0, position_S, frame_S)
    return Dispatch(source_S, counts_E, blocks_E, position_S.reshape(-1, top_k))


def combine(y_SD: Tensor, gates_NK: Tensor, position_NK: Tensor, mask_N: Tensor) -> Tensor:
    """Back to the frames' own order, each the gated sum of its experts' outputs; padding becomes 0. Returns (N, D)."""
    gates_NK = gates_NK.masked_fill(~mask_N.unsqueeze(1), 0.0).to(y_SD.dtype)
    y_NKD = y_SD.index_select(0, position_NK.reshape(-1)).reshape(*position_NK.shape, y_SD.shape[1])
    y_ND: Tensor = (y_NKD * gates_NK.unsqueeze(-1)).sum(dim=1)
    return y_ND
