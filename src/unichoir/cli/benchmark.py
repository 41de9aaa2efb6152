"""`unichoir benchmark`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console

from unichoir.cli._shared.benchmark_serving import (
    ClientsOption,
    DroppedOption,
    EnginesOption,
    HostileOption,
    PlayOption,
    ServedModelOption,
    ServeOption,
    SessionsOption,
    UrlOption,
    check_options,
    check_values,
    serving_benchmark,
)
from unichoir.cli._shared.common import make_progress, write_line
from unichoir.errors import ConfigError

Number = TypeVar("Number", int, float)
VOCAB_SIZE = 500
"""The vocabulary of configurations that leave it to the tokenizer."""

if TYPE_CHECKING:
    from unichoir.benchmark.plan import BenchmarkOptions, Candidate
    from unichoir.benchmark.results import Results


def benchmark(
    context: typer.Context,
    configs: Annotated[
        str,
        typer.Option(metavar="NAMES", help="Named configurations or YAML files of experiments, separated by commas."),
    ] = "dense-225m,moe-1b,dense-1b",
    engine: Annotated[
        str, typer.Option(metavar="NAMES", help="torch: the reference, in fp32. onnx: what recognition uses.")
    ] = "torch,onnx",
    precision: Annotated[
        str, typer.Option(metavar="NAMES", help="Precisions of the onnx engine: fp32, int8.")
    ] = "fp32,int8",
    threads: Annotated[int, typer.Option(min=1, metavar="N", help="CPU threads of each model.")] = 2,
    seconds: Annotated[str, typer.Option(metavar="NUMBERS", help="Lengths of utterances, in seconds.")] = "10,60",
    batch: Annotated[
        str, typer.Option(metavar="NUMBERS", help="Batch sizes, of utterances of the first length.")
    ] = "1,8",
    streaming: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Encoder frames per streaming chunk, 40 ms each in the named configurations. 0: no streaming.",
        ),
    ] = 16,
    left_chunks: Annotated[
        int, typer.Option(min=0, metavar="N", help="Earlier chunks that each frame attends to in streaming.")
    ] = 4,
    streams: Annotated[str, typer.Option(metavar="NUMBERS", help="Streams encoded together.")] = "1,16",
    repeats: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Repeats of each measurement.", show_default="3 to 15, by its duration"),
    ] = None,
    audio: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Audio file or manifest.", show_default="noise shaped like speech"),
    ] = None,
    models: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder that keeps exported models, for the next run.", show_default=False),
    ] = None,
    memory: Annotated[float, typer.Option(min=0.1, metavar="GB", help="Memory for all processes together.")] = 14.0,
    full: Annotated[
        bool, typer.Option("--full", help="Also run the measurements that are left out to save time.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for results.json and results.md.", show_default=False),
    ] = None,
    serve: ServeOption = False,
    model: ServedModelOption = None,
    clients: ClientsOption = "16,32,64",
    play: PlayOption = 60.0,
    url: UrlOption = None,
    engines: EnginesOption = None,
    sessions: SessionsOption = 0,
    dropped: DroppedOption = 0,
    hostile: HostileOption = 0,
) -> None:
    """Measure the speed of configurations without training them or, with --serve, how many clients a server can serve.

    Models get random weights, adjusted to use experts as unevenly, and to give searches as much work, as a trained
    model. Measurements alternate, round by round, so drift of the machine cancels out of ratios. The first table shows
    how close each encoder comes to the machine's own limits, which are measured first. The output is Markdown unless it
    is a terminal.

    With --serve: starts `unichoir serve` and, in another process, clients that stream in real time. Reports their
    latencies, whether each text is the same as that of a single stream, and the server's use of resources. With
    --sessions: runs many short sessions instead, and reports whether the server returns to its former state. Of the
    options above, --serve takes --configs (one, in int8), --threads, --streaming, --left-chunks, --audio, --models and
    --output.

    Examples:

        unichoir benchmark --output results

        unichoir benchmark --configs moe-small,dense-small --engine onnx --seconds 10 --audio an4/test.jsonl

        unichoir benchmark --serve --clients 16,32 --audio an4/test.jsonl

        unichoir benchmark --serve --sessions 10000 --dropped 1000 --hostile 1000
    """
    # By name: typer has its own copy of click's type.
    given = [
        name for name in context.params if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    check_options(given, serve)
    if serve:
        from unichoir.api import serving_extras

        with serving_extras("unichoir benchmark --serve"):
            from unichoir.benchmark.serving.results import ServingOptions
        counts = _numbers(clients, "--clients", int) if "clients" in given or not sessions else ()
        check_values(counts, play, streaming, left_chunks)
        serving_options = ServingOptions(
            clients=counts,
            play_seconds=play,
            chunk_size=streaming,
            left_chunks=left_chunks,
            threads=threads if "threads" in given else None,
            engines=engines,
            sessions=sessions,
            dropped=dropped,
            hostile=hostile,
        )
        source = _only(_candidates(_words(configs))) if "configs" in given else model
        return serving_benchmark(source, serving_options, audio, models, url, output)
    from unichoir.api import training_extras

    with training_extras("unichoir benchmark"):
        # The processes that prepare and measure need these. Fail now if they are missing.
        import onnxscript  # noqa: F401
        import torch  # noqa: F401

        from unichoir.benchmark.plan import BenchmarkOptions
    options = BenchmarkOptions(
        engines=_words(engine),
        precisions=_words(precision),
        threads=threads,
        seconds=_numbers(seconds, "--seconds", float),
        batch=_numbers(batch, "--batch", int),
        chunk_size=streaming,
        left_chunks=left_chunks,
        streams=_numbers(streams, "--streams", int),
        repeats=repeats,
        memory_gb=memory,
        full=full,
    )
    results = _run(_candidates(_words(configs)), options, audio, models)
    _show(results)
    if output is not None:
        from unichoir.benchmark.report import write_report

        write_report(results, output)


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _numbers(text: str, option: str, kind: type[Number]) -> tuple[Number, ...]:
    try:
        return tuple(kind(word) for word in _words(text))
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not a list of numbers", param_hint=option) from None


def _candidates(names: Sequence[str]) -> "list[Candidate]":
    """Return named configurations, and models of experiments' YAML files, named by the file without its suffix.

    Raises ConfigError for an unknown name, an invalid file, and a name that occurs twice.
    """
    from unichoir.benchmark.plan import Candidate
    from unichoir.network.config import NAMED_CONFIGS
    from unichoir.training.config import load_experiment

    candidates = {}
    for name in names:
        if name in NAMED_CONFIGS:
            candidate = Candidate(name=name, model=NAMED_CONFIGS[name])
        elif name.endswith((".yaml", ".yml")):
            experiment = load_experiment(name)
            candidate = Candidate(name=Path(name).stem, model=experiment.model, fbank=experiment.fbank)
        else:
            raise ConfigError(f"unknown configuration '{name}' (known: {', '.join(NAMED_CONFIGS)}; or a YAML file)")
        if candidate.name in candidates:
            raise ConfigError(f"two configurations are called {candidate.name}")
        if not candidate.model.vocab_size:
            candidate = replace(candidate, model=candidate.model.with_vocab_size(VOCAB_SIZE))
        candidates[candidate.name] = candidate
    if not candidates:
        raise ConfigError(f"no configuration to measure (known: {', '.join(NAMED_CONFIGS)})")
    return list(candidates.values())


def _only(candidates: "Sequence[Candidate]") -> "Candidate":
    if len(candidates) > 1:
        names = ", ".join(candidate.name for candidate in candidates)
        raise typer.BadParameter(f"expected one configuration, found {names}", param_hint="--configs")
    return candidates[0]


def _run(
    candidates: "Sequence[Candidate]", options: "BenchmarkOptions", source: Path | None, models: Path | None
) -> "Results":
    from unichoir.benchmark.audio import load_benchmark_audio
    from unichoir.benchmark.run import run_benchmark

    audio = load_benchmark_audio(source, max(options.seconds), candidates[0].fbank.sample_rate)
    with make_progress("steps") as progress:
        task = progress.add_task("starting", total=None)
        return run_benchmark(
            candidates,
            options,
            audio,
            models,
            lambda what, done, total: progress.update(task, description=what, completed=done, total=total),
        )


def _show(results: "Results") -> None:
    from unichoir.benchmark.report import to_markdown, to_terminal

    console = Console()
    if console.is_terminal:
        console.print(to_terminal(results))
    else:
        write_line(to_markdown(results).rstrip())
