"""Time training steps on random input, for docs/results/training.md and docs/results/planning.md.

    python experiments/training_speed.py                        # on a GPU `step`, else `variants`
    python experiments/training_speed.py step [--config dense-225m,moe-1b,dense-1b] [--frames-per-batch 12000]
    python experiments/training_speed.py variants [--config moe-small]
    python experiments/training_speed.py --check-sync [--config moe-1b]

step: a complete training step of the trainer (forward and backward pass, clipping, fused AdamW) with bf16 autocast. The
work of its products, counted like in `unichoir plan`, is compared with the rate of one large bf16 product, measured in
the same run, and with the data sheet. Experts are also computed one by one instead of in grouped products, in the
complete step and in a single layer. This also runs on a CPU, for small configurations.

variants: on a CPU, fp32 against bf16, blocks of experts filled up to 32 rows against unfilled blocks, and explicit
attention against torch's fused kernel.

--check-sync: prove that a layer of experts never makes the host wait for the GPU: torch raises an error if it does.

GPU times are measured between two events, and CPU times are processor times (one thread), so other work on the machine
has little effect. The median of --steps after two warm-up steps counts. Prints a Markdown table.
"""

import argparse
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from steps import Layer, Timer, Training, grouped_products
from torch import Tensor
from torch.nn import functional

from unichoir.network import moe
from unichoir.network.attention import MultiHeadAttention
from unichoir.network.config import NAMED_CONFIGS
from unichoir.network.experts import grouped_products_agree
from unichoir.training.accelerators import GPUS, Gpu
from unichoir.training.planning import Workload, make_plan

VOCAB_SIZE = 256
"""Vocabulary size of configurations that don't set it."""
BATCH_SIZE, FRAMES, TOKENS = 12, 483, 16
"""Size of the variants' batches."""
SECONDS, TOKENS_PER_SECOND = 10, 4
"""Length of the complete step's utterances."""


def matrix_rate(device: torch.device) -> float:
    """Return the FLOP/s of a large square product in bf16: the best of several."""
    size, repeats = (8192, 20) if device.type == "cuda" else (1024, 5)
    x, y = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    timer = Timer(device)
    return 2 * size**3 / min(timer.seconds(lambda: x @ y) for _ in range(repeats))


def data_sheet(name: str, memory: float) -> Gpu | None:
    """Return the GPU with this driver name and memory in bytes; None if its data sheet is unknown."""
    words = name.lower().replace("-", " ").split()
    is_slower = not {"pcie", "nvl"}.isdisjoint(words)
    for gpu in GPUS.values():
        if gpu.name.partition("-")[0] in words and not is_slower and abs(memory / gpu.memory - 1) < 0.15:
            return gpu
    return None


@dataclass(frozen=True, kw_only=True)
class Yardstick:
    """Reference values for steps."""

    device: torch.device
    matrix_rate: float
    """FLOP/s of a large product."""
    gpu: Gpu | None


