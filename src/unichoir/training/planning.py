"""What a training run will take: memory of each GPU, traffic between them, updates and days.

Everything is counted from the model's sizes for equally long utterances, experts that are used evenly, and batches
without padding. Parameters, gradients and optimizer state are exact; `activations.py` says what autograd keeps; the
layout is that of `parallel.py`. Time is work divided by the peak rate of the data sheet and an efficiency, which has to
be known (`docs/results/planning.md` has what was measured), and traffic divided by the rate of links.
"""

from dataclasses import dataclass, field
from typing import Literal

from unichoir.errors import ConfigError
from unichoir.network.config import ModelConfig
from unichoir.network.counts import decoder_products, encoder_work
from unichoir.network.sizes import Sizes, count_parameters
from unichoir.training.accelerators import ASSUMED_EFFICIENCY, Gpu
from unichoir.training.activations import Activations, BatchShape, Types, activations
from unichoir.training.parallel import Layout, ParallelConfig

FP32 = 4
ADAMW_STATE = 2 * FP32
"""Two moments of each parameter in fp32."""
ADAMW_TRAFFIC = 7 * FP32
"""Bytes of each parameter that a fused update reads (weight, gradient, moments) and writes (all but gradients)."""
USABLE = 0.9
"""Of a GPU's memory; the rest is assumed to go to driver, libraries and gaps between tensors."""
FEATURE_FRAMES_PER_SECOND = 100


