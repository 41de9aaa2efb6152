"""`unichoir transcribe --ray` on a cluster of processes, some of which are killed."""

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
from hypothesis import given, strategies
from tests.samples import SMALL_MODEL, WITH_SMALL_MODEL

import unichoir
from unichoir.data.utterance import Utterance
from unichoir.fleet.results import Chunk, Results, make_chunks
from unichoir.fleet.transcribe import read_utterances, transcribe
from unichoir.fleet.worker import MAX_BATCH, MAX_BATCH_SECONDS, MAX_DEATHS, Attempts, ModelSource, Worker, make_batches
from unichoir.recognition.options import DecodingOptions
from unichoir.search.hotwords import Hotword

T = TypeVar("T")
Run = Callable[..., tuple[int, str, str]]
PATIENCE = 60
TRANSCRIBE = ("transcribe", *WITH_SMALL_MODEL)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="named pipes and /proc tell what a worker is doing")


def write_manifest(path: Path, recordings: list[Path]) -> Path:
    """Write a manifest with durations, so that each recording is opened only once."""
    lines = [{"key": each.stem, "wav": str(each), "txt": "", "duration": 1.0 + n} for n, each in enumerate(recordings)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model() -> unichoir.Model:
    return unichoir.load_model(SMALL_MODEL, num_threads=1)


def expected_results(model: unichoir.Model, recordings: list[Path]) -> list[dict[str, Any]]:
    """Return the results of `transcribe` for each recording alone, converted through JSON."""
    return [{"key": each.stem, **json.loads(json.dumps(model.transcribe(each).to_dict()))} for each in recordings]


def wait_for(condition: Callable[[], T | None]) -> T:
    """Wait until the condition returns something; return that."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if (found := condition()) is not None:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{condition} has not come about")


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def files_of(output: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return the inode, modification time and content of each part."""
    return {
        str(path): (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
        for path in output.glob("parts/*/*.jsonl")
    }


class Trap:
    """A recording that is a named pipe: a worker that opens it hangs in the middle of its work."""

    def __init__(self, recording: Path) -> None:
        self.path = recording
        self._content = recording.read_bytes()
        recording.unlink()
        os.mkfifo(recording)

    def wait_for_worker(self) -> int:
        """Return the process that opens the pipe; it hangs there until something is written."""
        return wait_for(self._reader)

    def _reader(self) -> int | None:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(OSError):
                if any(
                    each.read_text() == "wait_for_partner" for each in Path(f"/proc/{process.pid}/task").glob("*/wchan")
                ):
                    return process.pid
        return None

    def disarm(self) -> None:
        """Replace the pipe by a recording."""
        good = self.path.with_suffix(".good")
        good.write_bytes(self._content)
        os.replace(good, self.path)


def test_results_are_those_of_each_recording_alone(
    cluster: str, clips: list[Path], model: unichoir.Model, tmp_path: Path, run_command: Run
) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(clips[5].read_bytes()[:10] + b"no more of it")
    first = write_manifest(tmp_path / "first.jsonl", [*clips[:6], broken])
    second = write_manifest(tmp_path / "second.jsonl", clips[6:])
    output = tmp_path / "output"
    arguments = (*TRANSCRIBE, "--ray", "auto", first, second, "--output", output, "--workers", 2)
    code, out, err = run_command(*arguments)
    assert (code, out) == (1, "")
    found = read_lines(output / "results.jsonl")
    (failure,) = [result for result in found if "error" in result]
    assert failure["key"] == "broken"
    assert str(broken) in failure["error"]
    assert f"error: broken: {failure['error']}" in err
    assert "13 utterances: 13 in this run, 0 from earlier runs, 1 failed, 0 retries" in err
    assert [result["key"] for result in found] == [each.stem for each in (*clips[:6], broken, *clips[6:])]
    assert [result for result in found if result is not failure] == expected_results(model, clips)
    # Once more: nothing is computed, and what has failed can be tried again.
    before = files_of(output)
    code, _, err = run_command(*arguments, "--format", "text,srt")
    assert code == 1
    expected = [f"{each.stem} {model.transcribe(each).text}".strip() for each in clips]
    assert [line.strip() for line in (output / "results.txt").read_text(encoding="utf-8").splitlines()] == expected
    assert sorted(path.stem for path in (output / "srt").iterdir()) == sorted(each.stem for each in clips)
    assert "0 in this run, 13 from earlier runs, 1 failed" in err
    assert files_of(output) == before
    broken.write_bytes(clips[5].read_bytes())
    code, _, err = run_command(*arguments, "--retry-failed")
    assert code == 0
    assert "1 in this run, 12 from earlier runs, 0 failed" in err
    assert "error" not in (output / "results.jsonl").read_text(encoding="utf-8")


def test_recordings_together_have_the_results_of_each_alone(
    cluster: str, clips: list[Path], model: unichoir.Model, tmp_path: Path
) -> None:
    import ray

    clips[6].write_bytes(clips[6].read_bytes()[:-8000])
    expected = expected_results(model, clips)
    assert "truncated" in expected[6]["warnings"][0]
    clips[7].write_bytes(clips[7].read_bytes()[:20])
    utterances = read_utterances([str(write_manifest(tmp_path / "set.jsonl", clips))])
    # The longest comes first, so that their order is not that of the manifest.
    chunk = Chunk(7, tuple(replace(each, duration=20.0 - place) for place, each in enumerate(utterances)))
    source = ModelSource(str(SMALL_MODEL), 1)
    worker = Worker(source, DecodingOptions(), ray.remote(Attempts).options(num_cpus=0).remote())
    done = pickle.loads(worker({"chunk": pickle.dumps(chunk)})["done"])
    assert (done.number, done.attempt) == (7, 1)
    results = json.loads(json.dumps(done.results))
    assert results[7].keys() == {"key", "error"}
    assert str(clips[7]) in results[7]["error"]
    assert results[:7] + results[8:] == expected[:7] + expected[8:]


@given(durations=strategies.lists(strategies.floats(0.1, 200), max_size=40), most=strategies.integers(1, MAX_BATCH))
def test_batches_have_a_limit(durations: list[float], most: int) -> None:
    utterances = [Utterance(key=str(n), wav="", txt="", duration=each) for n, each in enumerate(durations)]
    batches = make_batches(utterances, most)
    assert sorted(each.key for batch in batches for each in batch) == sorted(each.key for each in utterances)
    for batch in batches:
        assert len(batch) <= most
        assert len(batch) == 1 or len(batch) * max(each.duration or 0 for each in batch) <= MAX_BATCH_SECONDS


def run_in_thread(manifest: Path, output: Path, **options: Any) -> tuple[threading.Thread, list[Any]]:
    reports: list[Any] = []
    source = ModelSource(str(SMALL_MODEL), 1)
    arguments = (read_utterances([str(manifest)]), output, source, DecodingOptions())
    thread = threading.Thread(target=lambda: reports.append(transcribe(*arguments, **options)), daemon=True)
    thread.start()
    return thread, reports


def test_a_killed_worker_costs_nothing(cluster: str, clips: list[Path], model: unichoir.Model, tmp_path: Path) -> None:
    expected = expected_results(model, clips)
    manifest, trap = write_manifest(tmp_path / "set.jsonl", clips), Trap(clips[5])
    thread, reports = run_in_thread(manifest, tmp_path / "output", workers=2)
    pid = trap.wait_for_worker()
    trap.disarm()
    os.kill(pid, signal.SIGKILL)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert read_lines(tmp_path / "output" / "results.jsonl") == expected
    assert reports[0].retries >= 1
    assert not reports[0].failed


def test_an_utterance_that_kills_its_workers_is_given_up(
    cluster: str, clips: list[Path], model: unichoir.Model, tmp_path: Path
) -> None:
    expected = expected_results(model, clips)
    manifest, trap = write_manifest(tmp_path / "set.jsonl", clips), Trap(clips[5])
    thread, reports = run_in_thread(manifest, tmp_path / "output", workers=1)
    for _ in range(MAX_DEATHS):
        worker = psutil.Process(trap.wait_for_worker())
        worker.kill()
        wait_for(lambda worker=worker: None if worker.is_running() else True)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    found = read_lines(tmp_path / "output" / "results.jsonl")
    assert found.pop(5) == {"key": clips[5].stem, "error": "2 workers died while recognising it"}
    del expected[5]
    assert found == expected
    assert list(reports[0].failed) == [clips[5].stem]


def test_a_killed_driver_goes_on_where_it_was(
    cluster: str, clips: list[Path], model: unichoir.Model, tmp_path: Path, run_command: Run
) -> None:
    expected = expected_results(model, clips)
    manifest, trap = write_manifest(tmp_path / "set.jsonl", clips), Trap(clips[11])
    output = tmp_path / "output"
    command = [*TRANSCRIBE, "--ray", cluster, str(manifest), "--output", str(output), "--workers", "1"]
    driver = subprocess.Popen([sys.executable, "-m", "unichoir", *command], stderr=subprocess.DEVNULL)
    worker = trap.wait_for_worker()
    wait_for(lambda: len(files_of(output)) >= 8 or None)
    driver.kill()
    driver.wait(PATIENCE)
    before = files_of(output)
    assert not (output / "results.jsonl").exists()
    trap.disarm()
    code, _, err = run_command(*command)
    assert code == 0, err
    assert f"{12 - len(before)} in this run, {len(before)} from earlier runs" in err
    after = files_of(output)
    assert {path: after[path] for path in before} == before
    assert read_lines(output / "results.jsonl") == expected
    psutil.wait_procs([psutil.Process(worker)] if psutil.pid_exists(worker) else [], PATIENCE)


def test_what_the_model_cannot_do_ends_the_run(
    cluster: str, clips: list[Path], tmp_path: Path, run_command: Run
) -> None:
    manifest = write_manifest(tmp_path / "set.jsonl", clips)
    command = (*TRANSCRIBE, "--ray", "auto", manifest, "--output", tmp_path / "output", "--top-k", 9)
    code, _, err = run_command(*command)
    assert code == 1
    assert "error: top_k 9: this model supports 1 to 2 experts per frame" in err
    assert not (tmp_path / "output" / "results.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.jsonl", "--output", "x"], "--output: needs --ray"),
        (["a.jsonl", "--workers", "2"], "--workers: needs --ray"),
        (["a.jsonl", "--retry-failed"], "--retry-failed: needs --ray"),
        (["a.jsonl", "--ray", "auto"], "--output: needed with --ray"),
        (["a.jsonl", "--ray", "auto", "--output", "x", "--output-dir", "y"], "--output-dir: cannot be used with --ray"),
        (["a.jsonl", "--ray", "auto", "--output", "x", "--format", "xml"], "--format: 'xml' is not one of text, json"),
        (["a.jsonl", "--ray", "auto", "--output", "x", "--max-lines", "1"], "--max-lines: needs --format srt or vtt"),
    ],
)
def test_usage_errors(run_command: Run, arguments: list[str], message: str) -> None:
    code, _, err = run_command("transcribe", *arguments)
    assert code == 2
    assert message in " ".join(err.replace("│", " ").split())


