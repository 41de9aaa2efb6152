"""Parameter counts, taken from the real model without allocating memory."""

from dataclasses import dataclass

import torch
from torch import nn

from unichoir.network.asr_model import AsrModel
from unichoir.network.blocks import ENCODER_BLOCKS
from unichoir.network.config import ModelConfig
from unichoir.network.decoder import DecoderBlock
from unichoir.network.moe import MoE


@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters."""

    total: int
    active: int
    """Parameters that compute one frame or token, counting only the chosen experts."""
    experts: int
    """Parameters of all routed experts."""
    outside: int
    """Parameters outside of all blocks: subsampling, CTC, embeddings, output layers, final norms."""
    largest_block: tuple[int, int]
    """Parameters of the largest block: in total, and of its experts."""


def count_parameters(config: ModelConfig) -> Sizes:
    """Count the parameters of the model that `config` describes."""
    with torch.device("meta"):
        model = AsrModel(config)
    layers = [module for module in model.modules() if isinstance(module, MoE)]
    resting = sum(_count(moe.experts) * (moe.num_experts - moe.top_k) // moe.num_experts for moe in layers)
    blocks = []
    for block in model.modules():
        if isinstance(block, (*ENCODER_BLOCKS, DecoderBlock)):
            experts = sum(_count(module.experts) for module in block.modules() if isinstance(module, MoE))
            blocks.append((_count(block), experts))
    total = _count(model)
    return Sizes(
        total=total,
        active=total - resting,
        experts=sum(experts for _, experts in blocks),
        outside=total - sum(size for size, _ in blocks),
        largest_block=max(blocks, default=(0, 0)),
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
