"""Compare speed, memory and losses of training with several processes, for docs/training/scaling.md.

    python experiments/scaling.py train.jsonl --tokenizer exp/tokenizer [--config moe-small] [--processes 1,2]

Every layout is a real run of the trainer under torchrun, from the same weights, with the same batches in every update.
Only the number of processes and `parallel` differ. Features are computed before the first run, so reading them is fast.
Each process has --threads threads; on a machine with GPUs it has one GPU instead.

Prints a Markdown table with a row for each layout:

  s of audio / s    in the median update after --warmup and before the checkpoint, all processes together
  relative          to the first row
  stall             the fraction of that time spent waiting for data
  memory            the peak of any process in those updates, including libraries (on a GPU: only tensors)
  loss, dev loss    of the last update, and on a few utterances after it
  stands still      how long the checkpoint, after two thirds of the updates, stops a process from training
  on disk           how long it takes until all of it is written, while training continues

It also prints how far losses and gradients of the last update differ. The order of summation explains small
differences; larger ones are errors. With --output, the same command doesn't repeat complete runs.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from unichoir.cli._shared.common import note, progress_bar
from unichoir.configuration import to_mapping
from unichoir.data.cmvn import compute_cmvn
from unichoir.data.features import FeatureReader
from unichoir.errors import UnichoirError
from unichoir.network.config import NAMED_CONFIGS
from unichoir.text.tokenizer import load_tokenizer
from unichoir.training import trainer
from unichoir.training.config import ExperimentConfig, experiment_from_mapping, load_experiment
from unichoir.training.metrics import memory_gb
from unichoir.training.plot import read_history
from unichoir.training.reporting import TENSORBOARD
from unichoir.training.setup import read_manifests
from unichoir.training.state import StateFolder

DEV_UTTERANCES = 16
HEADER = (
    "| processes | layout | s of audio / s | relative | stall | memory | loss | dev loss "
    "| checkpoint stands still | on disk |\n|---:|---|" + 8 * "---:|"
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """The measurements of one layout."""

    speed: float
    """Seconds of audio per second."""
    stall: float
    memory_gb: float
    libraries_gb: float
    """Memory held before the model exists."""
    loss: float
    gradient: float
    dev_loss: float
    blocked: float
    """Seconds during which the checkpoint stopped the slowest process from training."""
    written: float
    """Seconds from its start until the last process had written its part to disk."""

    def to_markdown(self, processes: int, name: str, first_speed: float) -> str:
        """Return a line of the table."""
        return (
            f"| {processes} | {name} | {self.speed:.0f} | {self.speed / first_speed:.2f} | {self.stall:.1%} "
            f"| {self.memory_gb:.2f} GB | {self.loss:.5f} | {self.dev_loss:.5f} "
            f"| {self.blocked:.2f} s | {self.written:.2f} s |"
        )


def layouts(processes: int, num_experts: int) -> dict[str, dict[str, Any]]:
    """Return the ways to distribute a model over that many processes, as keys of `parallel` by name."""
    if processes == 1:
        return {"alone": {}}
    fsdp = {"shard": 0}
    found: dict[str, dict[str, Any]] = {"DDP": {"shard": 1}, "FSDP": fsdp}
    if processes % 4 == 0:
        found["FSDP in halves"] = {"shard": processes // 2}
    shared = gcd(processes, num_experts)
    if num_experts and shared > 1:
        experts = {"expert_parallel": shared}
        found["experts"] = {"shard": 1, **experts}
        found["FSDP + experts"] = {**fsdp, **experts}
    checkpointed = {
        f"{name} + activation checkpointing": {**keys, "activation_checkpointing": True}
        for name, keys in found.items()
        if keys["shard"] == 0
    }
    return {**found, **checkpointed}


class TimedStates(StateFolder):
    """Records how long each checkpoint takes, in a line of JSON in the run's folder."""

    def save(self, step: int, tensors: Mapping[str, Any], run: Mapping[str, Any]) -> None:
        """Save and measure the time."""
        self.finish()  # the previous checkpoint must not count
        began = time.monotonic()
        super().save(step, tensors, run)
        blocked = time.monotonic() - began
        path = self.folder.parent.parent / f"checkpoints-{self.world.rank}.jsonl"

        def on_disk(_: object) -> None:
            with path.open("a", encoding="utf-8") as file:
                times = {"step": step, "blocked": blocked, "written": time.monotonic() - began}
                file.write(json.dumps(times) + "\n")

        assert self._pending is not None
        self._pending[1].add_done_callback(on_disk)


