"""`unichoir benchmark --serve` from end to end: the real server and real clients."""

import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.samples import REFERENCES, WITH_SMALL_MODEL

from unichoir.benchmark.serving import run as run_module
from unichoir.benchmark.serving.probe import Probe
from unichoir.benchmark.serving.recordings import Recording, with_expected_texts
from unichoir.benchmark.serving.results import ServingOptions, ServingResults
from unichoir.benchmark.serving.server import Server, running
from unichoir.cli._shared import benchmark_serving
from unichoir.errors import UnichoirError

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(run_command: Run) -> Run:
    """Runs `unichoir benchmark` in this process: exit code, standard output, standard error."""
    return partial(run_command, "benchmark")


@pytest.fixture(scope="module")
def full_server() -> Iterator[Server]:
    """A server with room for one session."""
    with running([*WITH_SMALL_MODEL, "--max-sessions", "1", "--threads", "1"]) as server:
        yield server


def test_load_and_soak(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNICHOIR_API_KEY", "of another server")
    load = ["--clients", "2", "--play", 1, "--audio", REFERENCES]
    soak = ["--sessions", 20, "--dropped", 4, "--hostile", 2]
    more = ["--engines", 2, "--output", tmp_path / "out"]
    code, out, err = run("--serve", *WITH_SMALL_MODEL, *load, *soak, "--threads", 1, *more)
    assert (code, err) == (0, "")
    assert out.rstrip() == (tmp_path / "out" / "results.md").read_text(encoding="utf-8").rstrip()
    content = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert (content["exit_code"], content["server_errors"]) == (0, [])
    assert "--threads 1 --engines 2" in content["server"]
    (found,) = content["loads"]
    assert found["refused"] == found["failed"] == found["wrong_words"] == 0
    assert found["completed"] == len(found["sessions"]) == found["clients"] == 2
    assert found["final_latency"]["count"] == found["first_partial"]["count"] == 2
    assert found["reference_words"] == sum(len(each["reference"].split()) for each in found["sessions"])
    assert found["sessions"][0]["text"] != found["sessions"][1]["text"]
    assert found["real_time_factor"] > 0
    assert found["partial_intervals"]["count"] > 0
    # One for each chunk, unless some were encoded two at a time; the rest of a session may be too short for a frame.
    chunks = [each["audio_seconds"] / 0.64 for each in found["sessions"]]
    assert sum(map(math.floor, chunks)) / 2 <= found["histograms"]["batch_size"]["inf"] <= sum(map(math.ceil, chunks))
    assert found["server_cpu"] > 0
    assert found["after"]["memory"] > 10e6
    assert content["soak"]["objections"] == []
    assert (content["soak"]["completed"], content["soak"]["dropped"]) == (20, 4)
    assert content["soak"]["repelled"] == 2
    assert content["soak"]["warm_sessions"] == 13
    assert content["soak"]["end"]["open_sessions"] == 0
    assert content["soak"]["end"]["threads"] > 1


def test_what_goes_wrong_is_found(
    run: Run, full_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that has room for one of two clients, and expected texts that are others."""

    def others(*arguments: Any) -> list[Recording]:
        return [replace(each, expected="SOMETHING ELSE") for each in with_expected_texts(*arguments)]

    monkeypatch.setattr(run_module, "with_expected_texts", others)
    server = [*WITH_SMALL_MODEL, "--url", full_server.target.url]
    load = ["--clients", 2, "--play", 0.5, "--audio", REFERENCES]
    code, out, err = run("--serve", *server, *load, "--output", tmp_path)
    assert (code, err) == (0, "")
    content = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    (found,) = content["loads"]
    assert found["real_time"] is False
    assert found["objections"][:2] == ["1 refused", "1 with wrong words"]
    assert found["refusals"] == 1
    assert content["exit_code"] is None
    assert "| real time | no |" in out
    assert "instead of 'SOMETHING ELSE'" in out
    assert "1 x refused: HTTP 503" in out


def test_server_is_seen_as_the_system_sees_it(full_server: Server) -> None:
    snapshot = Probe(full_server.target, full_server.pid).snapshot()
    process = psutil.Process(full_server.pid)
    assert snapshot.threads == process.num_threads()
    assert snapshot.memory == pytest.approx(process.memory_info().rss, rel=0.1)
    assert snapshot.files == pytest.approx(process.num_fds(), abs=2)  # this connection comes and goes


def test_a_server_that_does_not_come_up() -> None:
    with pytest.raises(UnichoirError, match="did not start: error: nix: neither a model"):
        Server(["--model", "nix"])


def test_a_server_that_dies() -> None:
    def kill_and_read() -> None:
        with running([*WITH_SMALL_MODEL, "--threads", "1"]) as server:
            os.kill(server.pid, signal.SIGKILL)
            Probe(server.target, server.pid).snapshot()

    with pytest.raises(UnichoirError, match=r"the server died with exit code -9: .*listening"):
        kill_and_read()


def test_a_bad_end_is_an_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    results = ServingResults(
        machine={},
        model="m",
        server="unichoir serve",
        audio="some",
        options=ServingOptions(clients=(), play_seconds=1, chunk_size=16, left_chunks=4, threads=2),
        loads=(),
        soak=None,
        exit_code=3,
        server_errors=('{"event": "bang"}',),
        seconds=1.0,
    )
    monkeypatch.setattr(benchmark_serving, "_run", lambda *arguments: results)
    code, out, err = run("--serve")
    assert code == 1
    assert "exit code 3 after SIGTERM" in out
    assert err == 'error: the server ended with exit code 3: {"event": "bang"}\n'


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--serve", "--engine", "onnx", "--batch", "1"], 2, "--engine, --batch: not with --serve"),
        (["--serve", "--memory", "8"], 2, "--memory: not with --serve"),
        (["--clients", "3", "--url", "ws://x"], 2, "--clients, --url: only with --serve"),
        (["--serve", "--model", "a", "--configs", "moe-tiny"], 2, "--model, --configs: give one of them"),
        (
            ["--serve", "--configs", "moe-tiny,moe-1b"],
            2,
            "--configs: expected one configuration, found moe-tiny, moe-1b",
        ),
        (["--serve", "--configs", "moe-2b"], 1, "unknown configuration 'moe-2b'"),
        (["--serve", "--dropped", "3"], 2, "--dropped: only with --sessions"),
        (["--serve", "--hostile", "3"], 2, "--hostile: only with --sessions"),
        (["--serve", "--models", "d"], 2, "--models: only with --configs"),
        (["--serve", "--url", "ws://x", "--engines", "2"], 2, "--engines: not with --url"),
        (["--engines", "2"], 2, "--engines: only with --serve"),
        (["--serve", "--sessions", "3", "--play", "1"], 2, "--play: only with --clients"),
        (["--serve", "--clients", "2,0"], 2, "--clients: 0 is not a number of clients"),
        (["--serve", "--clients", "two"], 2, "--clients: 'two' is not a list of numbers"),
        (["--serve", "--play", "inf"], 2, "--play: inf is not a number of seconds"),
        (["--serve", "--streaming", "0"], 2, "--streaming, --left-chunks: chunk_size"),
        (["--serve", "--url", "http://x"], 2, "--url: 'http://x' does not begin with ws://"),
        (["--serve", "--url", "ws://127.0.0.1:1", "--sessions", "1"], 1, "http://127.0.0.1:1/metrics: "),
        (["--serve", "--model", "nix"], 1, "nix: neither a model directory nor an included model"),
        (["--serve", "--audio", "nix.wav"], 1, "nix.wav"),
    ],
)
def test_errors(run: Run, arguments: list[str], code: int, message: str) -> None:
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert message in " ".join(err.replace("│", " ").split())


def test_missing_extras_are_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("unichoir.benchmark.serving")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "websockets", None)
    monkeypatch.setitem(sys.modules, "websockets.asyncio.client", None)
    code, _, err = run("--serve")
    assert code == 1
    assert "unichoir benchmark --serve needs an extra: pip install 'unichoir[serve]' (no websockets" in err
