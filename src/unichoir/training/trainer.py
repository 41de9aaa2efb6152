"""Training: `train` is the entry point, `Trainer.run` the loop, `Learner.update` the step.

All random values come from generators seeded by the run's seed and a place: the order by epoch and window, augmentation
by epoch and utterance, chunk sizes, experts and dropout by batch. Therefore a continued run repeats an uninterrupted
one without storing generators, to the bit on a CPU with the same number of threads. Several processes learn the same as
one, to the order of summation.
"""

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import yaml

from unichoir.bundle.replacing import NO_ROOM, replace_text, replacing_directory, writing
from unichoir.configuration import to_mapping
from unichoir.errors import CheckpointError, ConfigError, TrainingError
from unichoir.network.asr_model import AsrModel
from unichoir.network.checkpoint import save_checkpoint
from unichoir.network.moe import expert_load
from unichoir.stopping import StopRequest
from unichoir.training.card import training_card
from unichoir.training.checkpointing import (
    BestCheckpoint,
    Progress,
    average_weights,
    rank,
    remove_strays,
)
from unichoir.training.config import ExperimentConfig, experiment_from_mapping, first_difference
from unichoir.training.feeding import (
    Loaded,
    Position,
    groups,
    load,
    requests,
    share,
    training_requests,
)
from unichoir.training.learner import Learner
from unichoir.training.metrics import Stopwatch, clock_time
from unichoir.training.plot import plot_training
from unichoir.training.reporting import Reporter
from unichoir.training.run_log import RunLog
from unichoir.training.setup import Setup, load_teacher, new_model, pick_device, prepare
from unichoir.training.state import StateFolder, training_tensors
from unichoir.training.validation import Validation, validate
from unichoir.training.world import World, join_world


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The outcome of a run."""

    finished: bool
    """False if a signal stopped the run; the same call continues it."""
    step: int
    best: tuple[BestCheckpoint, ...]
    average: Path | None
    """The final checkpoint directory; None if not finished."""
    skipped: dict[str, str]
    """Utterances and shards that could not be used, by key, and the reasons."""


def train(
    config: ExperimentConfig,
    train_manifests: Sequence[str | os.PathLike[str]],
    dev_manifests: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    stop: StopRequest | None = None,
) -> TrainingResult:
    """Train a model, or continue an interrupted run with the same configuration, data and output.

    `output` receives `config.yaml`, `train.log`, `tensorboard/`, `state/` (for continuing), the best checkpoint
    directories `step-NNNNNNNN/` and, at the end, their average `average/` and `training.png`. A process started by
    torchrun trains together with the others, which must see the same `output`. SIGINT and SIGTERM end the run with a
    checkpoint after the current update.
    Raises ConfigError, ManifestError, TokenizerError or CheckpointError for invalid inputs. Raises TrainingError if a
    loss is not finite, no utterance can be used or the disk is full; when there is space, the same call continues the
    run.
    """
    if config.trainer.num_threads:
        torch.set_num_threads(config.trainer.num_threads)
    # oneDNN reads this at its first product. The default is too small for the many shapes of batches, whose kernels
    # would be compiled again.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "50000")
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    with _going_on_when_there_is_room(folder), join_world(pick_device(config.trainer.device)) as world:
        reporter = Reporter(
            folder,
            active=world.is_first,
            wandb_project=config.trainer.wandb_project,
            run_config=to_mapping(config),
        )
        with reporter as report:
            setup = prepare(config, train_manifests, dev_manifests)
            return Trainer(setup, folder, report, StopRequest() if stop is None else stop, world).run()


@contextmanager
def _going_on_when_there_is_room(folder: Path) -> Iterator[None]:
    """Turn the error for a full disk into advice about the run in `folder`."""
    try:
        with writing(folder):
            yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        advice = "free some space and start the run again; it continues from its last checkpoint"
        raise TrainingError(f"{error.filename}: {error.strerror}: {advice}") from None


class Trainer:
    """A run in one of its processes: model, optimizer and progress, all of which `state/` holds."""

    def __init__(self, setup: Setup, output: Path, report: Reporter, stop: StopRequest, world: World) -> None:
        self.setup, self.output, self.report, self.stop, self.world = setup, output, report, stop, world
        self.config, self.device = setup.config, world.device
        self.states = StateFolder(output / "state", world)
        found = find_state(setup, self.states, report)
        if found is None:
            self.model = new_model(setup, output, report.line, world).to(self.device)
            self.progress = Progress(batches_per_update=max(self.config.trainer.accumulate, world.size))
        else:
            self.model = AsrModel(self.config.model).to(self.device)
            self.progress = found[1]
        teacher = load_teacher(self.config, self.model.encoder, self.device)
        self.learner = Learner(self.model, self.config, world, teacher)
        if found is not None:
            self.states.read(found[0], training_tensors(self.model, self.learner.optimizer))
        if world.is_first:
            remove_strays(output, self.progress.best)
            text = yaml.safe_dump(to_mapping(self.config), sort_keys=False)
            replace_text(output / "config.yaml", text)
        planned = requests(setup.dev_corpus, setup.dev.reader, Position(), shuffle=False)
        own = share(list(planned), world.rank, world.size)
        self.dev_batches = load(setup.dev, own, min(1, self.config.trainer.num_workers))
        self.log = RunLog(setup, report, self.learner, self.progress, Stopwatch(self.done(), self.progress.seconds))
        self.seconds = self.saved_seconds = self.progress.seconds
        self.saved_step = self.progress.step

    def run(self) -> TrainingResult:
        """Train until the planned end, the time limit or a signal."""
        with self.stop:
            self.log.announce()
            for warning in self.setup.warnings:
                self.report.line(warning)
            self.note_skipped(self.setup.skipped)
            batches = self.training_batches()
            while not self.is_asked_to_stop():
                if self.validation_is_due():
                    self.validate()
                elif self.is_over():
                    return self.finish()
                else:
                    began = time.monotonic()
                    group = next(batches)
                    if self.update(group, stalled=time.monotonic() - began):
                        self.log.write_update(self.done())
                    if self.checkpoint_is_due():
                        self.save()
            self.save()
            self.states.finish()
            reason = self.stop.reason or "another process"
            self.report.line(f"{reason}: stopped after update {self.progress.step}; run it again to continue")
            return self.result(average=None)

    def update(self, group: list[Loaded], stalled: float = 0.0) -> bool:
        """Learn from the batches that all processes have loaded.

        `stalled`: seconds that this process has waited for them.

        Returns False if none of them could be used and nothing was learned.
        """
        num_utterances = self.take_stock(group, stalled)
        if num_utterances:
            step = self.progress.step + 1
            self.log.means.add(self.learner.update(group, num_utterances, step, self.done()))
            self.progress.step = step
        self.progress.position = group[-1].request.after
        if self.progress.position.epoch > group[-1].request.epoch and not self.progress.step:
            key, reason = next(iter(self.progress.skipped.items()), ("the manifests", "nothing in them"))
            raise TrainingError(f"no training utterance can be used; {key}: {reason}")
        return num_utterances > 0

    def take_stock(self, group: list[Loaded], stalled: float) -> int:
        """Record what all processes contribute to this update. Returns the number of utterances."""
        batches = [item.batch for item in group if item.batch is not None]
        frames = sum(int(batch.feats_lengths.sum()) for batch in batches)
        padded = sum(batch.feats.shape[0] * batch.feats.shape[1] for batch in batches)
        new = {key: why for item in group for key, why in item.skipped.items() if key not in self.progress.skipped}
        utterances = sum(len(batch.keys) for batch in batches)
        rows = self.world.gather([utterances, frames, padded, stalled, len(new), group[0].request.plan])
        if len(set(rows[:, 5])) > 1:
            raise TrainingError("the processes read different data: do all see the same manifests and shards?")
        if rows[:, 4].any():
            for skipped in self.world.gather_objects(new):
                self.note_skipped(skipped)
        fbank = self.config.fbank
        seconds = float(rows[:, 1].sum() - fbank.edge_frames * rows[:, 0].sum()) * fbank.frame_shift_ms / 1000
        self.progress.audio_seconds += seconds
        self.log.stopwatch.add_audio(seconds, stalled=float(rows[:, 3].max()))
        # The average fraction by which processes have less work than the busiest.
        self.log.means.add({"imbalance": 1 - float(rows[:, 2].mean() / max(rows[:, 2].max(), 1))})
        return int(rows[:, 0].sum())

    def training_batches(self) -> Iterator[list[Loaded]]:
        """Yield the batches of this process for each update, from the current position on, without end."""
        setup, progress, world = self.setup, self.progress, self.world
        wanted = training_requests(
            setup.corpus, setup.train.reader, progress.position, progress.batches_per_update, world.rank, world.size
        )
        return groups(load(setup.train, wanted, self.config.trainer.num_workers))

    def note_skipped(self, skipped: Mapping[str, str]) -> None:
        """Report each unusable utterance once per run."""
        for key, reason in skipped.items():
            if key not in self.progress.skipped:
                self.progress.skipped[key] = reason
                self.report.line(f"skipped {key}: {reason}")

    def done(self) -> float:
        """Return the completed fraction of the planned training."""
        trainer, progress = self.config.trainer, self.progress
        by_epoch = progress.position.epochs_done / trainer.max_epochs if trainer.max_epochs else 0.0
        by_step = progress.step / trainer.max_steps if trainer.max_steps else 0.0
        return max(by_epoch, by_step)

    def is_over(self) -> bool:
        minutes = self.config.trainer.max_minutes
        return self.done() >= 1 or (minutes is not None and self.seconds >= 60 * minutes)

    def is_asked_to_stop(self) -> bool:
        """Return whether any process has received a signal. All processes also adopt the first one's clock here."""
        rows = self.world.gather([bool(self.stop), self.log.stopwatch.spent(), self.states.is_ready])
        self.seconds = float(rows[0, 1])
        if rows[:, 2].all():
            self.states.finish()
        return bool(rows[:, 0].any())

    def validation_is_due(self) -> bool:
        progress, every = self.progress, self.config.trainer.validate_every
        if progress.step == progress.validated_step:
            return False
        at_epoch_end = progress.position.batch == progress.position.window == 0
        return self.is_over() or (progress.step % every == 0 if every else at_epoch_end)

    def validate(self) -> None:
        """Measure the model on dev and keep it if it is among the best. A signal cancels this."""
        progress, trainer = self.progress, self.config.trainer
        measured = self.measure(f"update {progress.step}")
        if measured is None:
            return
        self.report.figures("dev", asdict(measured), progress.step)
        progress.validated_step = progress.step
        new = BestCheckpoint(step=progress.step, score=getattr(measured, trainer.select_by), loss=measured.loss)
        progress.best = rank(progress.best, new, trainer.keep_best)
        if new in progress.best:
            self.write_checkpoint(self.output / new.name)
        self.save()
        # Only now, because a valid state on disk must not name a deleted checkpoint.
        self.states.finish()
        if self.world.is_first:
            remove_strays(self.output, progress.best)

    def measure(self, name: str) -> Validation | None:
        """Measure the model on dev. Returns None if a signal arrives."""
        skipped: dict[str, str] = {}
        batches = noting(self.dev_batches, skipped)
        measured = validate(
            self.learner.spread, batches, self.setup.tokenizer, self.learner.autocast, self.is_asked_to_stop
        )
        expert_load(self.model, reset=True)
        for found in self.world.gather_objects(skipped):
            self.note_skipped(found)
        if measured is not None:
            rates = f"token errors {measured.ter:.2%}, word errors {measured.wer:.2%}"
            self.report.line(f"dev, {name}: loss {measured.loss:.3f}, ctc {measured.ctc:.3f}, greedy {rates}")
        return measured

    def finish(self) -> TrainingResult:
        """Average the best checkpoints and measure the average. The last validation has saved the state."""
        progress = self.progress
        best = progress.best[: self.config.trainer.average_best]
        if not best:
            raise TrainingError("the time limit ended training before the first update")
        self.world.wait()  # the first process may still be writing the last checkpoint
        self.learner.spread.load_full_weights(average_weights([self.output / entry.name for entry in best]))
        average = self.output / "average"
        self.write_checkpoint(average)
        self.report.line(f"{average}: average of updates {', '.join(str(entry.step) for entry in best)}")
        measured = self.measure("average")
        self.report.line(
            f"finished: {progress.step} updates, {progress.position.epochs_done:.1f} epochs, "
            f"{clock_time(progress.seconds)}, {progress.audio_seconds / 3600:.2f} h of speech, "
            f"{len(progress.skipped)} utterances skipped"
        )
        if self.world.is_first:
            training_card(self.setup, progress, measured, self.output).write(average)
            self.draw_picture()
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

    def draw_picture(self) -> None:
        try:
            self.report.line(f"{plot_training(self.output)}: plot of the run")
        except Exception as error:  # a failed plot must not fail the run
            self.report.line(f"the run cannot be plotted: {error}")

    def write_checkpoint(self, directory: Path) -> None:
        """Write the weights as a checkpoint directory."""
        weights = self.learner.spread.full_weights()

        if self.world.is_first:
            with replacing_directory(directory) as folder:
                self.setup.tokenizer.save(folder)
                save_checkpoint(folder, self.model, {"fbank": to_mapping(self.config.fbank)}, weights)

    def checkpoint_is_due(self) -> bool:
        trainer, steps = self.config.trainer, self.progress.step - self.saved_step
        late = self.seconds - self.saved_seconds >= trainer.checkpoint_every_seconds
        return late or 0 < trainer.checkpoint_every_steps <= steps

    def save(self) -> None:
        """Start to save the complete state while training continues."""
        self.progress.seconds = self.seconds
        run = {
            "config": to_mapping(self.config),
            "fingerprint": self.setup.corpus.fingerprint,
            "progress": self.progress.to_state(),
        }
        self.states.save(self.progress.step, training_tensors(self.model, self.learner.optimizer), run)
        self.saved_step, self.saved_seconds = self.progress.step, self.seconds


def find_state(setup: Setup, states: StateFolder, report: Reporter) -> tuple[Path, Progress] | None:
    """Return the stored state of this run; None if it has not started.

    Raises ConfigError for a state of another run.
    """
    output = states.folder.parent
    if (output / "state.pt").exists():
        raise CheckpointError(f"{output / 'state.pt'}: written by an earlier release; this release cannot continue it")
    found = states.newest(report.line)
    if found is None:
        return None
    path, run = found
    difference = first_difference(experiment_from_mapping(run["config"], str(path)), setup.config)
    if difference is not None:
        raise ConfigError(f"{output} holds a run with another configuration: {difference}")
    if run["fingerprint"] != setup.corpus.fingerprint:
        raise ConfigError(f"{output} holds a run with other training utterances")
    progress = Progress.from_state(run["progress"])
    # An older state may name checkpoints that have been replaced since.
    progress.best = [entry for entry in progress.best if (output / entry.name).is_dir()]
    return path, progress


def noting(loaded: Iterable[Loaded], skipped: dict[str, str]) -> Iterator[Loaded]:
    """Yield the same items and record in `skipped` what could not be used."""
    for item in loaded:
        skipped.update(item.skipped)
        yield item
