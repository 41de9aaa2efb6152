"""The command as a separate process: memory, open files and shutdown with badly behaved clients."""

import asyncio
import io
import json
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import httpx
import numpy as np
import psutil
import soundfile
import websockets
from prometheus_client.parser import text_string_to_metric_families
from tests.samples import WITH_SMALL_MODEL
from tests.serving.forms import MODEL_PART, Client, form, part
from tests.serving.harness import PATIENCE

HOURS = 2
COSTLY_RATE, COSTLY_CHANNELS = 655_350, 4


class Child(NamedTuple):
    process: "subprocess.Popen[str]"
    url: str

    def metric(self, name: str) -> float:
        text = httpx.get(f"{self.url}/metrics", timeout=PATIENCE).text
        (family,) = (family for family in text_string_to_metric_families(text) if family.name == name)
        return family.samples[0].value

    def log(self) -> list[dict]:
        """Wait for the end of the process; return its log since it began to listen."""
        assert self.process.stderr is not None
        return [json.loads(line) for line in self.process.stderr.read().splitlines()]


@contextmanager
def serving(*options: str, max_files: int | None = None) -> Iterator[Child]:
    """Run `unichoir serve` on a free port; max_files: its limit of open files."""

    def limit() -> None:
        if max_files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max_files, max_files))

    command = [sys.executable, "-m", "unichoir", "serve", *WITH_SMALL_MODEL, "--port", "0", "--threads", "1", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=limit) as process:
        assert process.stderr is not None
        try:
            yield Child(process, json.loads(process.stderr.readline())["url"])
        finally:
            process.kill()


def silence(seconds: float, rate: int, channels: int) -> bytes:
    """Return silence as FLAC, in which a few bytes can hold long audio."""
    content, block = io.BytesIO(), np.zeros((1 << 20, channels), np.int16)
    with soundfile.SoundFile(content, "w", rate, channels, format="FLAC", subtype="PCM_16") as sound:
        for start in range(0, round(seconds * rate), len(block)):
            sound.write(block[: round(seconds * rate) - start])
    return content.getvalue()


def test_hours_of_silence_in_a_few_bytes_take_little_memory() -> None:
    """Recognition of each admitted upload begins when little of it has been decoded. The server refuses the others."""
    content = silence(HOURS * 3600, 8000, 1)
    assert len(content) < 2e6
    body = form(MODEL_PART, part("stream", "true"), part("file", content, "silence.flac"))
    with serving() as server, ExitStack() as stack:
        process = psutil.Process(server.process.pid)
        before = process.memory_info().rss
        clients = [stack.enter_context(Client(server)) for _ in range(10)]
        for client in clients:
            client.start(f"Content-Length: {len(body)}")
            client.send(body)
        statuses = []
        for client in clients:
            statuses.append(int(client._stream.readline().split()[1]))
            if statuses[-1] == 200:
                event = next(line for line in client._stream if line.startswith(b"data:"))
                assert json.loads(event[5:])["duration"] == HOURS * 3600
                assert json.loads(event[5:])["position"] < 100
            else:
                headers = list(iter(client._stream.readline, b"\r\n"))
                assert any(header.startswith(b"retry-after: ") for header in headers)
        assert sorted(statuses) == [200] * 8 + [429] * 2
        # Decoded for the model, at 16 kHz, one recording is 461 MB.
        assert process.memory_info().rss - before < 400e6


def test_a_signal_ends_it_in_time_with_30_expensive_uploads_under_way() -> None:
    body = form(MODEL_PART, part("file", silence(60, COSTLY_RATE, COSTLY_CHANNELS), "costly.flac"))
    options = ["--max-waiting-uploads", "30", "--max-decoded-mb", "4096", "--drain-timeout", "1"]
    with serving(*options) as server, ExitStack() as stack:
        slow = stack.enter_context(Client(server))
        slow.start("Content-Length: 1000000")
        slow.send(body[:1000])
        clients = [stack.enter_context(Client(server)) for _ in range(30)]
        for client in clients:
            client.start(f"Content-Length: {len(body)}")
            client.send(body)
        # They go on in turn, piece by piece, and one has more pieces than there is time for until all have come.
        while server.metric("unichoir_uploads") < 25:
            assert server.process.poll() is None
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE / 3) == 0
        lines = [client._stream.readline() for client in clients]
        assert any(b" 503 " in line for line in lines)
        assert all(b" 503 " in line or b" 200 " in line or not line for line in lines)
        assert slow._stream.read() == b""  # it is not waited for
        records = server.log()
    assert [record["event"] for record in records if record["level"] != "info"] == []
    assert records[-1]["event"] == "stopping"


def test_connections_beyond_the_limit_of_open_files_are_closed_with_one_line_in_the_log() -> None:
    """Those that have sent nothing, those kept alive and WebSockets count alike; who comes later is served."""
    with serving(max_files=160) as server:
        process = psutil.Process(server.process.pid)
        host, port = server.url.removeprefix("http://").split(":")

        async def hold() -> None:
            answered = [httpx.AsyncClient() for _ in range(20)]
            for client in answered:
                assert (await client.get(f"{server.url}/healthz")).status_code == 200
            sockets = [await websockets.connect(server.url.replace("http", "ws"), proxy=None) for _ in range(20)]
            used = process.num_fds()
            silent = [socket.create_connection((host, int(port))) for _ in range(300)]
            refused: set[socket.socket] = set()
            while len(refused) < 300 - (160 - used):
                refused |= {each for each in wait_readable(silent, refused) if is_closed(each)}
            assert process.num_fds() < 160
            for each in silent:
                each.close()
            for client in answered:
                await client.aclose()
            for each in sockets:
                await each.close()

        asyncio.run(hold())
        while True:
            try:
                assert httpx.get(f"{server.url}/healthz").status_code == 200
                break
            except httpx.TransportError:
                assert server.process.poll() is None
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0
        events = [record["event"] for record in server.log()]
    assert events.count("too_many_connections") == 1
    assert set(events) <= {"too_many_connections", "session_ended", "draining", "stopping"}


def wait_readable(sockets: list[socket.socket], but: set[socket.socket]) -> list[socket.socket]:
    found, _, _ = select.select([each for each in sockets if each not in but], [], [], PATIENCE)
    assert found, "the server should have closed more of them by now"
    return found


def is_closed(connection: socket.socket) -> bool:
    try:
        return not connection.recv(1)
    except ConnectionError:
        return True
