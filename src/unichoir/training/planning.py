"""The predicted cost of a training run: memory of each GPU, traffic between GPUs, updates and days.

Everything is computed from the model's sizes for utterances of equal length, an even load of experts, and batches
without padding. Parameters, gradients and optimizer state are exact. `activations.py` predicts what autograd keeps. The
layout follows `parallel.py`. Time is the work divided by the data sheet's peak rate and an efficiency, which you have
to know (measurements are in `docs/results/planning.md`), and the traffic divided by the rate of the links.
"""

from dataclasses import dataclass, field
from typing import Literal

from unichoir.errors import ConfigError
from unichoir.network.config import EncoderConfig, ModelConfig
from unichoir.network.counts import decoder_products, encoder_work
from unichoir.network.sizes import Sizes, count_parameters
from unichoir.training.accelerators import ASSUMED_EFFICIENCY, Gpu
from unichoir.training.activations import Activations, BatchShape, Types, activations
from unichoir.training.parallel import Layout, ParallelConfig

FP32 = 4
ADAMW_STATE = 2 * FP32
"""Bytes of the two fp32 moments of each parameter."""
ADAMW_TRAFFIC = 7 * FP32
"""Bytes per parameter that a fused update reads (weight, gradient, moments) and writes (all but gradients)."""
USABLE = 0.9
"""Usable fraction of a GPU's memory. The rest is assumed for driver, libraries and fragmentation."""
FEATURE_FRAMES_PER_SECOND = 100


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The settings of a planned run. Raises ConfigError for invalid values."""

    hours: float
    """Hours of speech."""
    epochs: float = 1.0
    gpus: int = 1
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    precision: Literal["bf16", "fp32"] = "bf16"
    frames_per_batch: int = 12000
    """Feature frames (10 ms) in a batch of one GPU."""
    accumulate: int = 1
    """Batches per update over all GPUs; at least one per GPU."""
    seconds_per_utterance: float = 10.0
    tokens_per_second: float = 4.0
    device: Literal["cuda", "cpu"] = "cuda"
    """Device whose kernels determine what is kept for the backward pass."""
    efficiency: float = ASSUMED_EFFICIENCY
    """Fraction of a GPU's peak rate that the forward and backward passes reach."""

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

    def batch(self, encoder: EncoderConfig) -> BatchShape:
        """Return the batch of one GPU."""
        return BatchShape(
            utterances=self.frames_per_batch / self.frames_per_utterance,
            feature_frames=self.frames_per_utterance,
            frames=encoder.num_frames(self.frames_per_utterance),
            tokens=self.tokens_per_second * self.seconds_per_utterance,
        )

    @property
    def batches_per_update(self) -> float:
        """Batches per update of one GPU."""
        return max(self.accumulate / self.gpus, 1.0)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory of one GPU in bytes."""

    weights: float
    """This GPU's part of the fp32 weights."""
    copies: float
    """bf16 copies for products and, if weights are sharded, the weights gathered at one time."""
    gradients: float
    """fp32 gradients: this GPU's part, all of them between the batches of an update, and one block's during the
    summation."""
    optimizer: float
    activations: float
    """Activations for the backward pass as the run keeps them, including log-probabilities."""
    activations_kept: float
    """Activations without activation checkpointing."""
    activations_checkpointed: float
    """Activations with activation checkpointing."""
    logits: float
    """Part of the activations: log-probabilities over the vocabulary for CTC and the decoders."""
    logits_gradient: float

    standing_gradients: float
    """Gradients that exist before the backward pass: from earlier batches of the update, or DDP's buckets."""

    @property
    def peak(self) -> float:
        """The peak, when the backward pass starts or ends: gradients grow while activations are freed."""
        begin = self.activations + self.logits_gradient + self.standing_gradients
        return self.weights + self.copies + self.optimizer + max(begin, self.gradients)


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes that one GPU sends to others in one update."""

    all_to_all: float
    """Frames that travel to experts and back, in both passes."""
    all_gather: float
    """Sharded weights."""
    reduce_scatter: float
    """Gradients of sharded weights."""
    all_reduce: float
    """Gradients of weights that several GPUs hold."""

    @property
    def total(self) -> float:
        """The total."""
        return self.all_to_all + self.all_gather + self.reduce_scatter + self.all_reduce


@dataclass(frozen=True, kw_only=True)
class Time:
    """Seconds of one update by cause; 0 if the GPU's rate is unknown."""

    compute: float
    """Both passes, at the peak rate times the efficiency."""
    exchange: float
    """Transfer of frames to experts and back, during which nothing is computed."""
    weights_and_gradients: float
    """Transfer of weights and gradients, at best concurrent with the passes."""
    optimizer: float
    """AdamW, at the memory bandwidth."""

    @property
    def update(self) -> float:
        """The total."""
        return max(self.compute + self.exchange, self.weights_and_gradients) + self.optimizer


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The predictions for a run."""

    sizes: Sizes
    memory: Memory
    traffic: Traffic
    fits: bool
    forward_flops: float
    """FLOPs of the forward pass per second of audio, counting multiplications and additions."""
    step_flops: float
    """FLOPs of forward and backward pass, including recomputation, per second of audio."""
    updates: float
    audio_per_update: float
    """Seconds of audio per update over all GPUs."""
    time: Time
    audio_per_second: float
    """Seconds of audio that each GPU has to receive per second."""
    days: float


def make_plan(config: ModelConfig, workload: Workload, gpu: Gpu) -> Plan:
    """Plan a run. Raises ConfigError if the layout doesn't fit the number of GPUs or the experts."""
    layout = Layout.of(workload.parallel, workload.gpus)
    for experts in {config.encoder.feed_forward.num_experts, config.decoder.feed_forward.num_experts} - {0}:
        if experts % layout.expert:
            raise ConfigError(f"expert_parallel {layout.expert} does not divide the {experts} experts of a layer")
    sizes = count_parameters(config)
    if layout.expert > 1 and not sizes.experts:
        raise ConfigError("expert_parallel: the model has no experts")
    memory = _memory(config, sizes, layout, workload)
    traffic = _traffic(config, sizes, layout, workload)
    forward = forward_flops(config, workload.batch(config.encoder)) / workload.seconds_per_utterance
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
    """Return the FLOPs of one utterance's forward pass with both losses. Backward passes take twice as many."""
    experts = config.encoder.feed_forward.num_experts or 1
    encoder = encoder_work(config, batch.frames, 0, [1 / experts] * experts, ctc=True)
    return 2 * (encoder.products + encoder.attention + decoder_products(config, batch.frames, batch.places))


