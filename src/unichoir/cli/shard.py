"""`unichoir shard`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from unichoir.cli._shared.common import note, progress_bar

if TYPE_CHECKING:
    from unichoir.data.shard_jobs import ShardReport

NAMED = 20
"""Left-out utterances that are named on the terminal. All are in a file."""
ONLY_WRITING = ("utterances", "codec", "seed", "shuffle")


def shard(
    context: typer.Context,
    manifests: Annotated[
        list[str],
        typer.Argument(
            metavar="MANIFEST",
            help="Path or URL: JSON lines, Kaldi folder, WeNet's shards.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the shards.", show_default=False)],
    utterances: Annotated[int, typer.Option(min=1, metavar="N", help="Utterances per shard.")] = 1000,
    codec: Annotated[
        Literal["flac", "opus", "vorbis", "keep"],
        typer.Option(help="keep: copy files as they are (parts of files become FLAC). The others write mono."),
    ] = "flac",
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the order of utterances.")] = 0,
    shuffle: Annotated[
        bool, typer.Option("--shuffle/--no-shuffle", help="Shuffle all utterances. Training shuffles neighbours only.")
    ] = True,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Processes that write.")] = 1,
    index: Annotated[
        bool,
        typer.Option(
            "--index", help="Write indexes only. MANIFEST are tars, or lists of tars, which stay where they are."
        ),
    ] = False,
) -> None:
    """Pack a corpus into tars of a thousand utterances each, to train from a disk, a web server or S3.

    OUT is a manifest for every command, and so are copies of it: `--train https://host/OUT`, `--train s3://bucket/OUT`.
    The tars are also WeNet's shards. Each has a small index, so training reads only the parts that it needs.

    The same command continues an interrupted run, and gives the same files with any number of workers. Unreadable
    utterances are left out, named here and in OUT/skipped.jsonl, and the exit code is 1.

    FLAC keeps 16-bit speech without loss. Opus is lossy and takes about a fifth of that.

    Examples:

        unichoir shard train.jsonl more.jsonl shards --workers 8

        unichoir shard train.jsonl shards --codec opus --utterances 2000

        unichoir shard --index wenet/data.list shards
    """
    from unichoir.data.manifest import read_manifests
    from unichoir.data.shard_index import index_shards, list_tars
    from unichoir.data.shard_writer import write_shards

    # By name: typer has its own copy of click's type.
    given = {
        name for name in context.params if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    }
    useless = [name for name in ONLY_WRITING if name in given] if index else []
    if useless:
        raise typer.BadParameter("has no effect with --index", param_hint=f"--{useless[0]}")
    if "seed" in given and not shuffle:
        raise typer.BadParameter("has no effect with --no-shuffle", param_hint="--seed")
    with progress_bar("indexing" if index else "writing", "shards") as progress:
        if index:
            report = index_shards(list_tars(manifests), output, workers=workers, progress=progress)
        else:
            report = write_shards(
                read_manifests(manifests),
                output,
                per_shard=utterances,
                codec=codec,
                workers=workers,
                seed=seed if shuffle else None,
                progress=progress,
            )
    _tell(report, output)
    if report.skipped:
        raise typer.Exit(1)


def _tell(report: "ShardReport", output: Path) -> None:
    from unichoir.data.shard_jobs import SKIPPED

    for key, reason in list(report.skipped.items())[:NAMED]:
        note(" ".join(f"{key} left out: {reason}".split()))
    if report.skipped:
        note(f"{len(report.skipped)} left out in total: {output / SKIPPED}")
    kept = f" ({report.kept} of them from before)" if report.kept else ""
    note(
        f"{output}: {report.shards} shards{kept}, {report.utterances} utterances, "
        f"{report.seconds / 3600:.2f} hours, {report.bytes / 1e6:.1f} MB"
    )
