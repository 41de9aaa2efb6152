"""Time training steps on random input: python benchmarks/training_speed.py [--config moe-small] [--steps 5].

Compares, in one run, fp32 with bf16, experts' blocks filled up to 32 rows with blocks as they come, and attention
written out with torch's fused kernel. Times are those of the processor (one thread), so other work on the machine
disturbs them little. Prints a Markdown table.
"""

import argparse
import platform
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from unichoir.model import moe
from unichoir.model.asr_model import AsrModel
from unichoir.model.attention import MultiHeadAttention
from unichoir.model.config import NAMED_CONFIGS
from unichoir.model.masks import ChunkMask

VOCAB_SIZE = 256
BATCH_SIZE, FRAMES, TOKENS = 12, 483, 16


def seconds_of_audio_per_second(config: str, precision: str, steps: int) -> float:
    """Train a fresh model for a few steps after two of warm-up; the median step counts."""
    torch.manual_seed(0)
    model = AsrModel(NAMED_CONFIGS[config].with_vocab_size(VOCAB_SIZE))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    lengths, token_lengths = torch.full((BATCH_SIZE,), FRAMES), torch.full((BATCH_SIZE,), TOKENS)
    times = []
    for _ in range(steps + 2):
        feats, tokens = torch.randn(BATCH_SIZE, FRAMES, 80), torch.randint(3, VOCAB_SIZE, (BATCH_SIZE, TOKENS))
        began = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(feats, lengths, tokens, token_lengths, ChunkMask(16)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.process_time() - began)
    return BATCH_SIZE * FRAMES / 100 / sorted(times[2:])[steps // 2]


def fused_attend(self: MultiHeadAttention, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """`MultiHeadAttention.attend` with torch's fused kernel on the CPU too."""
    y = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
    out: Tensor = self.linear_out(y.transpose(1, 2).flatten(2))
    return out


def main() -> None:
    """Measure the variants one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="moe-small", choices=sorted(NAMED_CONFIGS))
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    attend, alignment = MultiHeadAttention.attend, moe.TRAINING_ALIGNMENT

    def variant(precision: str, align: int, attention: Callable[..., Tensor]) -> float:
        moe.TRAINING_ALIGNMENT, MultiHeadAttention.attend = align, attention  # type: ignore[method-assign]
        return seconds_of_audio_per_second(arguments.config, precision, arguments.steps)

    print(f"{arguments.config}, torch {torch.__version__}, {platform.processor() or platform.machine()}, 1 thread\n")
    print("| precision | rows of a block | attention | audio seconds per second |\n|---|---|---|---:|")
    for precision, align, name, attention in (
        ("fp32", 1, "written out", attend),
        ("bf16", 1, "written out", attend),
        ("bf16", alignment, "fused", fused_attend),
        ("bf16", alignment, "written out", attend),
    ):
        rows = "as they come" if align == 1 else f"multiples of {align}"
        print(f"| {precision} | {rows} | {name} | {variant(precision, align, attention):.0f} |", flush=True)


if __name__ == "__main__":
    main()
