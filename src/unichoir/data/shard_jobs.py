"""Jobs for writing and indexing shards: one job per shard, run in processes, resumable.

The folder holds `plan.json`, which describes the work, and `journal.jsonl`, with a line for each finished shard. A run
that continues an interrupted one skips the shards in the journal whose files still have the same size. The list of
shards is written last, so its presence means that the corpus is complete.
"""

import dataclasses
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, TypeVar

from unichoir.bundle.replacing import replacing, writing
from unichoir.data.shards import FORMAT_VERSION, SHARD_LIST
from unichoir.errors import ConfigError, ManifestError

PLAN = "plan.json"
JOURNAL = "journal.jsonl"
SKIPPED = "skipped.jsonl"
OPTIONS = ("per_shard", "codec", "seed")
"""The options of a plan that the user chooses. The rest follows from the utterances."""
Progress = Callable[[int, int], None]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ShardResult:
    """The result of one shard."""

    shard: str
    """Name of the tar in `shards.jsonl`."""
    index: str
    utterances: int
    """Number of usable utterances. A shard without any is not listed."""
    seconds: float
    bytes: int
    """Size of the tar."""
    index_bytes: int
    skipped: dict[str, str] = field(default_factory=dict)
    """Utterances left out, by key, or the complete shard, by its name, and the reasons."""
    failed: bool = False
    """Whether the shard could not be read. Another run tries again."""

    def listed(self) -> dict[str, object]:
        """Return its line of `shards.jsonl`."""
        names = ("shard", "index", "utterances", "seconds", "bytes")
        return {"version": FORMAT_VERSION, **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """The result of a corpus."""

    shards: int
    kept: int
    """Number of shards kept from an earlier run."""
    utterances: int
    seconds: float
    bytes: int
    skipped: dict[str, str]
    """As in `ShardResult`."""


def run_shards(
    output: Path,
    plan: Mapping[str, object],
    work: Callable[[int, T], ShardResult],
    parts: Sequence[Callable[[], T]],
    *,
    workers: int,
    progress: Progress | None,
) -> ShardReport:
    """Call `work(number, part())` for each unfinished part, and write the list of shards.

    Args:
        plan: a description of the work, as JSON. A folder with another plan is rejected.
        work: writes the files of one shard; must be picklable with several workers.
        parts: return the input of `work`, called just before the work.
        workers: number of processes; 1 uses this one.
        progress: called with (finished shards, all shards).

    Raises:
        ConfigError: the folder holds another corpus, or a worker process dies.
        ManifestError: no utterance is usable.
        OSError: the folder can't be written.
    """
    output.mkdir(parents=True, exist_ok=True)
    _check_plan(output, plan)
    results = _read_journal(output)
    kept = len(results)
    waiting = [number for number in range(len(parts)) if number not in results]
    if progress:
        progress(kept, len(parts))
    with writing(output / JOURNAL), (output / JOURNAL).open("a", encoding="utf-8") as journal:
        for number, result in _run(work, parts, waiting, workers):
            results[number] = result
            if not result.failed:
                _append(journal, {"number": number, **dataclasses.asdict(result)})
            if progress:
                progress(len(results), len(parts))
    return _finish(output, [results[number] for number in range(len(parts))], kept)


def write_index(path: Path, lines: Sequence[Mapping[str, object]]) -> int:
    """Write JSON lines atomically. Returns their size in bytes."""
    content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    with replacing(path) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return len(content)


def _check_plan(output: Path, plan: Mapping[str, object]) -> None:
    path = output / PLAN
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        # Never overwrite other files.
        taken = next((name for name in (SHARD_LIST, "000000.tar", "000000.jsonl") if (output / name).exists()), None)
        if taken and not (taken == "000000.tar" and "tars" in plan):
            raise ConfigError(
                f"{output / taken}: already exists and belongs to something else: choose another folder"
            ) from None
        with replacing(path) as file:
            file.write((json.dumps(plan, indent=2) + "\n").encode())
        return
    except ValueError:
        raise ConfigError(f"{path}: not JSON; delete the folder or choose another") from None
    if found != plan:
        differing = [name for name in plan if not isinstance(found, dict) or found.get(name) != plan[name]]
        options = [f"another {name}" for name in differing if name in OPTIONS]
        what = " and ".join(options) or "other utterances"
        raise ConfigError(f"{output}: was started with {what}: choose another folder, or delete this one")


def _read_journal(output: Path) -> dict[int, ShardResult]:
    """Read the finished shards whose files exist."""
    path = output / JOURNAL
    if not path.exists():
        return {}
    content = path.read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    if len(complete) < len(content):  # cut off when the run ended
        os.truncate(path, len(complete))
    results = {}
    for line in complete.splitlines():
        try:
            entry = json.loads(line)
            number, result = int(entry.pop("number")), ShardResult(**entry)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue  # after a power failure: the shard is written again
        if _is_there(output, result):
            results[number] = result
        else:
            results.pop(number, None)
    return results


def _is_there(output: Path, result: ShardResult) -> bool:
    def size(name: str) -> int:
        try:
            return (output / name).stat().st_size
        except OSError:
            return -1

    ours = "/" not in result.shard  # tars elsewhere are not checked
    return size(result.index) == result.index_bytes and (not ours or size(result.shard) == result.bytes)


def _append(journal: Any, entry: Mapping[str, object]) -> None:
    journal.write(json.dumps(entry, ensure_ascii=False) + "\n")
    journal.flush()
    os.fsync(journal.fileno())


def _finish(output: Path, results: Sequence[ShardResult], kept: int) -> ShardReport:
    usable = [result for result in results if result.utterances]
    skipped = {key: reason for result in results for key, reason in result.skipped.items()}
    if skipped:
        write_index(output / SKIPPED, [{"key": key, "reason": reason} for key, reason in skipped.items()])
    else:
        (output / SKIPPED).unlink(missing_ok=True)
    if not usable:
        key, reason = next(iter(skipped.items()), ("nothing", "no utterances"))
        raise ManifestError(f"{output}: no usable utterance ({key}: {reason})")
    write_index(output / SHARD_LIST, [result.listed() for result in usable])
    for leftover in output.glob("*.tmp"):  # from runs that were killed
        leftover.unlink(missing_ok=True)
    return ShardReport(
        shards=len(usable),
        kept=kept,
        utterances=sum(result.utterances for result in usable),
        seconds=sum(result.seconds for result in usable),
        bytes=sum(result.bytes for result in usable),
        skipped=skipped,
    )


def _run(
    work: Callable[[int, T], ShardResult], parts: Sequence[Callable[[], T]], waiting: Sequence[int], workers: int
) -> Iterator[tuple[int, ShardResult]]:
    """Yield results as they are completed."""
    if workers == 1 or len(waiting) < 2:
        for number in waiting:
            yield number, work(number, parts[number]())
        return
    # Workers are spawned, not forked: the threads of fsspec do not survive a fork.
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(workers, context, initializer=_begin_worker, initargs=(stop,))
    queue = iter(waiting)
    running: dict[Future[ShardResult], int] = {}
    try:
        while True:
            # Only a few parts are prepared ahead, which limits memory for a large corpus.
            while len(running) < 2 * workers and (number := next(queue, -1)) >= 0:
                running[pool.submit(work, number, parts[number]())] = number
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    except BrokenProcessPool:
        raise ConfigError(
            "a worker process died (out of memory?): use fewer workers; finished shards are kept"
        ) from None
    except BaseException:
        stop.set()  # a shard may take minutes; the next run starts it again
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker(stop: Event) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it, and ends the workers itself
    # A killed parent can't end its workers, which would wait for work forever.
    parent = multiprocessing.parent_process()
    for wait_for_end in (stop.wait, *([parent.join] if parent else [])):
        threading.Thread(target=_exit_after, args=(wait_for_end,), daemon=True).start()


def _exit_after(wait_for_end: Callable[[], object]) -> None:
    wait_for_end()
    os._exit(1)