def _own(sizes: Sizes, layout: Layout) -> float:
    """Return the parameters whose master weights and moments one GPU holds.

    `shard` GPUs share dense parameters; `expert` times `expert_shard` GPUs share experts.
    """
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
    kept: Activations = activations(config, workload.batch(config.encoder), types)
    checkpointing = workload.parallel.activation_checkpointing
    own, whole = _own(sizes, layout), sizes.total - sizes.experts + sizes.experts / layout.expert
    block = sizes.largest_block[0] - sizes.largest_block[1] * (1 - 1 / layout.expert)
    gradients = FP32 * own
    accumulates = workload.batches_per_update > 1
    copies = 0.0
    if layout.shard > 1:
        # FSDP2 keeps weights outside of blocks gathered, and for the blocks the current and the next one.
        copies = types.product * (sizes.outside + 2 * block)
        gradients = FP32 * whole if accumulates else gradients + FP32 * block
    elif types.product != FP32:
        # Autocast keeps its copies until the end of the forward pass, and those of experts until the backward pass.
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
    """Return the traffic of one GPU.

    Each of n GPUs sends (n - 1) / n of its data in an all-to-all, (n - 1) / n of the total in an all-gather or
    reduce-scatter, and twice that in an all-reduce, as a ring does (Patarasuk and Yuan 2009).
    """
    product = Types.of(workload.precision, workload.device).product
    batch, batches = workload.batch(config.encoder), workload.batches_per_update
    rows, in_block = 0.0, 2 if config.encoder.block == "conformer" else 1
    reverse = config.decoder.num_reverse_blocks if config.reverse_weight > 0 else 0
    for feed_forward, layers, frames in (
        (config.encoder.feed_forward, in_block * config.encoder.num_blocks, batch.frames),
        (config.decoder.feed_forward, config.decoder.num_blocks + reverse, batch.places),
    ):
        if feed_forward.num_experts:
            rows += layers * batch.utterances * frames * feed_forward.top_k
    passes = 6 if workload.parallel.activation_checkpointing else 4  # to experts and back, values and gradients
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
