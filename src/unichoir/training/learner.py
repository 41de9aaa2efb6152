"""The training step: from the batches of an update to new weights, together with all other processes."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from unichoir.data.dataset import Batch
from unichoir.errors import TrainingError
from unichoir.network.asr_model import AsrModel
from unichoir.network.config import draw_top_k
from unichoir.network.masks import ChunkMask, draw_dynamic_chunk
from unichoir.network.moe import balance_experts, recomputing
from unichoir.training.config import ExperimentConfig
from unichoir.training.distillation import Teacher
from unichoir.training.feeding import BatchRequest, Loaded
from unichoir.training.optim import build_optimizer, clip_gradient, freeze_parts, learning_rate, set_learning_rate
from unichoir.training.parallel import Spread
from unichoir.training.validation import empty_batch, to_device
from unichoir.training.world import World

LOSSES = ("loss", "ctc", "attention", "load", "teacher")


class Learner:
    """A model in training, distributed over the processes, with its optimizer."""

    def __init__(self, model: AsrModel, config: ExperimentConfig, world: World, teacher: Teacher | None = None) -> None:
        self.model, self.config, self.world, self.teacher = model, config, world, teacher
        freeze_parts(model, config.optim)
        self.spread = Spread(model, config.parallel, world, config.trainer.precision)
        self.optimizer = build_optimizer(model, config.optim)

    def update(self, group: Sequence[Loaded], num_utterances: int, step: int, done: float) -> dict[str, float]:
        """Make one optimizer step on the mean loss over the utterances of all batches of all processes.

        group: the batches of this process; num_utterances: the number over all processes; done: the completed fraction
        of the planned training.
        Returns the losses of the update, the gradient norm before clipping, and the learning rate. If one of them is
        not finite, raises TrainingError, naming the utterances, and keeps the weights unchanged.
        """
        self.optimizer.zero_grad(set_to_none=True)
        losses = torch.zeros(len(LOSSES), device=self.world.device)
        for place, item in enumerate(group):
            with self.spread.summing_gradients(place + 1 == len(group)):
                losses += self.learn(item, num_utterances)
        norm = clip_gradient(self.model.parameters(), self.config.optim.grad_clip)
        losses = self.world.total(losses)
        # The only wait for the device. It precedes the update of the weights, which must not use values that are not
        # finite.
        figures = dict(zip((*LOSSES, "gradient"), torch.cat([losses, norm.reshape(1)]).tolist(), strict=True))
        self.check_finite(figures, group, step)
        figures["learning_rate"] = learning_rate(self.config.optim, step, done)
        set_learning_rate(self.optimizer, figures["learning_rate"])
        self.optimizer.step()
        balance_experts(self.model, self.world.total)
        return figures

    def learn(self, item: Loaded, num_utterances: int) -> Tensor:
        """Add the gradient of one batch. Returns its share of the losses of the update, in the order of LOSSES."""
        request, batch = item.request, item.batch
        if batch is None:
            if self.world.size > 1:
                self.take_part()
            return torch.zeros(len(LOSSES), device=self.world.device)
        seed = self.config.trainer.seed
        torch.manual_seed(seed_of(seed, request))
        chunk, top_k = self.draw(request, batch)
        inputs = to_device(batch, self.world.device)
        with self.autocast():
            output = self.spread(*inputs, chunk, top_k)
            distance = torch.zeros_like(output.loss)
            if self.teacher:
                distance = self.teacher.weight * self.teacher.distance(*inputs[:2])
        share_of_update = len(batch.keys) / num_utterances
        loss = output.loss + distance
        (loss * share_of_update).backward()
        return share_of_update * torch.stack([loss, output.ctc, output.attention, output.load, distance]).detach()

    def take_part(self) -> None:
        """Run empty passes, because other processes wait for this one in their forward and backward passes."""
        with self.autocast(), recomputing():
            output = self.spread(*to_device(empty_batch(self.config.model.encoder.input_dim), self.world.device))
        (output.loss * 0.0).backward()

    def draw(self, request: BatchRequest, batch: Batch) -> tuple[ChunkMask | None, Tensor | None]:
        """Draw a batch's dynamic chunk (U2++, section 2.2) and, if configured, its number of experts per frame."""
        rng = np.random.default_rng([self.config.trainer.seed, request.epoch, request.batch, request.window])
        max_frames = self.config.model.encoder.num_frames(int(batch.feats_lengths.max()))
        model = self.config.model
        chunk = draw_dynamic_chunk(
            rng, max_frames, model.dynamic_left_chunks, model.min_chunk_size, model.chunk_probability
        )
        top_k = draw_top_k(rng, self.config.model)
        return chunk, None if top_k is None else torch.tensor([top_k], device=self.world.device)

    def autocast(self) -> AbstractContextManager[object]:
        enabled = self.config.trainer.precision == "bf16"
        return torch.autocast(self.world.device.type, dtype=torch.bfloat16, enabled=enabled)

    def check_finite(self, figures: Mapping[str, float], group: Sequence[Loaded], step: int) -> None:
        """Raise TrainingError, naming the utterances of the update, if one of its figures is not finite."""
        wrong = [f"{name} is {value}" for name, value in figures.items() if not math.isfinite(value)]
        if wrong:
            own = [key for item in group if item.batch is not None for key in item.batch.keys]
            keys = [key for part in self.world.gather_objects(own) for key in part]
            raise TrainingError(f"update {step}: {', '.join(wrong)}; utterances: {' '.join(keys)}")


def seed_of(seed: int, request: BatchRequest) -> int:
    """Return a seed for all that a batch draws from torch's own generators, which is dropout."""
    place = np.random.SeedSequence([seed, request.epoch, request.window, request.batch])
    return int(place.generate_state(1)[0])
