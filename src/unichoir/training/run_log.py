"""The log of a training run: what it announces, and the figures of its updates."""

import torch
from torch import Tensor

from unichoir.network.moe import expert_load
from unichoir.training.checkpointing import Progress
from unichoir.training.learner import Learner
from unichoir.training.metrics import RunningMeans, Stopwatch, clock_time, memory_gb
from unichoir.training.reporting import Reporter
from unichoir.training.setup import Setup


class RunLog:
    """Collects the figures of the updates and reports them.

    `progress` is the trainer's own and is read here only. With several processes, all of them call each method.
    """

    def __init__(
        self, setup: Setup, report: Reporter, learner: Learner, progress: Progress, stopwatch: Stopwatch
    ) -> None:
        self.setup, self.report, self.learner, self.progress = setup, report, learner, progress
        self.config, self.world = setup.config, learner.world
        self.means, self.stopwatch = RunningMeans(), stopwatch
        self._summary = "starting"

    def announce(self) -> None:
        """Report the size of the model, the data and the processes."""
        setup, progress, layout = self.setup, self.progress, self.learner.spread.layout
        self.report.go_on_after(progress.step)
        parameters = sum(parameter.numel() for parameter in self.learner.model.parameters())
        self.report.line(
            f"{'continuing after' if progress.step else 'starting at'} update {progress.step}: "
            f"{parameters / 1e6:.1f}M parameters, {setup.corpus.num_utterances} training and "
            f"{setup.dev_corpus.num_utterances} dev utterances, {self.world.device.type} "
            f"{self.config.trainer.precision}"
        )
        if self.world.size > 1:
            self.report.line(
                f"{self.world.size} processes, {progress.batches_per_update} batches per update; parameters spread "
                f"over {layout.shard}, experts over {layout.expert}"
            )

    def write_update(self, done: float) -> None:
        """Show the progress line and, every `log_every` updates, write the figures to the log and TensorBoard.

        done: the fraction of the planned training that is complete.
        """
        progress = self.progress
        remaining = clock_time(self.stopwatch.remaining(done))
        place = f"epoch {progress.position.epochs_done:.2f} update {progress.step}"
        self.report.progress(f"{self._summary} | {place} | {remaining} left", done)
        if progress.step % self.config.trainer.log_every or not (means := self.means.take()):
            return
        means["audio_seconds_per_second"], means["stall"] = self.stopwatch.take_speed()
        means["audio_hours"] = progress.audio_seconds / 3600
        means["memory_gb"] = float(self.world.gather([memory_gb(self.world.device)]).max())
        means["skipped"] = len(progress.skipped)
        self.report.figures("train", means, progress.step)
        self.report.expert_loads(self._expert_loads(), progress.step)
        self._summary = (
            f"loss {means['loss']:.3f} ctc {means['ctc']:.3f} attention {means['attention']:.3f} "
            + (f"teacher {means['teacher']:.3f} " if self.config.teacher else "")
            + f"gradient {means['gradient']:.2f} rate {means['learning_rate']:.2e} "
            f"{means['audio_seconds_per_second']:.0f} s/s"
        )
        self.report.line(f"{place}: {self._summary}, {means['stall']:.0%} waiting for data, {remaining} left")

    def _expert_loads(self) -> dict[str, Tensor]:
        """Return each layer's load over all processes since the last call."""
        loads = expert_load(self.learner.model, reset=True)
        if not loads:
            return {}
        counts = self.world.gather(torch.cat(list(loads.values())).tolist()).sum(axis=0)
        parts = torch.split(torch.from_numpy(counts), [len(load) for load in loads.values()])
        return dict(zip(loads, parts, strict=True))
