"""`unichoir plan`."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from unichoir.cli._shared.common import write_line
from unichoir.errors import ConfigError

if TYPE_CHECKING:
    from unichoir.network.config import ModelConfig
    from unichoir.training.accelerators import Gpu
    from unichoir.training.config import ExperimentConfig
    from unichoir.training.planning import Plan, Workload

VOCAB_SIZE = 500
"""The vocabulary if neither the configuration nor its tokenizer has one, as in `unichoir models`."""


def plan(
    config: Annotated[
        str,
        typer.Option(
            metavar="NAME|YAML|DIR", help="Named configuration, experiment or checkpoint.", show_default=False
        ),
    ],
    hours: Annotated[
        float, typer.Option(metavar="H", help="Hours of speech in the training data.", show_default=False)
    ],
    gpus: Annotated[int, typer.Option(min=1, metavar="N", help="Number of GPUs.")] = 1,
    gpu: Annotated[
        str, typer.Option(metavar="NAME", help="Kind of GPU. An unknown one needs --gpu-memory and --gpu-tflops.")
    ] = "h100",
    gpu_memory: Annotated[
        float | None, typer.Option(min=0.001, metavar="GB", help="Memory of a GPU, in place of the known value.")
    ] = None,
    gpu_tflops: Annotated[
        float | None, typer.Option(min=1e-6, metavar="T", help="Peak rate of a GPU in --precision, dense.")
    ] = None,
    network: Annotated[
        float | None,
        typer.Option(min=1e-6, metavar="GB/S", help="Rate from a GPU to other machines, one way; else 50."),
    ] = None,
    efficiency: Annotated[
        float | None,
        typer.Option(metavar="X", help="Share of the peak rate that a GPU reaches; else 0.3, an assumption."),
    ] = None,
    precision: Annotated[
        Literal["bf16", "fp32"] | None,
        typer.Option(help="Precision of matrix products; else the experiment's, or bf16."),
    ] = None,
    shard: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="GPUs that share weights (FSDP). 1: none (DDP). 0: all."),
    ] = None,
    expert_parallel: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="GPUs that share the experts of a layer.")
    ] = None,
    activation_checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--activation-checkpointing/--no-activation-checkpointing",
            help="Keep only the inputs of blocks, and compute the rest again.",
        ),
    ] = None,
    frames_per_batch: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Feature frames (10 ms each) in a GPU's batch; else 12000.")
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Batches per update, of all GPUs together; at least one per GPU."),
    ] = None,
    epochs: Annotated[float | None, typer.Option(metavar="X", help="Epochs; else the experiment's, or 1.")] = None,
    seconds_per_utterance: Annotated[float, typer.Option(metavar="S", help="Mean length of utterances.")] = 10.0,
    tokens_per_second: Annotated[
        float, typer.Option(metavar="X", help="Tokens of the transcripts, per second of speech.")
    ] = 4.0,
    vocab_size: Annotated[
        int | None,
        typer.Option(
            min=4, metavar="N", help="Size of the vocabulary; else the configuration's or its tokenizer's, or 500."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, in bytes, seconds and FLOPs.")
    ] = False,
) -> None:
    """Estimate the cost of a training run: memory of each GPU, traffic between GPUs, updates and days.

    Memory and traffic follow from the model's sizes. Time is work divided by the data sheet's peak rate times an
    efficiency. This efficiency was not measured on GPUs: measure some updates and give yours with --efficiency. The
    estimate assumes that traffic of weights and gradients overlaps with computation, and that traffic to experts
    doesn't.

    Examples:

        unichoir plan --config moe-1b --hours 160000 --gpus 64 --gpu h200

        unichoir plan --config moe-1b --hours 10000 --gpus 8 --shard 0 --expert-parallel 8 --activation-checkpointing
    """
    from unichoir.api import training_extras

    with training_extras("unichoir plan"):
        from unichoir.training.accelerators import ASSUMED_EFFICIENCY, find_gpu
        from unichoir.training.parallel import ParallelConfig
        from unichoir.training.planning import Workload, make_plan
    model, experiment = _read(config, vocab_size)
    given = {"precision": precision, "frames_per_batch": frames_per_batch, "accumulate": accumulate, "epochs": epochs}
    spread = {
        "shard": shard,
        "expert_parallel": expert_parallel,
        "activation_checkpointing": activation_checkpointing,
    }
    workload = Workload(
        hours=hours,
        gpus=gpus,
        parallel=replace(experiment.parallel if experiment else ParallelConfig(), **_said(spread)),
        seconds_per_utterance=seconds_per_utterance,
        tokens_per_second=tokens_per_second,
        efficiency=ASSUMED_EFFICIENCY if efficiency is None else efficiency,
        **{**_defaults(experiment), **_said(given)},
    )
    device = find_gpu(gpu, workload.precision, memory_gb=gpu_memory, tflops=gpu_tflops, network_gb=network)
    made = make_plan(model, workload, device)
    if as_json:
        write_line(json.dumps(_content(config, workload, device, made, efficiency is None), indent=2))
        return
    _show(made, workload, device, efficiency is None)


def _content(name: str, workload: "Workload", gpu: "Gpu", plan: "Plan", assumed: bool) -> dict[str, Any]:
    """Return the whole plan for JSON, sums included."""
    content = asdict(plan)
    content["memory"]["peak"] = plan.memory.peak
    content["traffic"]["total"] = plan.traffic.total
    content["time"]["update"] = plan.time.update
    whole = {"model": name, "gpu": asdict(gpu), "workload": asdict(workload), "efficiency_is_assumed": assumed}
    return {**whole, "plan": content}


def _said(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _read(name: str, vocab_size: int | None) -> "tuple[ModelConfig, ExperimentConfig | None]":
    """Read the model of a named configuration, an experiment's YAML file, or a checkpoint.

    Raises ConfigError if it is none of these.
    """
    from unichoir.configuration import from_mapping
    from unichoir.network.checkpoint import read_yaml
    from unichoir.network.config import NAMED_CONFIGS, ModelConfig
    from unichoir.training.config import load_experiment

    experiment = None
    if name in NAMED_CONFIGS:
        model = NAMED_CONFIGS[name]
    elif (Path(name) / "config.yaml").exists():
        where = Path(name) / "config.yaml"
        model = from_mapping(ModelConfig, read_yaml(where).get("model"), f"{where}: model")
    elif name.endswith((".yaml", ".yml")):
        experiment = load_experiment(name)
        model = experiment.model
    else:
        known = ", ".join(NAMED_CONFIGS)
        raise ConfigError(f"unknown configuration '{name}' (known: {known}; or a YAML file, or a checkpoint)")
    if vocab_size is None:
        vocab_size = model.vocab_size or _size_of_tokenizer(experiment) or VOCAB_SIZE
    return model.with_vocab_size(vocab_size), experiment


def _size_of_tokenizer(experiment: "ExperimentConfig | None") -> int:
    from unichoir.text.tokenizer import load_tokenizer

    if experiment is None or not (Path(experiment.tokenizer) / "units.txt").exists():
        return 0
    return load_tokenizer(Path(experiment.tokenizer)).vocab_size


def _defaults(experiment: "ExperimentConfig | None") -> dict[str, Any]:
    """Return what an experiment says about its run."""
    if experiment is None:
        return {}
    trainer = experiment.trainer
    return {
        "precision": trainer.precision,
        "frames_per_batch": experiment.data.max_frames_in_batch,
        "accumulate": trainer.accumulate,
        **_said({"epochs": trainer.max_epochs}),
    }


def _show(plan: "Plan", workload: "Workload", gpu: "Gpu", assumed: bool) -> None:
    console = Console()
    sizes = plan.sizes
    console.print(
        _table(
            "Parameters",
            [
                ("total", _millions(sizes.total)),
                ("active for one frame", _millions(sizes.active)),
                ("of experts", _millions(sizes.experts)),
            ],
        )
    )
    console.print(_memory_table(plan, gpu))
    console.print(_traffic_table(plan))
    console.print(_time_table(plan, workload, gpu))
    source = "an assumption: no training was measured on GPUs" if assumed else "as given"
    console.print(
        f"Efficiency: {workload.efficiency:.0%} of {gpu.name}'s peak of {gpu.flops(workload.precision) / 1e12:.4g} "
        f"TFLOP/s in {workload.precision}, {source}. Between machines {gpu.network / 1e9:g} GB/s for each GPU. "
        f"Utterances of {workload.seconds_per_utterance:g} s, batches without padding, experts used evenly.",
        highlight=False,
    )


def _memory_table(plan: "Plan", gpu: "Gpu") -> Table:
    memory = plan.memory
    rows = [
        ("weights, fp32", memory.weights),
        ("copies for products, gathered weights", memory.copies),
        ("gradients, fp32", memory.gradients),
        ("AdamW's two moments, fp32", memory.optimizer),
        ("activations", memory.activations),
        ("  of these log-probabilities of tokens", memory.logits),
        ("gradients of CTC's logits, for a moment", memory.logits_gradient),
        ("peak: gradients come as activations go", memory.peak),
    ]
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    table = _table(f"Memory of a GPU: {verdict} into {gpu.memory / 1e9:g} GB of {gpu.name}", _gigabytes(rows))
    table.caption = (
        f"Activations without checkpointing {memory.activations_kept / 1e9:.2f} GB, with it "
        f"{memory.activations_checkpointed / 1e9:.2f} GB. A tenth of the memory is left to driver and allocator."
    )
    return table


def _traffic_table(plan: "Plan") -> Table:
    traffic = plan.traffic
    rows = [
        ("all-to-all: frames to experts and back", traffic.all_to_all),
        ("all-gather: weights", traffic.all_gather),
        ("reduce-scatter: gradients", traffic.reduce_scatter),
        ("all-reduce: gradients", traffic.all_reduce),
    ]
    return _table("Sent by a GPU in an update", _gigabytes(rows))


def _time_table(plan: "Plan", workload: "Workload", gpu: "Gpu") -> Table:
    rows = [
        ("forward pass, GFLOP per second of audio", f"{plan.forward_flops / 1e9:,.2f}"),
        ("training, GFLOP per second of audio", f"{plan.step_flops / 1e9:,.2f}"),
        ("seconds of audio in an update", f"{plan.audio_per_update:,.0f}"),
        ("updates", f"{plan.updates:,.0f}"),
        ("seconds of an update", f"{plan.time.update:,.3f}"),
        ("  computing", f"{plan.time.compute:,.3f}"),
        ("  frames to experts and back", f"{plan.time.exchange:,.3f}"),
        ("  weights and gradients, meanwhile", f"{plan.time.weights_and_gradients:,.3f}"),
        ("  AdamW", f"{plan.time.optimizer:,.3f}"),
        ("seconds of audio that each GPU takes in a second", f"{plan.audio_per_second:,.0f}"),
        ("days", f"{plan.days:,.3g}"),
    ]
    return _table(f"{workload.hours:,g} hours, {workload.epochs:g} times, on {workload.gpus} {gpu.name}", rows)


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f}M"


def _gigabytes(rows: list[tuple[str, float]]) -> list[tuple[str, str]]:
    return [(name, f"{value / 1e9:,.2f} GB") for name, value in rows]


def _table(title: str, rows: list[tuple[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left", box=SIMPLE_HEAD, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
