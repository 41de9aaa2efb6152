"""What `transcribe` and `serve` do with `--ray`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unichoir.cli.common import note, print_error, progress_bar
from unichoir.decoding.options import DecodingOptions
from unichoir.errors import UnichoirError

if TYPE_CHECKING:
    from unichoir.decoding.device import Device
    from unichoir.fleet.worker import ModelSource
    from unichoir.serving.settings import Settings

FLEET = "Fleet"
RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="auto|local|HOST:PORT",
        help="Work on a Ray cluster: the one that runs, one on this machine for as long as the command, or that one.",
        show_default=False,
        rich_help_panel=FLEET,
    ),
]
MAX_NAMED = 20
"""Failures that are told one by one."""
MAX_THREADS = 8
"""Of a replica with a large model."""
SESSIONS_PER_REPLICA = 50


def refuse(options: Mapping[str, object], why: str) -> None:
    """An error of usage for the first of these options that was given."""
    for name, value in options.items():
        if value is not None and value is not False:
            raise typer.BadParameter(why, param_hint=name)


def model_source(
    model: str | None, threads: int | None, top_k: int | None, device: "Device", gpus: tuple[str, float | None]
) -> "ModelSource":
    """What the workers load. gpus: the option that gives the share of one GPU, and its value."""
    from unichoir.api import DEFAULT_MODEL
    from unichoir.fleet.worker import ModelSource

    option, share = gpus
    if device == "cpu":
        refuse({option: share}, "needs --device cuda")
    return ModelSource(model or DEFAULT_MODEL, threads, top_k, device, 1.0 if share is None else share)


def transcribe_manifests(
    manifests: Sequence[str],
    output: Path,
    address: str,
    source: "ModelSource",
    options: DecodingOptions,
    workers: int | None,
    retry_failed: bool,
) -> None:
    """Recognise manifests on a cluster; exit code 1 when an utterance has failed."""
    from unichoir.fleet.cluster import connected
    from unichoir.fleet.transcribe import read_utterances, transcribe

    utterances = read_utterances(manifests)
    with connected(address), progress_bar("transcribing", "utterances") as progress:
        report = transcribe(
            utterances, output, source, options, workers=workers, retry_failed=retry_failed, progress=progress
        )
    for line in report.lines:
        note(line)
    for key, error in list(report.failed.items())[:MAX_NAMED]:
        print_error(UnichoirError(f"{key}: {error}"))
    if len(report.failed) > MAX_NAMED:
        note(f"and {len(report.failed) - MAX_NAMED} more: each has an 'error' in {output / 'results.jsonl'}")
    if report.failed:
        raise typer.Exit(1)


def serve_on_cluster(
    address: str,
    source: "ModelSource",
    settings: "Settings",
    replicas: tuple[int | None, int | None, int | None],
    http_options: dict[str, str | int],
) -> None:
    """Serve until a signal to stop. replicas: at least, at most, and the sessions of each; None: see `serve`."""
    from unichoir.fleet.cluster import connected, places, processors
    from unichoir.fleet.serve import Scaling, deploy, make_application, serve_until
    from unichoir.fleet.transcribe import reachable
    from unichoir.serving.logs import configure_logs, log_event
    from unichoir.stopping import StopRequest

    least, most, sessions = replicas
    with connected(address), StopRequest() as stop:
        # On a GPU a replica's threads have little to do.
        threads = source.threads or (1 if source.num_gpus else min(MAX_THREADS, processors()[0]))
        source = replace(source, name_or_dir=reachable(source.name_or_dir), threads=threads)
        room = places(threads, source.num_gpus)
        if source.num_gpus and (least or 1) > room:
            raise typer.BadParameter(f"this cluster has GPUs for {room}", param_hint="--min-replicas")
        scaling = Scaling(
            min_replicas=least or 1,
            max_replicas=most or max(room, least or 1),
            sessions_per_replica=sessions or min(SESSIONS_PER_REPLICA, settings.max_sessions),
        )
        if scaling.sessions_per_replica > settings.max_sessions:
            raise typer.BadParameter(
                f"more than --max-sessions {settings.max_sessions}", param_hint="--sessions-per-replica"
            )
        configure_logs()
        handle = deploy(make_application(source, settings, scaling), http_options)
        log_event(
            "listening",
            **http_options,
            model=settings.model_name,
            replicas=[scaling.min_replicas, scaling.max_replicas],
        )
        serve_until(lambda: bool(stop), handle, settings.drain_timeout)
        log_event("stopped", signal=stop.reason)
