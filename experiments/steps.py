"""Training steps and expert layers that `training_speed.py` measures, for docs/results/training.md and planning.md.

Whole steps use random input; layers of experts run alone, on a CPU or a GPU. GPU times are measured between two events,
and CPU times are processor times, so other work on the machine has little effect.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.distributed._tools.mem_tracker import MemTracker

from unichoir.network import experts
from unichoir.network.asr_model import AsrModel
from unichoir.network.config import ModelConfig
from unichoir.network.masks import ChunkMask
from unichoir.network.moe import MoE
from unichoir.training.optim import OptimConfig, build_optimizer, clip_gradient

WARM_UP = 2
"""Number of calls that are not measured."""


class Timer:
    """Measures the seconds for which a function keeps the device busy."""

    def __init__(self, device: torch.device) -> None:
        self.is_cuda = device.type == "cuda"

    def seconds(self, function: Callable[[], object]) -> float:
        """Return the seconds of one call."""
        if not self.is_cuda:
            began = time.process_time()
            function()
            return time.process_time() - began
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        begin.record()
        function()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1000


class Training:
    """A new model that is trained on random batches."""

    def __init__(self, config: ModelConfig, device: torch.device, shape: tuple[int, int, int], precision: str) -> None:
        """shape: utterances per batch, feature frames and tokens of each."""
        torch.manual_seed(0)
        self.device, self.shape, self.precision = device, shape, precision
        self.model = AsrModel(config).to(device)
        self.optimizer = build_optimizer(self.model, OptimConfig())

    def batch(self) -> list[Any]:
        """Return the arguments of the model."""
        size, frames, tokens = self.shape
        return [
            torch.randn(size, frames, self.model.config.encoder.input_dim, device=self.device),
            torch.full((size,), frames, device=self.device),
            torch.randint(3, self.model.config.vocab_size, (size, tokens), device=self.device),
            torch.full((size,), tokens, device=self.device),
        ]

    def step(self, batch: Sequence[Any]) -> None:
        """Make a step like `Learner.update`, which also reads the losses once."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            loss = self.model(*batch, ChunkMask(16)).loss
        loss.backward()
        clip_gradient(self.model.parameters(), 5.0)
        if not loss.isfinite():
            raise SystemExit("error: the loss is not finite")
        self.optimizer.step()

    def seconds(self, steps: int) -> float:
        """Return the seconds of the median step."""
        timer = Timer(self.device)
        times = [timer.seconds(partial(self.step, self.batch())) for _ in range(WARM_UP + steps)]
        return statistics.median(times[WARM_UP:])

    def peak_bytes(self) -> int:
        """Return the peak memory of one step, including the optimizer's state."""
        self.step(self.batch())
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.step(self.batch())
            return torch.cuda.max_memory_allocated()
        tracker = MemTracker()
        tracker.track_external(self.model, self.optimizer)
        with tracker:
            self.step(self.batch())
        (peak,) = [each["Total"] for each in tracker.get_tracker_snapshot("peak").values()]
        return int(peak)


class Layer:
    """A single layer of experts, as in the encoder."""

    def __init__(self, config: ModelConfig, device: torch.device, frames: int) -> None:
        torch.manual_seed(0)
        dim = config.encoder.dim
        self.device = device
        self.moe = MoE(dim, config.encoder.feed_forward, dropout=0.0).to(device)
        self.x = torch.randn(1, frames, dim, device=device, requires_grad=True)
        self.mask = torch.ones(1, frames, dtype=torch.bool, device=device)

    def passes(self) -> None:
        """Run the forward and backward pass."""
        self.moe.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16):
            y = self.moe(self.x, self.mask)
        y.sum().backward()

    def seconds(self, calls: int) -> float:
        """Return the seconds of the median call of `passes`."""
        timer = Timer(self.device)
        times = [timer.seconds(self.passes) for _ in range(WARM_UP + calls)]
        return statistics.median(times[WARM_UP:])


@contextmanager
def grouped_products(wanted: bool) -> Iterator[None]:
    """Force grouped products of experts on or off."""
    before = experts.has_grouped_products
    experts.has_grouped_products = lambda device, dtype: wanted
    try:
        yield
    finally:
        experts.has_grouped_products = before