def test_a_cluster_that_is_not_there(clips: list[Path], tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "set.jsonl", clips)
    for address in ("127.0.0.1:1", "ray://127.0.0.1:10001", "nonsense"):
        command = [sys.executable, "-m", "unichoir", *TRANSCRIBE, "--ray", address, str(manifest), "--output", "x"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"error: {address}: no Ray cluster (")


def test_a_folder_belongs_to_its_hotwords_and_its_language_model(tmp_path: Path) -> None:
    lm, output = tmp_path / "lm.arpa", tmp_path / "output"
    source = ModelSource(str(SMALL_MODEL), language_model=str(lm))
    with pytest.raises(unichoir.UnichoirError, match=r"lm\.arpa: no such file"):
        transcribe([], output, source, DecodingOptions())
    assert not output.exists()
    lm.write_text("one")
    options = DecodingOptions(hotwords=(Hotword("OCTOBER"), Hotword("TWENTY", 2.0)))
    for _ in range(2):  # the second time it is compared with what the first has written
        transcribe([], output, source, options)
    with pytest.raises(unichoir.UnichoirError, match="different 'decoding'"):
        transcribe([], output, source, DecodingOptions(hotwords=(Hotword("OCTOBER"),)))
    Path(f"{lm}.json").write_text("{}")
    with pytest.raises(unichoir.UnichoirError, match="different 'language_model'"):
        transcribe([], output, source, options)
    Path(f"{lm}.json").unlink()
    lm.write_text("two")
    with pytest.raises(unichoir.UnichoirError, match="different 'language_model'"):
        transcribe([], output, source, options)


