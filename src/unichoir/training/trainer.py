"""Training: `train` is the entry, `Trainer.run` the loop, `Trainer.update` the step.

Everything random is drawn from a generator seeded by the run's seed and a place: dropout by the update, chunk sizes by
the batch, order and augmentation by epoch and utterance. So a resumed run repeats an uninterrupted one without
the state of any generator: to the bit, on a CPU with the same number of threads.
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from unichoir.configuration import to_mapping
from unichoir.data.dataset import Batch, encoder_frames
from unichoir.errors import ConfigError, TrainingError
from unichoir.model.asr_model import AsrModel
from unichoir.model.checkpoint import load_weights, save_checkpoint
from unichoir.model.masks import ChunkMask, draw_dynamic_chunk
from unichoir.model.moe import expert_load
from unichoir.stopping import StopRequest
from unichoir.training.checkpointing import (
    BestCheckpoint,
    Progress,
    average_weights,
    load_state,
    rank,
    remove_strays,
    save_state,
    write_directory,
)
from unichoir.training.config import ExperimentConfig, experiment_from_mapping, first_difference
from unichoir.training.feeding import BatchRequest, Loaded, endless_requests, groups, load, requests
from unichoir.training.metrics import RunningMeans, Stopwatch, clock_time
from unichoir.training.optim import build_optimizer, clip_gradient, learning_rate, set_learning_rate
from unichoir.training.reporting import Reporter
from unichoir.training.setup import Setup, new_model, prepare
from unichoir.training.validation import Validation, to_device, validate

STATE = "state.pt"
FIGURES = ("loss", "ctc", "attention", "gradient")
"""What an update measures; gradient is its norm before clipping."""


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """How a run ended."""

    finished: bool
    """False: stopped by a signal; the same call continues it."""
    step: int
    best: tuple[BestCheckpoint, ...]
    average: Path | None
    """The checkpoint directory to use; None when not finished."""
    skipped: dict[str, str]
    """Utterances that could not be used, by key, and why."""


def train(
    config: ExperimentConfig,
    train_manifests: Sequence[str | os.PathLike[str]],
    dev_manifests: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    stop: StopRequest | None = None,
) -> TrainingResult:
    """Train a model, or continue where an earlier call with the same configuration, data and output was stopped.

    `output` receives `config.yaml`, `train.log`, `tensorboard/`, `state.pt` (to continue from), the best checkpoints
    `step-NNNNNNNN/` and, at the end, their average `average/`; the last two are checkpoint directories.
    SIGINT and SIGTERM end the run after the update at hand with a checkpoint.
    Raises ConfigError, ManifestError, TokenizerError or CheckpointError for inputs that do not fit, and TrainingError
    when a loss is not finite or no utterance can be used.
    """
    if config.trainer.num_threads:
        torch.set_num_threads(config.trainer.num_threads)
    # Read by oneDNN at its first product: compiled kernels for the many shapes of batches, or they are made again.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "4096")
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    with Reporter(folder) as report:
        setup = prepare(config, train_manifests, dev_manifests)
        return Trainer(setup, folder, report, StopRequest() if stop is None else stop).run()


class Trainer:
    """A run: model, optimizer and progress, all of which `state.pt` holds."""

    def __init__(self, setup: Setup, output: Path, report: Reporter, stop: StopRequest) -> None:
        self.setup, self.output, self.report, self.stop = setup, output, report, stop
        self.config, self.device = setup.config, setup.device
        state = read_state(setup, output)
        if state is None:
            self.model = new_model(setup, output, report.line).to(self.device)
            self.progress = Progress()
        else:
            self.model = AsrModel(self.config.model).to(self.device)
            load_weights(self.model, state["model"], output / STATE)
            self.progress = Progress.from_state(state["progress"])
        self.optimizer = build_optimizer(self.model, self.config.optim)
        if state is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        remove_strays(output, self.progress.best)
        (output / "config.yaml").write_text(yaml.safe_dump(to_mapping(self.config), sort_keys=False), encoding="utf-8")
        dev_requests = list(requests(setup.dev, 0, shuffle=False))
        self.dev_batches = load(setup.dev, dev_requests, min(1, self.config.trainer.num_workers))
        self.stopwatch = Stopwatch(self.done(), self.progress.seconds)
        self.means, self.summary = RunningMeans(), "starting"
        self.saved_step, self.saved_seconds = self.progress.step, self.progress.seconds

    def run(self) -> TrainingResult:
        """Train to the planned end, through the time budget, or until a signal."""
        with self.stop:
            self.announce()
            self.note_skipped(self.setup.skipped)
            batches = self.training_batches()
            while not self.stop:
                if self.validation_is_due():
                    self.validate()
                elif self.is_over():
                    return self.finish()
                else:
                    self.update(next(batches))
                    self.log()
                    if self.checkpoint_is_due():
                        self.save()
            self.save()
            self.report.line(f"{self.stop.reason}: stopped after update {self.progress.step}; run it again to continue")
            return self.result(average=None)

    def update(self, group: list[Loaded]) -> None:
        """One step of the optimizer, on the mean loss over the utterances of all batches in the group."""
        config, step = self.config, self.progress.step + 1
        loaded = [(item.request, item.batch) for item in group if item.batch is not None]
        if loaded:
            torch.manual_seed(seed_of(config.trainer.seed, step))
            self.optimizer.zero_grad(set_to_none=True)
            num_utterances = sum(len(batch.keys) for _, batch in loaded)
            losses = torch.zeros(3, device=self.device)
            for request, batch in loaded:
                chunk = self.draw_chunk(request, batch)
                with self.autocast():
                    output = self.model(*to_device(batch, self.device), chunk)
                share = len(batch.keys) / num_utterances
                (output.loss * share).backward()
                losses += share * torch.stack([output.loss, output.ctc, output.attention]).detach()
            norm = clip_gradient(self.model.parameters(), config.optim.grad_clip)
            # The one wait for the device: before the weights can take in what is not finite.
            figures = dict(zip(FIGURES, torch.cat([losses, norm.reshape(1)]).tolist(), strict=True))
            check_finite(figures, step, [key for _, batch in loaded for key in batch.keys])
            figures["learning_rate"] = learning_rate(config.optim, step, self.done())
            set_learning_rate(self.optimizer, figures["learning_rate"])
            self.optimizer.step()
            self.progress.step = step
            self.means.add(figures)
        self.advance(group)

    def training_batches(self) -> Iterator[list[Loaded]]:
        """The batches of each update from where the run stands, without end."""
        trainer, progress = self.config.trainer, self.progress
        wanted = endless_requests(self.setup.train, progress.epoch, progress.batch)
        return groups(self.noting_skipped(load(self.setup.train, wanted, trainer.num_workers)), trainer.accumulate)

    def autocast(self) -> AbstractContextManager[object]:
        enabled = self.config.trainer.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def draw_chunk(self, request: BatchRequest, batch: Batch) -> ChunkMask | None:
        """The dynamic chunk of one batch (U2++, section 2.2)."""
        rng = np.random.default_rng([self.config.trainer.seed, request.epoch, request.batch])
        max_frames = encoder_frames(int(batch.feats_lengths.max()))
        return draw_dynamic_chunk(rng, max_frames, self.config.model.dynamic_left_chunks)

    def advance(self, group: list[Loaded]) -> None:
        """Note what is behind us now."""
        progress, last = self.progress, group[-1].request
        for item in group:
            if item.batch is not None:
                seconds = float(item.batch.feats_lengths.sum()) * self.config.fbank.frame_shift_ms / 1000
                progress.audio_seconds += seconds
                self.stopwatch.add_audio(seconds)
        progress.epoch, progress.batch = (last.epoch + 1, 0) if last.is_last else (last.epoch, last.batch + 1)
        progress.epochs_done = last.epoch + (last.batch + 1) / last.num_batches
        if last.is_last and not progress.step:
            key, reason = next(iter(progress.skipped.items()))
            raise TrainingError(f"no training utterance can be used; {key}: {reason}")

    def noting_skipped(self, loaded: Iterable[Loaded]) -> Iterator[Loaded]:
        for item in loaded:
            self.note_skipped(item.skipped)
            yield item

    def note_skipped(self, skipped: Mapping[str, str]) -> None:
        """Name each utterance that cannot be used once in the whole run."""
        for key, reason in skipped.items():
            if key not in self.progress.skipped:
                self.progress.skipped[key] = reason
                self.report.line(f"skipped {key}: {reason}")

    def done(self) -> float:
        """The fraction of the planned training that is behind us."""
        trainer, progress = self.config.trainer, self.progress
        by_epoch = progress.epochs_done / trainer.max_epochs if trainer.max_epochs else 0.0
        by_step = progress.step / trainer.max_steps if trainer.max_steps else 0.0
        return max(by_epoch, by_step)

    def is_over(self) -> bool:
        minutes = self.config.trainer.max_minutes
        return self.done() >= 1 or (minutes is not None and self.stopwatch.spent() >= 60 * minutes)

    def validation_is_due(self) -> bool:
        progress, every = self.progress, self.config.trainer.validate_every
        if progress.step == progress.validated_step:
            return False
        return self.is_over() or (progress.step % every == 0 if every else progress.batch == 0)

    def validate(self) -> None:
        """Measure the model on dev and keep it if it is among the best; left undone when a signal comes meanwhile."""
        progress, trainer = self.progress, self.config.trainer
        measured = self.measure(f"update {progress.step}")
        if measured is None:
            return
        self.report.figures("dev", asdict(measured), progress.step)
        progress.validated_step = progress.step
        new = BestCheckpoint(step=progress.step, score=getattr(measured, trainer.select_by), loss=measured.loss)
        progress.best = rank(progress.best, new, trainer.keep_best)
        if new in progress.best:
            write_directory(self.output / new.name, self.write_checkpoint)
        self.save()
        # Only now: the state on disk names no checkpoint that is gone.
        remove_strays(self.output, progress.best)

    def measure(self, name: str) -> Validation | None:
        """Measure the model on dev; None when a signal comes meanwhile."""
        batches = self.noting_skipped(self.dev_batches)
        measured = validate(self.model, batches, self.setup.tokenizer, self.autocast, lambda: bool(self.stop))
        expert_load(self.model, reset=True)
        if measured is not None:
            rates = f"token errors {measured.ter:.2%}, word errors {measured.wer:.2%}"
            self.report.line(f"dev, {name}: loss {measured.loss:.3f}, ctc {measured.ctc:.3f}, greedy {rates}")
        return measured

    def finish(self) -> TrainingResult:
        """Average the best checkpoints and measure the average."""
        self.save()
        progress = self.progress
        best = progress.best[: self.config.trainer.average_best]
        if not best:
            raise TrainingError("the time budget is over before the first update")
        weights = average_weights([self.output / entry.name for entry in best])
        load_weights(self.model, weights, self.output / best[0].name)
        average = self.output / "average"
        write_directory(average, self.write_checkpoint)
        self.report.line(f"{average}: average of updates {', '.join(str(entry.step) for entry in best)}")
        self.measure("average")
        self.report.line(
            f"finished: {progress.step} updates, {progress.epochs_done:.1f} epochs, {clock_time(progress.seconds)}, "
            f"{progress.audio_seconds / 3600:.2f} h of speech, {len(progress.skipped)} utterances skipped"
        )
        return self.result(average)

    def result(self, average: Path | None) -> TrainingResult:
        progress = self.progress
        return TrainingResult(
            finished=average is not None,
            step=progress.step,
            best=tuple(progress.best),
            average=average,
            skipped=dict(progress.skipped),
        )

    def write_checkpoint(self, directory: Path) -> None:
        save_checkpoint(directory, self.model, {"fbank": to_mapping(self.config.fbank)})
        self.setup.tokenizer.save(directory)

    def checkpoint_is_due(self) -> bool:
        trainer, steps = self.config.trainer, self.progress.step - self.saved_step
        late = self.stopwatch.spent() - self.saved_seconds >= trainer.checkpoint_every_seconds
        return late or 0 < trainer.checkpoint_every_steps <= steps

    def save(self) -> None:
        """Make everything so far survive."""
        self.progress.seconds = self.stopwatch.spent()
        state = {
            "config": to_mapping(self.config),
            "fingerprint": self.setup.fingerprint,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": self.progress.to_state(),
        }
        save_state(self.output / STATE, state)
        self.saved_step, self.saved_seconds = self.progress.step, self.progress.seconds

    def announce(self) -> None:
        setup, progress = self.setup, self.progress
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.report.line(
            f"{'continuing after' if progress.step else 'starting at'} update {progress.step}: "
            f"{parameters / 1e6:.1f}M parameters, {len(setup.train.utterances)} training and "
            f"{len(setup.dev.utterances)} dev utterances, {self.device.type} {self.config.trainer.precision}"
        )

    def log(self) -> None:
        """The progress line; every `log_every` updates also a line of the log and TensorBoard."""
        progress = self.progress
        remaining = clock_time(self.stopwatch.remaining(self.done()))
        place = f"epoch {progress.epochs_done:.2f} update {progress.step}"
        self.report.progress(f"{self.summary} | {place} | {remaining} left", self.done())
        if progress.step % self.config.trainer.log_every or not (means := self.means.take()):
            return
        means["audio_seconds_per_second"] = self.stopwatch.take_speed()
        self.report.figures("train", means, progress.step)
        self.report.expert_loads(expert_load(self.model, reset=True), progress.step)
        self.summary = (
            f"loss {means['loss']:.3f} ctc {means['ctc']:.3f} attention {means['attention']:.3f} "
            f"gradient {means['gradient']:.2f} rate {means['learning_rate']:.2e} "
            f"{means['audio_seconds_per_second']:.0f} s/s"
        )
        self.report.line(f"{place}: {self.summary}, {remaining} left")


def read_state(setup: Setup, output: Path) -> dict[str, Any] | None:
    """The stored state of this very run; None if it has not begun. Raises ConfigError if it belongs to another run."""
    path = output / STATE
    if not path.exists():
        return None
    state = load_state(path, setup.device)
    difference = first_difference(experiment_from_mapping(state["config"], str(path)), setup.config)
    if difference is not None:
        raise ConfigError(f"{output} holds a run with another configuration: {difference}")
    if state["fingerprint"] != setup.fingerprint:
        raise ConfigError(f"{output} holds a run on other training utterances")
    return state


def seed_of(seed: int, step: int) -> int:
    """A seed for all that update number `step` draws from torch's own generators: dropout."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


def check_finite(figures: Mapping[str, float], step: int, keys: Sequence[str]) -> None:
    """TrainingError naming the batch when one of its figures is not finite."""
    wrong = [f"{name} is {value}" for name, value in figures.items() if not math.isfinite(value)]
    if wrong:
        raise TrainingError(f"update {step}: {', '.join(wrong)}; utterances: {' '.join(keys)}")