@dataclass(frozen=True, kw_only=True)
class Workload:
    """How a run trains. Raises ConfigError for what makes no sense."""

    hours: float
    """Of speech."""
    epochs: float = 1.0
    gpus: int = 1
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    precision: Literal["bf16", "fp32"] = "bf16"
    frames_per_batch: int = 12000
    """Feature frames (10 ms) of one GPU's batch."""
    accumulate: int = 1
    """Batches of an update, of all GPUs together; at least one for each of them."""
    seconds_per_utterance: float = 10.0
    tokens_per_second: float = 4.0
    device: Literal["cuda", "cpu"] = "cuda"
    """Whose kernels decide what is kept for the backward pass."""
    efficiency: float = ASSUMED_EFFICIENCY
    """Part of a GPU's peak rate that its forward and backward passes reach."""

    def __post_init__(self) -> None:
        for name in ("hours", "epochs", "gpus", "accumulate", "tokens_per_second"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be above 0, found {getattr(self, name)}")
        if not 0.1 <= self.seconds_per_utterance <= 3600:
            raise ConfigError(f"seconds_per_utterance must lie between 0.1 and 3600, not {self.seconds_per_utterance}")
        if self.frames_per_batch < self.frames_per_utterance:
            raise ConfigError(f"frames_per_batch {self.frames_per_batch} is less than one utterance")
        if not 0 < self.efficiency <= 1:
            raise ConfigError(f"efficiency must be above 0 and at most 1, found {self.efficiency}")

    @property
    def frames_per_utterance(self) -> int:
        """Feature frames of one utterance."""
        return round(FEATURE_FRAMES_PER_SECOND * self.seconds_per_utterance)

    @property
    def batch(self) -> BatchShape:
        """Of one GPU."""
        return BatchShape(
            utterances=self.frames_per_batch / self.frames_per_utterance,
            feature_frames=self.frames_per_utterance,
            tokens=self.tokens_per_second * self.seconds_per_utterance,
        )

    @property
    def batches_per_update(self) -> float:
        """Of one GPU."""
        return max(self.accumulate / self.gpus, 1.0)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one GPU."""

    weights: float
    """In fp32, this GPU's part."""
    copies: float
    """bf16 copies for products and, where weights are sharded, what is gathered at one time."""
    gradients: float
    """In fp32: this GPU's part; all of them between the batches of an update, and one block's while it is summed."""
    optimizer: float
    activations: float
    """That the backward pass needs, as the run keeps them, with the log-probabilities."""
    activations_kept: float
    """Without activation checkpointing."""
    activations_checkpointed: float
    """With it."""
    logits: float
    """Part of the activations: log-probabilities over the vocabulary for CTC and the decoders."""
    logits_gradient: float

    standing_gradients: float
    """What of the gradients is there before the backward pass: of earlier batches of the update, or DDP's buckets."""

    @property
    def peak(self) -> float:
        """When the backward pass begins or ends: gradients come as activations go."""
        begin = self.activations + self.logits_gradient + self.standing_gradients
        return self.weights + self.copies + self.optimizer + max(begin, self.gradients)


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes that one GPU sends to others in one update."""

    all_to_all: float
    """Frames on their way to experts and back, in both passes."""
    all_gather: float
    """Weights that are sharded."""
    reduce_scatter: float
    """Their gradients."""
    all_reduce: float
    """Gradients of what several GPUs hold."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.all_to_all + self.all_gather + self.reduce_scatter + self.all_reduce


@dataclass(frozen=True, kw_only=True)
class Time:
    """Seconds of one update by what takes them; 0 where the rate of a GPU is not known."""

    compute: float
    """Both passes, at the peak rate times the efficiency."""
    exchange: float
    """Frames to experts and back, while which nothing is computed."""
    weights_and_gradients: float
    """Their traffic, at best beside the passes."""
    optimizer: float
    """AdamW, at the memory's bandwidth."""

    @property
    def update(self) -> float:
        """All of it."""
        return max(self.compute + self.exchange, self.weights_and_gradients) + self.optimizer


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that is known before a run begins."""

    sizes: Sizes
    memory: Memory
    traffic: Traffic
    fits: bool
    forward_flops: float
    """Of the forward pass, for each second of audio; a multiplication and an addition are two."""
    step_flops: float
    """Of forward and backward pass, with recomputation if there is any, for each second of audio."""
    updates: float
    audio_per_update: float
    """Seconds, of all GPUs."""
    time: Time
    audio_per_second: float
    """Seconds of audio that each GPU has to be given in a second."""
    days: float


def make_plan(config: ModelConfig, workload: Workload, gpu: Gpu) -> Plan:
    """Plan a run. Raises ConfigError where the layout does not fit the number of GPUs or the experts."""
    layout = Layout.of(workload.parallel, workload.gpus)
    for experts in {config.encoder.feed_forward.num_experts, config.decoder.feed_forward.num_experts} - {0}:
        if experts % layout.expert:
            raise ConfigError(f"expert_parallel {layout.expert} does not divide the {experts} experts of a layer")
    sizes = count_parameters(config)
    if layout.expert > 1 and not sizes.experts:
        raise ConfigError("expert_parallel: the model has no experts")
    memory = _memory(config, sizes, layout, workload)
    traffic = _traffic(config, sizes, layout, workload)
    forward = forward_flops(config, workload.batch) / workload.seconds_per_utterance
    step = forward * (4 if workload.parallel.activation_checkpointing else 3)
    audio = workload.gpus * workload.batches_per_update * workload.frames_per_batch / FEATURE_FRAMES_PER_SECOND
    updates = 3600 * workload.hours * workload.epochs / audio
    compute = step * audio / (workload.gpus * gpu.flops(workload.precision) * workload.efficiency)
    time = _time(compute, sizes, traffic, layout, gpu)
    return Plan(
        sizes=sizes,
        memory=memory,
        traffic=traffic,
        fits=memory.peak <= USABLE * gpu.memory,
        forward_flops=forward,
        step_flops=step,
        updates=updates,
        audio_per_update=audio,
        time=time,
        audio_per_second=audio / workload.gpus / time.update,
        days=updates * time.update / 86400,
    )


def forward_flops(config: ModelConfig, batch: BatchShape) -> float:
    """Of one utterance's forward pass with both losses; backward passes take twice as many."""
    experts = config.encoder.feed_forward.num_experts or 1
    encoder = encoder_work(config, batch.frames, 0, [1 / experts] * experts, ctc=True)
    return 2 * (encoder.products + encoder.attention + decoder_products(config, batch.frames, batch.places))


def _own(sizes: Sizes, layout: Layout) -> float:
    """Parameters whose masters and moments one GPU holds: dense ones are shared by `shard` GPUs, experts by
    `expert` times `expert_shard`."""
    return (sizes.total - sizes.experts) / layout.shard + sizes.experts / (layout.expert * layout.expert_shard)


def _time(compute: float, sizes: Sizes, traffic: Traffic, layout: Layout, gpu: Gpu) -> Time:
    def seconds(sent: float, group: int) -> float:
        rate = gpu.rate(group)
        return sent / rate if rate else 0.0

    sharded = traffic.all_gather + traffic.reduce_scatter
    return Time(
        compute=compute,
        exchange=seconds(traffic.all_to_all, layout.expert),
        weights_and_gradients=seconds(sharded, layout.shard) + seconds(traffic.all_reduce, layout.size),
        optimizer=ADAMW_TRAFFIC * _own(sizes, layout) / gpu.bandwidth if gpu.bandwidth else 0.0,
    )


def _memory(config: ModelConfig, sizes: Sizes, layout: Layout, workload: Workload) -> Memory:
    types = Types.of(workload.precision, workload.device)
    kept: Activations = activations(config, workload.batch, types)
    checkpointing = workload.parallel.activation_checkpointing
    own, whole = _own(sizes, layout), sizes.total - sizes.experts + sizes.experts / layout.expert
    block = sizes.largest_block[0] - sizes.largest_block[1] * (1 - 1 / layout.expert)
    gradients = FP32 * own
    accumulates = workload.batches_per_update > 1
    copies = 0.0
    if layout.shard > 1:
        # FSDP2: what is outside of blocks stays gathered; of the blocks, the one at work and the next.
        copies = types.product * (sizes.outside + 2 * block)
        gradients = FP32 * whole if accumulates else gradients + FP32 * block
    elif types.product != FP32:
        # Autocast remembers its copies until the forward pass is over, those of experts until the backward pass.
        experts_again = sizes.largest_block[1] if checkpointing else sizes.experts
        copies = types.product * (sizes.total - sizes.experts + experts_again / layout.expert)
    return Memory(
        weights=FP32 * own,
        copies=copies,
        gradients=gradients,
        optimizer=ADAMW_STATE * own,
        activations=kept.total(checkpointing),
        activations_kept=kept.total(False),
        activations_checkpointed=kept.total(True),
        logits=kept.logits,
        logits_gradient=kept.logits_gradient,
        standing_gradients=gradients if accumulates or layout.size > layout.shard == 1 else 0.0,
    )


def _traffic(config: ModelConfig, sizes: Sizes, layout: Layout, workload: Workload) -> Traffic:
    """Of n GPUs each sends (n - 1) / n of its data in an all-to-all, (n - 1) / n of the whole in an all-gather or a
    reduce-scatter, and twice that in an all-reduce, as a ring does (Patarasuk and Yuan 2009)."""
    product = Types.of(workload.precision, workload.device).product
    batch, batches = workload.batch, workload.batches_per_update
    rows = 0.0
    reverse = config.decoder.num_reverse_blocks if config.reverse_weight > 0 else 0
    for feed_forward, layers, frames in (
        (config.encoder.feed_forward, 2 * config.encoder.num_blocks, batch.frames),
        (config.decoder.feed_forward, config.decoder.num_blocks + reverse, batch.places),
    ):
        if feed_forward.num_experts:
            rows += layers * batch.utterances * frames * feed_forward.top_k
    passes = 6 if workload.parallel.activation_checkpointing else 4  # there and back, as values and as gradients
    dense, experts = sizes.total - sizes.experts, sizes.experts / layout.expert
    gathered = _others(layout.shard) * (2 * dense - sizes.outside) + _others(layout.expert_shard) * 2 * experts
    scattered = _others(layout.shard) * dense + _others(layout.expert_shard) * experts
    copies = layout.size // layout.shard, layout.size // (layout.expert * layout.expert_shard)
    reduced = _others(copies[0]) * dense / layout.shard + _others(copies[1]) * experts / layout.expert_shard
    return Traffic(
        all_to_all=batches * passes * rows * config.encoder.dim * product * _others(layout.expert),
        all_gather=batches * product * gathered,
        reduce_scatter=FP32 * scattered,
        all_reduce=2 * FP32 * reduced,
    )


def _others(size: int) -> float:
    return (size - 1) / size
