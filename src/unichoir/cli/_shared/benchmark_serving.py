"""`unichoir benchmark --serve`."""

import math
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from unichoir.cli._shared.common import make_progress, write_line
from unichoir.errors import ConfigError, DecodingError, UnichoirError

if TYPE_CHECKING:
    from unichoir.benchmark.plan import Candidate
    from unichoir.benchmark.run import Progress
    from unichoir.benchmark.serving.client import Target
    from unichoir.benchmark.serving.results import ServingOptions, ServingResults

PANEL = "With --serve"
OWN = frozenset({"serve", "model", "clients", "play", "url", "engines", "sessions", "dropped", "hostile"})
"""Names of the options that are only for --serve."""
SHARED = frozenset({"configs", "streaming", "left_chunks", "threads", "audio", "models", "output"})
CALIBRATION_SECONDS = 10.0

ServeOption = Annotated[
    bool, typer.Option("--serve", help="Measure a server with clients in real time.", rich_help_panel=PANEL)
]
ServedModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME|DIR",
        help="Model to serve, as in `unichoir serve`. Or use --configs.",
        show_default=False,
        rich_help_panel=PANEL,
    ),
]
ClientsOption = Annotated[
    str, typer.Option(metavar="NUMBERS", help="Clients at a time. Each streams without a pause.", rich_help_panel=PANEL)
]
PlayOption = Annotated[
    float, typer.Option(min=0.1, metavar="S", help="Duration for each number of clients.", rich_help_panel=PANEL)
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        metavar="ws://...",
        help="A running server with the same model and chunk size. UNICHOIR_API_KEY holds its key.",
        show_default=False,
        rich_help_panel=PANEL,
    ),
]
EnginesOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=64,
        metavar="N",
        help="Engines of the server, as in `unichoir serve`.",
        show_default="the server's choice",
        rich_help_panel=PANEL,
    ),
]
SessionsOption = Annotated[
    int, typer.Option(min=0, metavar="N", help="Soak test: number of short sessions.", rich_help_panel=PANEL)
]
DroppedOption = Annotated[
    int, typer.Option(min=0, metavar="N", help="Soak test: sessions that the client drops.", rich_help_panel=PANEL)
]
HostileOption = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="N",
        help="Soak test: hostile clients. A server of --url must have the default limits.",
        rich_help_panel=PANEL,
    ),
]


def check_options(given: Sequence[str], serve: bool) -> None:
    """Refuse options that have no effect with, or without, --serve. given: names of parameters."""
    strangers = [name for name in given if (name not in OWN | SHARED if serve else name in OWN)]
    if strangers:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in strangers)
        raise typer.BadParameter("not with --serve" if serve else "only with --serve", param_hint=names)
    if not serve:
        return
    for name, needed in (("dropped", "sessions"), ("hostile", "sessions"), ("models", "configs")):
        if name in given and needed not in given:
            raise typer.BadParameter(f"only with --{needed}", param_hint=f"--{name}")
    if "model" in given and "configs" in given:
        raise typer.BadParameter("give one of them, not both", param_hint="--model, --configs")
    if "engines" in given and "url" in given:
        raise typer.BadParameter("not with --url, whose server runs already", param_hint="--engines")
    if "play" in given and "sessions" in given and "clients" not in given:
        raise typer.BadParameter("only with --clients, which --sessions leaves out", param_hint="--play")


def check_values(clients: Sequence[int], play: float, chunk_size: int, left_chunks: int) -> None:
    """Refuse invalid numbers of clients, durations and chunk sizes."""
    from unichoir.recognition.options import StreamingOptions

    if min(clients, default=1) < 1:
        raise typer.BadParameter(f"{min(clients)} is not a number of clients", param_hint="--clients")
    if not math.isfinite(play):
        raise typer.BadParameter(f"{play} is not a number of seconds", param_hint="--play")
    try:
        StreamingOptions(chunk_size=chunk_size, num_left_chunks=left_chunks)
    except DecodingError as error:
        raise typer.BadParameter(str(error), param_hint="--streaming, --left-chunks") from None


def serving_benchmark(
    source: "str | Candidate | None",
    options: "ServingOptions",
    audio: Path | None,
    models: Path | None,
    url: str | None,
    output: Path | None,
) -> None:
    """Measure and show the results, and write them to the folder `output`.

    source: a model, or a configuration to prepare with random weights. Raises UnichoirError, after the results are
    shown, if the server failed.
    """
    from unichoir.api import serving_extras

    with serving_extras("unichoir benchmark --serve"):
        from unichoir.benchmark.serving.report import write_report
    target = _target(url)
    with make_progress("") as progress:
        task = progress.add_task("starting", total=None)
        results = _run(
            source,
            options,
            audio,
            models,
            target,
            lambda what, done, total: progress.update(task, description=what, completed=done, total=total or None),
        )
    _show(results)
    if output is not None:
        write_report(results, output)
    if results.exit_code:
        last = f": {results.server_errors[-1]}" if results.server_errors else ""
        raise UnichoirError(f"the server ended with exit code {results.exit_code}{last}")


def _target(url: str | None) -> "Target | None":
    from unichoir.benchmark.serving.client import Target

    if url is None:
        return None
    if not url.startswith(("ws://", "wss://")):
        raise typer.BadParameter(f"'{url}' does not begin with ws:// or wss://", param_hint="--url")
    return Target(url=url, api_key=os.environ.get("UNICHOIR_API_KEY", ""))


def _run(
    source: "str | Candidate | None",
    options: "ServingOptions",
    audio: Path | None,
    models: Path | None,
    target: "Target | None",
    progress: "Progress",
) -> "ServingResults":
    from unichoir.api import DEFAULT_MODEL, find_model, load_recognizer, training_extras
    from unichoir.benchmark.audio import load_benchmark_audio
    from unichoir.benchmark.plan import Candidate
    from unichoir.benchmark.serving.prepared import prepared_model
    from unichoir.benchmark.serving.run import run_serving_benchmark

    if not isinstance(source, Candidate):
        find_model(source)
        load = partial(load_recognizer, source, options.threads)
        return run_serving_benchmark(source or DEFAULT_MODEL, load, options, audio, target, progress)
    if not source.model.encoder.conv_causal:
        raise ConfigError(f"{source.name} cannot stream: its convolutions see the future")
    with training_extras("preparing a model of a configuration"):
        import onnxscript  # noqa: F401
        import torch  # noqa: F401
    sound = load_benchmark_audio(audio, CALIBRATION_SECONDS, source.fbank.sample_rate)
    with prepared_model(
        source, sound.samples, options.threads or 2, models, lambda what: progress(what, 0, 0)
    ) as folder:
        load = partial(load_recognizer, folder, options.threads)
        return run_serving_benchmark(str(folder), load, options, audio, target, progress)


def _show(results: "ServingResults") -> None:
    from unichoir.benchmark.serving.report import to_markdown, to_terminal

    console = Console()
    if console.is_terminal:
        console.print(to_terminal(results))
    else:
        write_line(to_markdown(results).rstrip())