def work(folder: Path, train: str, dev: str) -> None:
    """Run one of the processes that torchrun starts: train, and write figures to `folder`."""
    libraries = memory_gb(torch.device("cpu"))
    trainer.StateFolder = TimedStates  # type: ignore[attr-defined]
    trainer.train(load_experiment(folder / "config.yaml"), [train], [dev], folder / "run")
    if os.environ["RANK"] == "0":
        (folder / "libraries.json").write_text(json.dumps(libraries))


def measure(folder: Path, config: ExperimentConfig, processes: int, data: Sequence[Path], warmup: int) -> Row:
    """Run one layout in a new folder. If it fails, raises UnichoirError with the end of its output."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(json.dumps(to_mapping(config)))  # JSON is YAML
    agent = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, "-m", *agent, __file__, str(folder), *map(str, data)]
    threads = {"OMP_NUM_THREADS": str(config.trainer.num_threads)}
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **threads})
    if ended.returncode:
        raise UnichoirError(f"{folder.name} failed:\n{ended.stderr[-3000:]}")
    history = read_history(folder / "run" / TENSORBOARD).scalars
    scalars = {tag: dict(zip(*points, strict=True)) for tag, points in history.items()}
    saved, last = config.trainer.checkpoint_every_steps, config.trainer.max_steps
    assert last is not None
    counted = range(warmup + 1, saved + 1)
    times = [json.loads(line) for path in folder.glob("checkpoints-*.jsonl") for line in path.read_text().splitlines()]
    return Row(
        speed=float(np.median([scalars["train/audio_seconds_per_second"][step] for step in counted])),
        stall=float(np.median([scalars["train/stall"][step] for step in counted])),
        memory_gb=scalars["train/memory_gb"][saved],
        libraries_gb=json.loads((folder / "libraries.json").read_text()),
        loss=scalars["train/loss"][last],
        gradient=scalars["train/gradient"][last],
        dev_loss=scalars["dev/loss"][last],
        blocked=max(entry["blocked"] for entry in times if entry["step"] == saved),
        written=max(entry["written"] for entry in times if entry["step"] == saved),
    )


def measure_once(folder: Path, config: ExperimentConfig, processes: int, data: Sequence[Path], warmup: int) -> Row:
    """Call `measure`, or return its earlier result from `folder`."""
    measured = folder.with_suffix(".json")
    asked = {"config": to_mapping(config), "processes": processes, "data": list(map(str, data)), "warmup": warmup}
    if measured.exists():
        content = json.loads(measured.read_text())
        if content["asked"] != json.loads(json.dumps(asked)):
            raise UnichoirError(f"{measured} was measured with other options; choose another --output")
        return Row(**content["row"])
    shutil.rmtree(folder, ignore_errors=True)  # from an interrupted run
    row = measure(folder, config, processes, data, warmup)
    measured.write_text(json.dumps({"asked": asked, "row": asdict(row)}))
    return row


def prepare(arguments: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], list[Path]]:
    """Return the experiment that all layouts share, and its manifests. Computing the features takes a while."""
    tokenizer = load_tokenizer(arguments.tokenizer)  # fail once here instead of in every process
    manifest = Path(arguments.manifest).resolve()
    utterances, *_ = read_manifests([manifest], "training", tokenizer)
    if any(utterance.byte_range for utterance in utterances):
        raise UnichoirError(f"{manifest}: is a list of shards; use a manifest of files")
    dev = folder / "dev.jsonl"
    dev.write_text("".join(json.dumps(asdict(utterance)) + "\n" for utterance in utterances[:DEV_UTTERANCES]))
    experiment: dict[str, Any] = {
        "tokenizer": str(Path(arguments.tokenizer).resolve()),
        "model": arguments.config,
        "cmvn": str(folder / "cmvn.json"),
        "feature_cache": str(folder / "features"),
        "augment": {"speeds": [1.0]},
        "data": {"max_frames_in_batch": arguments.frames_per_batch},
        "optim": {"warmup_steps": max(arguments.updates // 2, 1)},
        "trainer": {
            "max_steps": arguments.updates,
            "accumulate": arguments.batches_per_update or 2 * max(arguments.processes),
            "precision": arguments.precision,
            "num_threads": arguments.threads,
            "log_every": 1,
            "validate_every": arguments.updates,
            "checkpoint_every_steps": 2 * arguments.updates // 3,
            "checkpoint_every_seconds": 1e9,
            "keep_best": 1,
            "average_best": 1,
        },
    }
    with progress_bar("features", "utterances") as progress:
        reader = FeatureReader(cache_dir=Path(experiment["feature_cache"]))
        statistics, skipped = compute_cmvn(utterances, reader, progress)
    statistics.save(experiment["cmvn"])
    note(f"{len(utterances) - len(skipped)} utterances, {statistics.frame_num / 360000:.2f} h; runs in {folder}")
    return experiment, [manifest, dev]


def compare(arguments: argparse.Namespace, folder: Path) -> None:
    """Measure all layouts one after another and print the table row by row."""
    experiment, data = prepare(arguments, folder)
    feed_forward = NAMED_CONFIGS[arguments.config].encoder.feed_forward
    found = [
        (processes, name, parallel)
        for processes in arguments.processes
        for name, parallel in layouts(processes, feed_forward.num_experts).items()
        if arguments.layouts is None or name in arguments.layouts.split(",")
    ]
    if not found:
        raise UnichoirError(f"--layouts: none of {arguments.layouts} with this configuration and these processes")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    print(
        f"{arguments.config}, {arguments.precision}, {arguments.updates} updates of "
        f"{experiment['trainer']['accumulate']} batches of {arguments.frames_per_batch / 100:.0f} s; "
        f"torch {torch.__version__}, {device}, {os.cpu_count()} cores, threads of a process: {arguments.threads}\n"
    )
    print(HEADER, flush=True)
    rows: list[Row] = []
    for number, (processes, name, parallel) in enumerate(found, start=1):
        note(f"run {number} of {len(found)}: {name}, {processes} process(es)")
        config = experiment_from_mapping({**experiment, "parallel": parallel}, name)
        run = folder / f"{processes}-{re.sub('[^a-zA-Z]+', '-', name)}"
        rows.append(measure_once(run, config, processes, data, arguments.warmup))
        print(rows[-1].to_markdown(processes, name, rows[0].speed), flush=True)
    print(f"\nBefore there is a model each process holds {rows[0].libraries_gb:.2f} GB.")
    for name in ("loss", "gradient", "dev_loss"):
        values = [getattr(row, name) for row in rows]
        print(f"Largest relative difference of {name}: {(max(values) - min(values)) / min(values):.1e}")


def parse_arguments() -> argparse.Namespace:
    """Parse the command line; invalid values end the program with a message."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", metavar="MANIFEST", help="speech for training and, in part, for validation")
    parser.add_argument("--tokenizer", required=True, metavar="DIR", help="folder from `unichoir tokenizer`")
    parser.add_argument("--config", default="moe-small", choices=sorted(NAMED_CONFIGS), metavar="NAME")
    parser.add_argument("--processes", default="1,2", metavar="N,N", help="numbers of processes (default: 1,2)")
    parser.add_argument("--layouts", metavar="NAME,NAME", help="only these rows of the table (default: all)")
    parser.add_argument("--updates", type=int, default=12, help="updates of each run (default: 12)")
    parser.add_argument("--warmup", type=int, default=3, help="updates that are not measured (default: 3)")
    parser.add_argument("--batches-per-update", type=int, default=0, help="default: two per process of the largest run")
    parser.add_argument(
        "--frames-per-batch", type=int, default=12000, help="frames of 10 ms, with padding (default: 12000)"
    )
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"], help="bf16 rounds losses coarsely")
    parser.add_argument("--threads", type=int, default=1, help="threads of each process on a CPU (default: 1)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="keep runs and features here (default: not kept)")
    arguments = parser.parse_args()
    try:
        arguments.processes = [int(number) for number in arguments.processes.split(",")]
    except ValueError:
        parser.error(f"--processes: '{arguments.processes}' is not a list of numbers such as 1,2,4")
    if min(arguments.processes) < 1 or arguments.threads < 1 or arguments.warmup < 0:
        parser.error("--processes and --threads must be at least 1, --warmup at least 0")
    if 2 * arguments.updates // 3 <= arguments.warmup:
        parser.error("--updates: two thirds of them must be more than --warmup")
    return arguments


def main() -> None:
    """Compare the layouts, or be one of their processes under torchrun."""
    try:
        if distributed.is_torchelastic_launched():
            return work(Path(sys.argv[1]), *sys.argv[2:])
        arguments = parse_arguments()
        if arguments.output is not None:
            arguments.output.mkdir(parents=True, exist_ok=True)
            return compare(arguments, arguments.output.resolve())
        with tempfile.TemporaryDirectory(prefix="unichoir-scaling-") as folder:
            compare(arguments, Path(folder))
    except UnichoirError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
