"""Recognise manifests on the workers of a Ray cluster. Every utterance gets one result, even if workers die."""

import dataclasses
import hashlib
import json
import logging
import os
import pickle
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unichoir.api import find_language_model, find_model, portable_name
from unichoir.data.manifest import read_manifests
from unichoir.data.storage import is_url
from unichoir.data.utterance import Utterance
from unichoir.errors import UnichoirError
from unichoir.fleet.cluster import places
from unichoir.fleet.results import Chunk, Result, Results, make_chunks
from unichoir.fleet.worker import Attempts, Done, ModelSource, Worker
from unichoir.recognition.options import DecodingOptions
from unichoir.search.language_model import weights_file

Progress = Callable[[int, int], None]
"""Called with the number of finished utterances and the total number."""


@dataclass
class Load:
    """The work done by one worker."""

    audio_seconds: float = 0.0
    seconds: float = 0.0


@dataclass
class Report:
    """The work of one run, and the state of the whole job."""

    utterances: int
    """Utterances in the manifests."""
    kept: int = 0
    """Utterances with results from an earlier run."""
    audio_seconds: float = 0.0
    """Audio recognised in this run."""
    seconds: float = 0.0
    """Time from the start of the workers to the last result."""
    retries: int = 0
    """Chunks that were restarted because their worker died."""
    workers: dict[str, Load] = field(default_factory=dict)
    """By host and process ID; a restarted worker gets a new entry."""
    failed: dict[str, str] = field(default_factory=dict)
    """Keys of utterances without a transcript, with the reasons; includes those of earlier runs."""

    def add(self, done: Done) -> None:
        """Add a chunk of this run."""
        audio_seconds = _audio_seconds(done.results)
        self.audio_seconds += audio_seconds
        self.retries += done.attempt - 1
        worker = self.workers.setdefault(done.worker, Load())
        worker.audio_seconds += audio_seconds
        worker.seconds += done.seconds

    def add_failures(self, results: Sequence[Result]) -> None:
        """Add the failures in a chunk of any run."""
        self.failed.update({result["key"]: result["error"] for result in results if "error" in result})

    @property
    def lines(self) -> list[str]:
        """The report as text."""
        speed = self.audio_seconds / self.seconds if self.seconds else 0.0
        lines = [
            f"{self.utterances} utterances: {self.utterances - self.kept} in this run, {self.kept} from earlier runs, "
            f"{len(self.failed)} failed, {self.retries} retries",
            f"{self.audio_seconds / 3600:.2f} h of audio in {self.seconds:.1f} s: {speed:.1f} times real time, "
            f"real-time factor {1 / speed if speed else 0.0:.5f}",
        ]
        for name, load in sorted(self.workers.items()):
            speed = load.audio_seconds / load.seconds if load.seconds else 0.0
            lines.append(f"worker {name}: {load.audio_seconds / 3600:.2f} h of audio, {speed:.1f} times real time")
        return lines


def read_utterances(manifests: Sequence[str]) -> list[Utterance]:
    """Read the utterances of all manifests and make their paths absolute.

    Raises ManifestError, also for duplicate keys.
    """
    return [
        utterance if is_url(utterance.wav) else dataclasses.replace(utterance, wav=os.path.abspath(utterance.wav))
        for utterance in read_manifests(manifests)
    ]


def transcribe(
    utterances: Sequence[Utterance],
    output: Path,
    source: ModelSource,
    options: DecodingOptions,
    *,
    workers: int | None = None,
    retry_failed: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Recognise all utterances without a result in the folder, on the cluster to which this process is connected.

    Args:
        output: the folder; see `Results`. At the end `results.jsonl` holds all results in the order of the utterances.
        source: the model. All workers must be able to read the model and the audio under the same paths.
        workers: the maximum number; None: as many as the cluster has processors (`source.threads` or one each) and
            GPUs for.
        retry_failed: repeat chunks that contain a failed utterance.
        progress: called after each chunk.

    Raises:
        UnichoirError: for a model, options or device that cannot work, and for a folder with other results. An error
            in an utterance becomes its result and is part of the report.
    """
    source = dataclasses.replace(source, name_or_dir=portable_name(source.name_or_dir))
    results = Results(output, make_chunks(utterances), describe_job(source, options))
    report = Report(len(utterances))
    missing = []
    for chunk in results.chunks:
        found = results.read(chunk)
        if found is None or (retry_failed and any("error" in result for result in found)):
            missing.append(chunk)
        else:
            report.kept += len(found)
            report.add_failures(found)
    begun = time.perf_counter()
    count = report.kept
    for chunk, done in _recognized(missing, source, options, workers):
        results.write(chunk, done.results)
        report.add(done)
        report.add_failures(done.results)
        count += len(done.results)
        if progress is not None:
            progress(count, len(utterances))
    report.seconds = time.perf_counter() - begun if missing else 0.0
    results.join()
    return report


def describe_job(source: ModelSource, options: DecodingOptions) -> dict[str, object]:
    """Describe everything except the audio that determines the results, as JSON values that survive a round trip.

    Raises UnichoirError if the model or language model does not exist.
    """
    directory = find_model(source.name_or_dir)
    lm = find_language_model(source.language_model, directory)
    if lm is not None and not lm.is_file():
        raise UnichoirError(f"{lm}: no such file")
    job = {
        "model": source.name_or_dir,
        "weights": _digest(directory.iterdir()),
        "top_k": source.top_k,
        "language_model": None if lm is None else _digest([lm, weights_file(lm)]),
        "decoding": dataclasses.asdict(options),
    }
    jsonable: dict[str, object] = json.loads(json.dumps(job))
    return jsonable


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in files if path.is_file()):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _recognized(
    chunks: Sequence[Chunk], source: ModelSource, options: DecodingOptions, workers: int | None
) -> Iterator[tuple[Chunk, Done]]:
    """Yield the chunks as they finish, in any order. Raises UnichoirError for a model that cannot work."""
    if not chunks:
        return
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    attempts = ray.remote(Attempts).options(num_cpus=0, scheduling_strategy=here).remote()
    threads = source.threads or 1
    room = places(threads, source.num_gpus)
    most = min(workers or room, len(chunks))
    rows = ray.data.from_items([{"chunk": pickle.dumps(chunk)} for chunk in chunks], override_num_blocks=len(chunks))
    outcomes = rows.map(
        Worker,  # type: ignore[arg-type]  # Ray creates actors of this class
        fn_constructor_args=(dataclasses.replace(source, threads=threads), options, attempts),
        # If there is no room for all workers, those that fit start.
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most, initial_size=most),
        num_cpus=threads,
        num_gpus=source.num_gpus or None,
    )
    by_number = {chunk.number: chunk for chunk in chunks}
    for row in outcomes.iter_rows():
        done = pickle.loads(row["done"])
        if isinstance(done, str):
            raise UnichoirError(done)
        yield by_number[done.number], done


def _audio_seconds(results: Sequence[Result]) -> float:
    return float(sum(result.get("duration_ms", 0) for result in results)) / 1000