def step_row(name: str, frames_per_batch: int, steps: int, yardstick: Yardstick) -> str:
    """Return a line of the table of complete steps."""
    config, device = NAMED_CONFIGS[name], yardstick.device
    config = config.with_vocab_size(config.vocab_size or VOCAB_SIZE)
    size = max(frames_per_batch // (100 * SECONDS), 1)
    workload = Workload(
        hours=1,
        frames_per_batch=100 * SECONDS * size,
        seconds_per_utterance=SECONDS,
        tokens_per_second=TOKENS_PER_SECOND,
        device="cuda" if device.type == "cuda" else "cpu",
        efficiency=1.0,
    )
    plan = make_plan(config, workload, Gpu(name="this", memory=1.0, bf16_flops=yardstick.matrix_rate))
    try:
        training = Training(config, device, (size, 100 * SECONDS, TOKENS_PER_SECOND * SECONDS), "bf16")
        peak, seconds = training.peak_bytes(), training.seconds(steps)
        ratios = experts_one_by_one(training, workload.batch(config.encoder).frames * size, steps)
    except torch.OutOfMemoryError:
        return f"| {name} | {size * SECONDS} s: does not fit; planned {plan.memory.peak / 1e9:.1f} GB " + 8 * "| " + "|"
    rate = plan.step_flops * size * SECONDS / seconds
    of_sheet = f"{rate / yardstick.gpu.flops('bf16'):.0%}" if yardstick.gpu else "-"
    return (
        f"| {name} | {size * SECONDS} s | {1000 * seconds:.1f} | {size * SECONDS / seconds:.0f} | {rate / 1e12:.3g} "
        f"| {rate / yardstick.matrix_rate:.0%} | {of_sheet} | {peak / 1e9:.2f} | {plan.memory.peak / 1e9:.2f} "
        f"| {ratios[0]} | {ratios[1]} |"
    )


def experts_one_by_one(training: Training, frames: int, steps: int) -> tuple[str, str]:
    """Return the time of a step and a layer relative to grouped products; "-" without grouped products."""
    config, device = training.model.config, training.device
    if not config.encoder.feed_forward.num_experts or not grouped_products_agree(device, torch.bfloat16):
        return "-", "-"
    layer = Layer(config, device, frames)
    seconds = {}
    for grouped in (True, False):
        with grouped_products(grouped):
            seconds[grouped] = training.seconds(steps), layer.seconds(steps)
    step, alone = (single / grouped for grouped, single in zip(seconds[True], seconds[False], strict=True))
    return f"{step:.2f}", f"{alone:.2f}"


def compare_steps(names: Sequence[str], frames_per_batch: int, steps: int, device: torch.device) -> None:
    """Print the table of complete steps."""
    machine, gpu = platform.processor() or platform.machine(), None
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        machine, gpu = properties.name, data_sheet(properties.name, properties.total_memory)
    yardstick = Yardstick(device=device, matrix_rate=matrix_rate(device), gpu=gpu)
    sheet = f"{gpu.flops('bf16') / 1e12:.0f}" if gpu else "not known"
    print(
        f"bf16, torch {torch.__version__}, {machine}; TFLOP/s of one large product: "
        f"{yardstick.matrix_rate / 1e12:.3g}, of the data sheet: {sheet}\n"
    )
    print(
        "| | batch | ms of a step | s of audio / s | TFLOP/s | of the product | of the data sheet | peak GB "
        "| planned GB | step, experts one by one / grouped | the layer alone |\n|---|" + 10 * "---:|"
    )
    for name in names:
        print(step_row(name, frames_per_batch, steps, yardstick), flush=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def check_sync(name: str) -> None:
    """Run a layer of experts while torch forbids waiting. Raises SystemExit if it waits."""
    device = torch.device("cuda")
    layer = Layer(NAMED_CONFIGS[name], device, frames=4096)

    def waits() -> str | None:
        layer.passes()  # kernels are built, and grouped products tried
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            layer.passes()
        except RuntimeError as error:
            return str(error)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return None

    if reason := waits():
        raise SystemExit(f"error: a layer of {name} waits for the GPU: {reason}")
    with grouped_products(False):
        if not waits():
            raise SystemExit("error: experts one by one wait, but torch did not detect it: the check proves nothing")
    print(f"{name}: forward and backward pass of a layer never wait for the GPU; experts one by one do")


def fused_attend(self: MultiHeadAttention, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Compute `MultiHeadAttention.attend` with torch's fused kernel, also on the CPU."""
    y = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
    out: Tensor = self.linear_out(y.transpose(1, 2).flatten(2))
    return out


def compare_variants(name: str, steps: int) -> None:
    """Print the table of variants on a CPU."""
    attend, alignment = MultiHeadAttention.attend, moe.TRAINING_ALIGNMENT
    config, device = NAMED_CONFIGS[name].with_vocab_size(VOCAB_SIZE), torch.device("cpu")

    def variant(precision: str, align: int, attention: Callable[..., Tensor]) -> float:
        moe.TRAINING_ALIGNMENT, MultiHeadAttention.attend = align, attention  # type: ignore
        seconds = Training(config, device, (BATCH_SIZE, FRAMES, TOKENS), precision).seconds(steps)
        return BATCH_SIZE * FRAMES / 100 / seconds

    print(f"{name}, torch {torch.__version__}, {platform.processor() or platform.machine()}, 1 thread\n")
    print("| precision | rows of a block | attention | audio seconds per second |\n|---|---|---|---:|")
    for precision, align, label, attention in (
        ("fp32", 1, "written out", attend),
        ("bf16", 1, "written out", attend),
        ("bf16", alignment, "fused", fused_attend),
        ("bf16", alignment, "written out", attend),
    ):
        rows = "as they come" if align == 1 else f"multiples of {align}"
        print(f"| {precision} | {rows} | {label} | {variant(precision, align, attention):.0f} |", flush=True)


def main() -> None:
    """Measure what the command line asks for."""
    has_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["step", "variants"], default="step" if has_gpu else "variants")
    parser.add_argument("--config", metavar="NAME,NAME", help="configurations of `unichoir models`; step takes several")
    parser.add_argument("--steps", type=int, default=5, help="number of timed steps (default: 5)")
    parser.add_argument("--frames-per-batch", type=int, help="step: frames of 10 ms (default: 12000)")
    parser.add_argument("--check-sync", action="store_true", help="only check whether a layer waits for the GPU")
    arguments = parser.parse_args()
    is_step = arguments.what == "step"
    default = "moe-1b" if arguments.check_sync else "dense-225m,moe-1b,dense-1b" if is_step else "moe-small"
    names = (arguments.config or default).split(",")
    if unknown := [name for name in names if name not in NAMED_CONFIGS]:
        parser.error(f"--config: unknown name '{unknown[0]}' (known: {', '.join(sorted(NAMED_CONFIGS))})")
    if len(names) > 1 and (arguments.check_sync or not is_step):
        parser.error("--config: only `step` takes several")
    if arguments.frames_per_batch is not None and (arguments.check_sync or not is_step):
        parser.error("--frames-per-batch goes with `step`")
    if arguments.steps < 1 or (arguments.frames_per_batch or 100 * SECONDS) < 100 * SECONDS:
        parser.error(f"--steps must be at least 1, --frames-per-batch at least {100 * SECONDS}")
    torch.set_num_threads(1)
    if arguments.check_sync:
        if not has_gpu:
            parser.error("--check-sync needs a CUDA device, and there is none")
        if not NAMED_CONFIGS[names[0]].encoder.feed_forward.num_experts:
            parser.error(f"--check-sync: {names[0]} has no experts")
        check_sync(names[0])
    elif is_step:
        device = torch.device("cuda" if has_gpu else "cpu")
        compare_steps(names, arguments.frames_per_batch or 12000, arguments.steps, device)
    else:
        compare_variants(names[0], arguments.steps)


if __name__ == "__main__":
    main()
