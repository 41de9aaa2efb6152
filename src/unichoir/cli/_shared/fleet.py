"""`transcribe` and `serve` with `--ray`."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from unichoir.cli._shared.arguments import ModelArguments
from unichoir.cli._shared.common import note, print_error, progress_bar, refuse
from unichoir.errors import UnichoirError
from unichoir.recognition.options import DecodingOptions
from unichoir.search.options import DEFAULT_LM, NO_LM
from unichoir.transcript.formats import Format
from unichoir.transcript.subtitles import SubtitleOptions

if TYPE_CHECKING:
    from unichoir.engine.device import Device
    from unichoir.fleet.worker import ModelSource
    from unichoir.serving.settings import Settings

FLEET = "Fleet"
RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="auto|local|HOST:PORT",
        help="Ray cluster to work on: a running one (auto), a temporary one on this machine (local), or an address.",
        show_default=False,
    ),
]
MAX_NAMED = 20
"""Failures that are reported one by one."""
MAX_THREADS = 8
"""Threads of a replica with a large model."""
SESSIONS_PER_REPLICA = 50


def report_failures(failed: Mapping[str, str], output: Path) -> None:
    """Report the first failed utterances and exit with code 1, if any failed. failed: reasons, by key."""
    for key, error in list(failed.items())[:MAX_NAMED]:
        print_error(UnichoirError(f"{key}: {error}"))
    if len(failed) > MAX_NAMED:
        note(f"and {len(failed) - MAX_NAMED} more: each has an 'error' in {output / 'results.jsonl'}")
    if failed:
        raise typer.Exit(1)


@dataclass(frozen=True, kw_only=True)
class FleetArguments:
    """`transcribe` on many machines."""

    PANEL: ClassVar[str] = FLEET

    ray: RayOption = None
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for results (JSON lines). The same command continues an interrupted run.",
            show_default=False,
        ),
    ] = None
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Most workers.",
            show_default="as many as processors, or GPUs, allow",
        ),
    ] = None
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="With --device cuda: share of a GPU per worker. 0.5 puts two workers on each GPU.",
            show_default="1",
        ),
    ] = None
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Recognise again what failed earlier.")] = False

    def check_unused(self) -> None:
        """Raise an error of usage for options that need a cluster."""
        options = {"--output": self.output, "--workers": self.workers, "--retry-failed": self.retry_failed}
        refuse({**options, "--gpus-per-worker": self.gpus_per_worker}, "needs --ray")

    def transcribe(
        self,
        manifests: Sequence[str],
        model: ModelArguments,
        device: "Device",
        options: DecodingOptions,
        formats: Sequence[Format],
        subtitles: SubtitleOptions,
    ) -> None:
        """Recognise manifests on a cluster and write the results. Exits with code 1 if an utterance failed."""
        from unichoir.fleet.cluster import connected
        from unichoir.fleet.formats import write_formats
        from unichoir.fleet.transcribe import read_utterances, transcribe

        if self.ray is None or self.output is None:
            raise typer.BadParameter("needed with --ray", param_hint="--output")
        source = model_source(model, device, ("--gpus-per-worker", self.gpus_per_worker))
        utterances = read_utterances(manifests)
        with connected(self.ray), progress_bar("transcribing", "utterances") as progress:
            report = transcribe(
                utterances,
                self.output,
                source,
                options,
                workers=self.workers,
                retry_failed=self.retry_failed,
                progress=progress,
            )
        write_formats(self.output, formats, subtitles)
        for line in report.lines:
            note(line)
        report_failures(report.failed, self.output)


@dataclass(frozen=True, kw_only=True)
class ReplicaArguments:
    """`serve` on many machines."""

    PANEL: ClassVar[str] = FLEET

    ray: RayOption = None
    min_replicas: Annotated[int | None, typer.Option(min=1, metavar="N", help="Fewest servers.", show_default="1")] = (
        None
    )
    max_replicas: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Most servers.",
            show_default="as many as processors, or GPUs, allow",
        ),
    ] = None
    sessions_per_replica: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Sessions per server. More start more servers, fewer stop some.", show_default="50"
        ),
    ] = None
    gpus_per_replica: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="With --device cuda: share of a GPU per server. 0.5 puts two servers on each GPU.",
            show_default="1",
        ),
    ] = None

    def check_unused(self) -> None:
        """Raise an error of usage for options that need a cluster."""
        names = ("--min-replicas", "--max-replicas", "--sessions-per-replica", "--gpus-per-replica")
        values = (self.min_replicas, self.max_replicas, self.sessions_per_replica, self.gpus_per_replica)
        refuse(dict(zip(names, values, strict=True)), "needs --ray")

    def source(self, model: ModelArguments, device: "Device") -> "ModelSource":
        """Return the model that replicas load."""
        return model_source(model, device, ("--gpus-per-replica", self.gpus_per_replica))


def model_source(model: ModelArguments, device: "Device", gpus: tuple[str, float | None] = ("", None)) -> "ModelSource":
    """Return the model that workers load. gpus: the option with the share of a GPU, and its value."""
    from unichoir.api import DEFAULT_MODEL
    from unichoir.fleet.worker import ModelSource

    option, share = gpus
    if device == "cpu":
        refuse({option: share}, "needs --device cuda")
    return ModelSource(
        model.model or DEFAULT_MODEL,
        model.threads,
        model.top_k,
        device,
        1.0 if share is None else share,
        # The workers' current directory may be another one.
        language_model=model.lm if model.lm in (DEFAULT_LM, NO_LM) else os.path.abspath(model.lm),
    )


def serve_on_cluster(
    source: "ModelSource", settings: "Settings", replicas: ReplicaArguments, http_options: dict[str, str | int]
) -> None:
    """Serve until a signal asks to stop."""
    from unichoir.api import portable_name
    from unichoir.fleet.cluster import connected, places, processors
    from unichoir.fleet.serve import Scaling, deploy, make_application, serve_until
    from unichoir.serving.logs import configure_logs, log_event
    from unichoir.stopping import StopRequest

    least, most = replicas.min_replicas or 1, replicas.max_replicas
    with connected(replicas.ray or "auto"), StopRequest() as stop:
        # On a GPU, a replica needs one thread only.
        threads = source.threads or (1 if source.num_gpus else min(MAX_THREADS, processors()[0]))
        source = replace(source, name_or_dir=portable_name(source.name_or_dir), threads=threads)
        room = places(threads, source.num_gpus)
        if source.num_gpus and least > room:
            raise typer.BadParameter(f"this cluster has GPUs for {room}", param_hint="--min-replicas")
        scaling = Scaling(
            min_replicas=least,
            max_replicas=most or max(room, least),
            sessions_per_replica=replicas.sessions_per_replica or min(SESSIONS_PER_REPLICA, settings.max_sessions),
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
