"""Clients for uploads: OpenAI's own, and one that writes forms byte by byte."""

import io
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import openai
import soundfile
from tests.samples import SMALL_MODEL
from tests.serving.harness import PATIENCE, RATE, Running

MODEL = SMALL_MODEL.name
BOUNDARY = "the-boundary"


class Answer(NamedTuple):
    status: int
    body: Any
    closed: bool

    @property
    def error(self) -> tuple[int, str | None, str | None]:
        """Status, code and parameter."""
        return self.status, self.body["error"]["code"], self.body["error"]["param"]

    @property
    def message(self) -> str:
        return str(self.body["error"]["message"])


class Client:
    """One connection."""

    def __init__(self, server: Running) -> None:
        parts = urlsplit(server.url)
        self._host = str(parts.netloc)
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE)
        self._stream = self._socket.makefile("rb")

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: Any) -> None:
        self._stream.close()
        self._socket.close()

    def start(self, *headers: str, content_type: str = f"multipart/form-data; boundary={BOUNDARY}") -> None:
        lines = [
            "POST /v1/audio/transcriptions HTTP/1.1",
            f"Host: {self._host}",
            f"Content-Type: {content_type}",
            *headers,
        ]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def send_chunk(self, data: bytes) -> None:
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def post(self, body: bytes, **options: Any) -> Answer:
        self.start(f"Content-Length: {len(body)}", **options)
        self.send(body)
        return self.answer()

    def answer(self) -> Answer:
        status = int(self._stream.readline().split()[1])
        headers = {}
        while line := self._stream.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name.lower()] = value
        body = self._stream.read(int(headers["content-length"]))
        return Answer(status, json.loads(body), headers.get("connection") == "close")


def part(name: str | bytes, value: str | bytes, file_name: str | bytes | None = None) -> bytes:
    name, value = (text.encode() if isinstance(text, str) else text for text in (name, value))
    file_name = file_name.encode() if isinstance(file_name, str) else file_name
    head = b'Content-Disposition: form-data; name="%s"' % name
    if file_name is not None:
        head += b'; filename="%s"' % file_name
    return b"\r\n".join([b"--" + BOUNDARY.encode(), head, b"", value, b""])


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


MODEL_PART = part("model", MODEL)


def audio(seconds: float = 0.5, rate: int = RATE, kind: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).normal(0, 0.001, round(seconds * rate))
    soundfile.write(buffer, noise, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def wait_for(server: Running, condition: Callable[[], bool]) -> None:
    """Wait until the condition holds, letting the server's event loop run between checks."""
    late = threading.Event()
    timer = threading.Timer(PATIENCE, late.set)
    timer.start()
    while not condition():
        assert not late.is_set(), "this should have happened by now"
        server.call(lambda: None)
    timer.cancel()


def client_of(server: Running) -> openai.OpenAI:
    """Return OpenAI's client without retries."""
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE)


def write_long_recording(path: Path, clips: list[np.ndarray]) -> Path:
    """Write a recording of several pieces, the first of them silent; clips: int16 at 16 kHz."""
    silence = np.zeros(RATE, dtype=np.int16)
    parts = [silence] * 21 + [part for clip in clips * 2 for part in (clip, silence)]
    soundfile.write(path, np.concatenate(parts), RATE)
    return path
