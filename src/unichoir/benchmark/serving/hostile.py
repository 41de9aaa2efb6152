"""Clients that attack or violate the protocol; called by `load`, planned by `soak`.

A good server refuses them or cuts them off, and other clients don't notice.
"""

import asyncio
import base64
import io
import json
import os
import ssl
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import numpy as np
import soundfile
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from unichoir.benchmark.serving.client import Misbehaviour, SessionResult, Target, parse_message
from unichoir.benchmark.serving.recordings import SAMPLE_RATE, Recording

PATIENCE_SECONDS = 120.0
"""The time in which a server must end any attack."""
BOUNDARY = "hostile"
HUGE_BYTES = (20 << 20) + 1
"""One more than the maximum size of a message."""
MAX_PING_BYTES = 64 << 20
"""A server fails if it accepts this many bytes of pings while the client does not read the answers."""
FIRST_BYTES, DRIP_SECONDS = 1000, 0.5
"""A slow upload sends this many bytes at once, and then one byte per interval."""
SILENCE_SECONDS = 60


async def run_attack(target: Target, recording: Recording, kind: str) -> SessionResult:
    """Run one of `ATTACKS`; the outcome is `repelled` if the server reacts as it should, otherwise `failed`."""
    try:
        await asyncio.wait_for(ATTACKS[kind](target, recording), PATIENCE_SECONDS)
    except asyncio.TimeoutError:
        reason = f"{kind}: not ended by the server after {PATIENCE_SECONDS:g} s"
    except (Misbehaviour, WebSocketException, OSError, EOFError) as error:
        reason = f"{kind}: {error or type(error).__name__}"
    else:
        return SessionResult(key=kind, outcome="repelled")
    return SessionResult(key=kind, outcome="failed", reason=reason)


def _saying(message: str | bytes) -> "Attack":
    """An attack on a WebSocket whose first message must be answered by an error or by closing the connection."""

    async def attack(target: Target, _: Recording) -> None:
        async with target.connect() as socket:
            try:
                await socket.send(message)
                answer = await socket.recv()
            except ConnectionClosed:
                return
            try:
                found = parse_message(answer)
            except Misbehaviour:  # the expected error message
                return
            raise Misbehaviour(f"expected an error, got {found[0]}")

    return attack


def _uploading(make: Callable[[Recording], bytes], status: int, words: str) -> "Attack":
    """An upload that must be answered with this status and these words, or with 429 if the server is busy."""

    async def attack(target: Target, recording: Recording) -> None:
        found, answer = await _ask(target, await _upload(target, make(recording)))
        if found != 429 and (found != status or words not in answer):
            raise Misbehaviour(f"HTTP {found}: {answer[:200]}")

    return attack


async def _slow_upload(target: Target, recording: Recording) -> None:
    request = await _upload(target, bytes(1 << 20))
    async with _Raw(target) as raw:
        raw.writer.write(request[:FIRST_BYTES])
        answered = asyncio.ensure_future(raw.status())
        while not answered.done():
            raw.writer.write(b"\0")
            await asyncio.wait([answered], timeout=DRIP_SECONDS)
        if answered.result() not in (408, 429):
            raise Misbehaviour(f"HTTP {answered.result()}")


def _leaving(part: float) -> "Attack":
    """An upload whose client disconnects after sending this part of it; 1.0: all of it, without waiting for results."""

    async def attack(target: Target, recording: Recording) -> None:
        request = await _upload(target, _wav(recording))
        async with _Raw(target) as raw:
            raw.writer.write(request[: round(part * len(request))])
            await raw.writer.drain()

    return attack


