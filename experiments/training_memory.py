"""Compare memory and time of real training steps with the plan, for docs/results/planning.md.

    python experiments/training_memory.py [--steps 5]

Small configurations make steps on this machine's CPU with one thread and random input. Memory is the peak of tensors in
the complete second step, from torch's own tracker. Time is processor time, so other work on the machine has little
effect. The efficiency is the achieved fraction of the rate of one large matrix product, measured in the same run.
Prints a Markdown table.
"""

import argparse
import time
from typing import Any

import torch
from torch.distributed._tools.mem_tracker import MemTracker

from unichoir.benchmark.ceilings import FRAMES, INPUTS, OUTPUTS
from unichoir.network.asr_model import AsrModel
from unichoir.network.config import NAMED_CONFIGS
from unichoir.training.accelerators import Gpu
from unichoir.training.optim import OptimConfig, build_optimizer
from unichoir.training.planning import Plan, Workload, make_plan

VOCAB_SIZE = 500
BATCH_SIZE, SECONDS, TOKENS_PER_SECOND = 12, 5, 4
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def matrix_rate(precision: str) -> float:
    """Return the FLOP/s of processor time: the best of several large products."""
    x, w = (torch.randn(shape, dtype=TYPES[precision]) for shape in ((FRAMES, INPUTS), (INPUTS, OUTPUTS)))
    times = []
    for _ in range(10):
        began = time.process_time()
        for _ in range(10):
            x @ w
        times.append((time.process_time() - began) / 10)
    return 2 * FRAMES * INPUTS * OUTPUTS / min(times)


class Training:
    """A model in training."""

    def __init__(self, name: str, precision: str) -> None:
        torch.manual_seed(0)
        self.precision = precision
        self.model = AsrModel(NAMED_CONFIGS[name].with_vocab_size(VOCAB_SIZE))
        self.optimizer = build_optimizer(self.model, OptimConfig())

    def step(self) -> None:
        """Make a forward and backward pass and an update on new random input."""
        frames, tokens = 100 * SECONDS, TOKENS_PER_SECOND * SECONDS
        batch: Any = (
            torch.randn(BATCH_SIZE, frames, 80),
            torch.full((BATCH_SIZE,), frames),
            torch.randint(3, VOCAB_SIZE, (BATCH_SIZE, tokens)),
            torch.full((BATCH_SIZE,), tokens),
        )
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            loss = self.model(*batch).loss
        loss.backward()
        self.optimizer.step()

    def peak_bytes(self) -> int:
        """Return the peak memory of the second step, including the optimizer's state."""
        self.step()
        tracker = MemTracker()
        tracker.track_external(self.model, self.optimizer)
        with tracker:
            self.step()
        (peak,) = [each["Total"] for each in tracker.get_tracker_snapshot("peak").values()]
        return int(peak)

    def seconds(self, steps: int) -> float:
        """Return the processor time of the median of `steps` steps after two warm-up steps."""
        times = []
        for _ in range(2 + steps):
            began = time.process_time()
            self.step()
            times.append(time.process_time() - began)
        return sorted(times[2:])[steps // 2]


def plan(name: str, precision: Any, rate: float) -> Plan:
    """Return the plan of `unichoir plan` for one batch, at the measured rate and an efficiency of 1."""
    workload = Workload(
        hours=1,
        precision=precision,
        frames_per_batch=BATCH_SIZE * 100 * SECONDS,
        seconds_per_utterance=SECONDS,
        tokens_per_second=TOKENS_PER_SECOND,
        device="cpu",
        efficiency=1.0,
    )
    machine = Gpu(name="cpu", memory=1e12, bf16_flops=rate, fp32_flops=rate)
    return make_plan(NAMED_CONFIGS[name].with_vocab_size(VOCAB_SIZE), workload, machine)


def main() -> None:
    """Measure the configurations one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", default="dense-small,moe-small")
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rates = {precision: matrix_rate(precision) for precision in TYPES}
    print(", ".join(f"matrix product in {precision}: {rate / 1e9:.0f} GFLOP/s" for precision, rate in rates.items()))
    print("\n| | precision | peak planned | peak measured | GFLOP of a step | ms at that rate | ms | efficiency |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for name in arguments.configs.split(","):
        for precision in TYPES:
            planned = plan(name, precision, rates[precision])
            training = Training(name, precision)
            peak, seconds = training.peak_bytes(), training.seconds(arguments.steps)
            ideal = planned.time.compute
            print(
                f"| {name} | {precision} | {planned.memory.peak / 1e6:.0f} MB | {peak / 1e6:.0f} MB "
                f"| {planned.step_flops * planned.audio_per_update / 1e9:.1f} | {1000 * ideal:.0f} "
                f"| {1000 * seconds:.0f} | {ideal / seconds:.0%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
