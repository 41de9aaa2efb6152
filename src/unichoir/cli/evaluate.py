"""`unichoir evaluate`."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from unichoir.cli._shared.arguments import (
    MODEL_HELP,
    MODEL_NAME,
    DeviceOption,
    HotwordArguments,
    LanguageModelOption,
    ThreadsOption,
    TopKOption,
    refuse_unused,
)
from unichoir.cli._shared.common import (
    ManifestsArgument,
    note,
    parse_chunk_sizes,
    parse_modes,
    progress_bar,
    write_line,
)
from unichoir.cli._shared.grouping import grouped
from unichoir.cli._shared.options import Chosen, Without
from unichoir.errors import ManifestError
from unichoir.recognition.options import DecodingOptions
from unichoir.search.options import DEFAULT_LM, MODES, WRITTEN

if TYPE_CHECKING:
    from unichoir.data.manifest import Utterance
    from unichoir.evaluation.evaluate import Evaluation, Load
    from unichoir.network.load import LayerLoad


@grouped
def evaluate(
    model: Annotated[str, typer.Argument(metavar=MODEL_NAME, help=MODEL_HELP, show_default=False)],
    manifests: ManifestsArgument,
    options: Annotated[Chosen[DecodingOptions], Without("mode", "chunk_size", WRITTEN)],
    hotwords: HotwordArguments,
    decoding: Annotated[
        str, typer.Option(metavar="MODES", help=f"Modes separated by commas, or all: {', '.join(MODES)}.")
    ] = "attention_rescoring",
    chunk_size: Annotated[
        str,
        typer.Option(
            metavar="SIZES",
            help="Encoder frames per chunk, separated by commas. full: the whole utterance. A frame of the included "
            "model takes 40 ms.",
        ),
    ] = "full",
    lm: LanguageModelOption = DEFAULT_LM,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for results.json, results.md, utterances.jsonl, alignments.txt.",
            show_default=False,
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, metavar="N", help="Processes. Each loads the model.")] = 1,
    threads: ThreadsOption = None,
    top_k: TopKOption = None,
    device: DeviceOption = "cpu",
    expert_load: Annotated[
        bool,
        typer.Option(
            "--expert-load", help="Report how each layer uses its experts, by language, and draw experts.svg."
        ),
    ] = False,
) -> None:
    """Measure word and character error rates on manifests.

    Prints substitutions (S), deletions (D), insertions (I), the calibration of word confidences (ECE, expected
    calibration error; NCE, normalised cross entropy), and the real-time factor (RTF) of features, encoder and search.
    The output is Markdown unless it is a terminal. Audio is read once, and encoded once per chunk size for all modes.
    Files that cannot be read are counted and named.

    Examples:

        unichoir evaluate my-model an4/test.jsonl

        unichoir evaluate exp/average dev.jsonl test.jsonl --decoding all --chunk-size full,16 --output results
    """
    from unichoir.api import find_language_model, find_model, load_recognizer
    from unichoir.evaluation import report
    from unichoir.evaluation.evaluate import plan

    modes, chunk_sizes = parse_modes(decoding), parse_chunk_sizes(chunk_size)
    # Only attention_rescoring has a second pass.
    rescores = options.fields["reencode"] and "attention_rescoring" in modes
    base = options.make(
        mode="attention_rescoring" if rescores else modes[0],
        chunk_size=max(size or 0 for size in chunk_sizes) or None,
        hotwords=hotwords.read(),
    )
    refuse_unused(base, lm)
    if expert_load and jobs > 1:
        raise typer.BadParameter("experts are counted by one process only", param_hint="--jobs")
    # Several processes with several threads each slow each other down.
    load = partial(load_recognizer, model, threads or (1 if jobs > 1 else None), top_k, device, lm)
    groups = plan(base, chunk_sizes, modes)
    sets = read_sets(manifests)
    result, experts, by_language = _measure(load, sets, groups, jobs, expert_load)
    _show(result)
    if output is not None:
        used = find_language_model(lm, find_model(model))
        report.write_report(result, output, model, experts, by_language, None if used is None else str(used))
    for name, utterances in sets.items():
        if len(result.broken[name]) == len(utterances):
            raise ManifestError(f"{name}: none of its {len(utterances)} recordings can be read")


def _measure(
    load: "Load",
    sets: Mapping[str, "Sequence[Utterance]"],
    groups: Sequence[Sequence[DecodingOptions]],
    jobs: int,
    expert_load: bool,
) -> "tuple[Evaluation, Mapping[str, LayerLoad] | None, Mapping[str, Mapping[str, LayerLoad]] | None]":
    """Return the results with the experts' load, in all and by language."""
    from unichoir.evaluation.evaluate import evaluate as measure
    from unichoir.evaluation.experts import ExpertsByLanguage
    from unichoir.evaluation.experts import expert_load as count_experts

    recognizer = load() if jobs == 1 else None
    # Fails now, not after the work.
    watch = ExpertsByLanguage(recognizer.backend) if expert_load and recognizer else None
    with progress_bar("evaluating", "utterances") as progress:
        result = measure(recognizer or load, sets, groups, jobs=jobs, progress=progress, watch=watch)
    if watch is None or recognizer is None:
        return result, None, None
    return result, count_experts(recognizer.backend), watch.loads


def _show(result: "Evaluation") -> None:
    from unichoir.evaluation.report import to_markdown, to_table

    for name, reasons in result.broken.items():
        for key, reason in reasons.items():
            note(f"{name}: {key} left out: {reason}")
        if reasons:
            note(f"{name}: {len(reasons)} left out in total")
    console = Console()
    if console.is_terminal:
        console.print(to_table(result))
    else:
        write_line(to_markdown(result).rstrip())


def read_sets(manifests: Sequence[str]) -> "dict[str, list[Utterance]]":
    """Return the utterances of each manifest.

    Sets are named by the manifest's folder and its name without suffix, or by the path if that is not unique. Raises
    ManifestError, also for a manifest given twice.
    """
    from unichoir.data.manifest import read_manifest
    from unichoir.data.storage import is_url

    paths = [Path(name) if is_url(name) else Path(name).resolve() for name in manifests]
    short = [f"{path.parent.name}/{path.stem}" for path in paths]
    names = [name if short.count(name) == 1 else path for name, path in zip(short, manifests, strict=True)]
    for name in names:
        if names.count(name) > 1:
            raise ManifestError(f"{name}: given twice")
    return {name: read_manifest(path) for name, path in zip(names, manifests, strict=True)}