async def _wrong_host(target: Target, _: Recording) -> None:
    status, answer = await _ask(target, b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n")
    if status != 421:
        raise Misbehaviour(f"HTTP {status}: {answer[:200]}")


async def _wrong_origin(target: Target, _: Recording) -> None:
    try:
        async with target.connect(origin="http://evil.example"):
            raise Misbehaviour("a page from another origin is accepted")
    except InvalidStatus as error:
        if error.response.status_code != 403:
            raise


async def _pings(target: Target, _: Recording) -> None:
    pings = b"".join(b"\x89\xfd" + bytes(4 + 125) for _ in range(1000))
    async with _Raw(target) as raw:
        raw.writer.write(_head(target, "GET /") + b"Upgrade: websocket\r\nConnection: Upgrade\r\n")
        key = base64.b64encode(os.urandom(16))
        raw.writer.write(b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n")
        if (status := await raw.status()) != 101:
            raise Misbehaviour(f"HTTP {status}")
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        try:
            for _sent in range(0, MAX_PING_BYTES, len(pings)):
                raw.writer.write(pings)
                await raw.writer.drain()
        except ConnectionError:
            return
    raise Misbehaviour(f"accepts {MAX_PING_BYTES} bytes of pings from a client that does not read")


async def _half_open(target: Target, _: Recording) -> None:
    """Send half a request, and nothing more."""
    async with _Raw(target) as raw:
        raw.writer.write(b"GET / HTTP/1.1\r\nHost")
        try:
            await raw.reader.read()
        except ConnectionError:
            return


Attack = Callable[[Target, Recording], Awaitable[None]]
ATTACKS: dict[str, Attack] = {
    "malformed JSON": _saying('{"signal": "start"'),
    "lone surrogates": _saying('{"signal": "\\ud800"}'),
    "audio before the start": _saying(bytes(3200)),
    "oversized message": _saying(bytes(HUGE_BYTES)),
    "garbage": _uploading(lambda recording: os.urandom(20_000), 400, "audio_unreadable"),
    "truncated recording": _uploading(lambda recording: _wav(recording)[:-3200], 200, "truncated"),
    "silent recording": _uploading(lambda recording: _silence(), 200, '"text":""'),
    "slow upload": _slow_upload,
    "client that leaves in an upload": _leaving(0.5),
    "client that leaves after it": _leaving(1.0),
    "wrong Host": _wrong_host,
    "wrong Origin": _wrong_origin,
    "pings without reading": _pings,
    "half-open connection": _half_open,
}
"""All attacks, by name."""


class _Raw:
    """A TCP connection to a server that is aborted at the end of the block, not closed."""

    def __init__(self, target: Target) -> None:
        self._target = target

    async def __aenter__(self) -> "_Raw":
        parts = urlsplit(self._target.url)
        secure = parts.scheme == "wss"
        context = ssl.create_default_context() if secure else None
        self.reader, self.writer = await asyncio.open_connection(
            parts.hostname, parts.port or (443 if secure else 80), ssl=context
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    async def status(self) -> int:
        """Read the status of the next response. Raises Misbehaviour if it is not HTTP."""
        line = await self.reader.readline()
        words = line.split()
        if len(words) < 2 or not words[1].isdigit():
            raise Misbehaviour(f"not an HTTP response: {line[:60]!r}")
        return int(words[1])


async def _ask(target: Target, request: bytes) -> tuple[int, str]:
    """Send a request; return the status and body of the response."""
    async with _Raw(target) as raw:
        raw.writer.write(request)
        status, size = await raw.status(), 0
        while (line := await raw.reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            size = int(value) if name.lower() == b"content-length" else size
        return status, (await raw.reader.readexactly(size)).decode("utf-8", "replace")


def _head(target: Target, what: str) -> bytes:
    lines = [f"{what} HTTP/1.1", f"Host: {urlsplit(target.url).netloc}"]
    if target.api_key:
        lines.append(f"Authorization: Bearer {target.api_key}")
    return "".join(f"{line}\r\n" for line in lines).encode()


async def _upload(target: Target, content: bytes) -> bytes:
    """Return a request that uploads a file with this content, for the server's model."""
    status, models = await _ask(target, _head(target, "GET /v1/models") + b"\r\n")
    if status != 200:
        raise Misbehaviour(f"HTTP {status}: {models[:200]}")
    fields = (("model", json.loads(models)["data"][0]["id"].encode()), ('file"; filename="it', content))
    body = b"".join(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value + b"\r\n"
        for name, value in fields
    )
    body += f"--{BOUNDARY}--\r\n".encode()
    lines = f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {len(body)}\r\n\r\n"
    return _head(target, "POST /v1/audio/transcriptions") + lines.encode() + body


def _wav(recording: Recording) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, recording.samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return content.getvalue()


def _silence() -> bytes:
    content = io.BytesIO()
    soundfile.write(content, np.zeros(SILENCE_SECONDS * SAMPLE_RATE, np.int16), SAMPLE_RATE, format="FLAC")
    return content.getvalue()