def test_results_of_something_else_are_refused(clips: list[Path], tmp_path: Path) -> None:
    utterances = read_utterances([str(write_manifest(tmp_path / "set.jsonl", clips))])
    chunks = make_chunks(utterances)
    job = {"model": "one", "decoding": {"mode": "attention", "beam_size": 10}}
    results = Results(tmp_path / "output", chunks, job)
    Results(tmp_path / "output", chunks, job)
    with pytest.raises(unichoir.UnichoirError, match='different \'model\': "one", now "two"'):
        Results(tmp_path / "output", chunks, {**job, "model": "two"})
    with pytest.raises(unichoir.UnichoirError, match="different 'utterances'"):
        Results(tmp_path / "output", make_chunks(utterances[1:]), job)
    with pytest.raises(unichoir.UnichoirError, match="not empty"):
        Results(tmp_path / "audio", chunks, job)
    # Parts that are damaged are as if they were not there.
    chunk = chunks[3]
    results.write(chunk, [{"key": each.key, "text": "line\u2028one"} for each in chunk.utterances])
    path, content = results.path(chunk), results.path(chunk).read_text(encoding="utf-8")
    assert results.read(chunk) == [{"key": each.key, "text": "line\u2028one"} for each in chunk.utterances]
    for damaged in ("", content[:-1], content[:9], "[]\n", content * 2, content.replace('"key"', '"name"')):
        path.write_text(damaged, encoding="utf-8")
        assert results.read(chunk) is None


def test_every_utterance_is_in_one_chunk(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.wav" for number in range(2000)]
    utterances = read_utterances([str(write_manifest(tmp_path / "set.jsonl", paths))])
    chunks = make_chunks(utterances)
    assert [each for chunk in chunks for each in chunk.utterances] == utterances
    assert [chunk.number for chunk in chunks] == list(range(len(chunks)))
    assert max(len(chunk.utterances) for chunk in chunks) > 1
    for chunk in chunks:
        assert len(chunk.utterances) == 1 or sum(each.duration or 0 for each in chunk.utterances) <= 1800
    with pytest.raises(unichoir.UnichoirError, match="key '0' was already used in"):
        read_utterances([str(tmp_path / "set.jsonl")] * 2)
