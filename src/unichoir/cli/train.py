"""`unichoir train`."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

NPROC = "--nproc"
RESTARTS = "--max-restarts"


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The experiment's YAML file.", show_default=False)],
    train_manifests: Annotated[
        list[str],
        typer.Option("--train", metavar="MANIFEST", help="Training data. Repeatable.", show_default=False),
    ],
    dev_manifests: Annotated[
        list[str], typer.Option("--dev", metavar="MANIFEST", help="Validation data. Repeatable.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the run. An existing run is continued.", show_default=False)
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of CONFIG. Repeatable.", show_default=False),
    ] = None,
    nproc: Annotated[int, typer.Option(NPROC, min=1, metavar="N", help="Processes on this machine, one per GPU.")] = 1,
    max_restarts: Annotated[
        int,
        typer.Option(RESTARTS, min=0, metavar="N", help="With --nproc: number of restarts after a process has died."),
    ] = 3,
) -> None:
    """Train a model, or continue an interrupted run.

    Ctrl-C and SIGTERM stop after the current update, with a checkpoint. The same command then continues, even with
    another number of processes. The result is the checkpoint OUTPUT/average, ready for `unichoir evaluate` and
    `unichoir export`. On several machines, start the same command with torchrun: `torchrun --nnodes 8
    --nproc-per-node 8 ... -m unichoir train CONFIG ...` (docs/training/scaling.md).

    Examples:

        unichoir train recipes/an4/words.yaml --train an4/train.jsonl --dev an4/dev.jsonl --output exp

        unichoir train my.yaml --train a.jsonl --train b.jsonl --dev dev.jsonl --output exp --set trainer.max_epochs=5

        unichoir train my.yaml --train shards/shards.jsonl --dev dev.jsonl --output exp --nproc 8 --set parallel.shard=0
    """
    from unichoir.api import training_extras

    with training_extras("unichoir train"):
        from unichoir.network.checkpoint import read_yaml
        from unichoir.stopping import StopRequest
        from unichoir.training.config import experiment_from_mapping
        from unichoir.training.parallel import Layout
        from unichoir.training.trainer import train as run
    experiment = experiment_from_mapping(apply_overrides(read_yaml(config), overrides or ()), str(config))
    if nproc > 1:
        Layout.of(experiment.parallel, nproc)  # fail once here, not in every process
        raise typer.Exit(start_processes(nproc, max_restarts))
    stop = StopRequest()
    result = run(experiment, train_manifests, dev_manifests, output, stop=stop)
    if not result.finished:
        # As shells report a process that a signal has ended.
        raise typer.Exit(128 + signal.Signals[stop.reason] if stop.reason else 1)


def start_processes(nproc: int, max_restarts: int) -> int:
    """Run this very command in `nproc` processes under torchrun's agent; returns the exit code."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    # Every start of the processes meets in a store of its own.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    # torchrun would leave each one thread.
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // nproc, 1)))
    agent = ["--standalone", "--nproc-per-node", str(nproc), "--max-restarts", str(max_restarts), "--module"]
    try:
        torchrun([*agent, "unichoir", *without_options(sys.argv[1:], (NPROC, RESTARTS))])
    except SignalException as stopped:
        return 128 + stopped.sigval
    except ChildFailedError as failed:
        (_, first) = failed.get_first_failure()
        code: int = first.exitcode
        return code if code > 0 else 1
    return 0


def without_options(arguments: Sequence[str], options: Sequence[str]) -> list[str]:
    """A command line without some options and their values."""
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument in options:
            next(rest, None)
        elif not argument.startswith(tuple(f"{option}=" for option in options)):
            kept.append(argument)
    return kept


def apply_overrides(content: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`content` with keys such as `trainer.max_epochs=5` replaced; values are YAML."""
    import yaml

    for override in overrides:
        path, separator, text = override.partition("=")
        if not separator or not all(path.split(".")):
            raise typer.BadParameter(f"'{override}' is not KEY=VALUE", param_hint="--set")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise typer.BadParameter(f"'{override}': the value is not valid YAML", param_hint="--set") from None
        content = _replaced(content, path.split("."), value)
    return content


def _replaced(content: Any, keys: Sequence[str], value: Any) -> dict[str, Any]:
    key, *rest = keys
    if isinstance(content, str):
        content = {"name": content}  # `model: moe-small` is short for this
    if not isinstance(content, dict):
        content = {}
    return {**content, key: _replaced(content.get(key), rest, value) if rest else value}
