"""Whatever clients do, the server reports errors or closes, other clients get their results, and nothing leaks."""

import asyncio
import base64
import contextlib
import json
import os
import random
import socket
import struct
from collections.abc import Awaitable, Callable

import httpx
import numpy as np
import psutil
import pytest
import websockets
from tests.serving.harness import PATIENCE, Running, wenet_client

HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
)
START = b'{"signal": "start", "continuous_decoding": true}'
TEXT, BINARY, CLOSE, PING, PONG, FIN = 1, 2, 8, 9, 10, 0x80


class RawSocket:
    """A TCP connection on which anything can be sent."""

    def __init__(self, server: Running) -> None:
        self.host, port = server.url.removeprefix("http://").split(":")
        self.port = int(port)

    async def __aenter__(self) -> "RawSocket":
        self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    async def upgrade(self, path: str = "/") -> None:
        """Upgrade the connection to a WebSocket."""
        key = base64.b64encode(os.urandom(16)).decode()
        self.send(HANDSHAKE.format(path=path, host=f"{self.host}:{self.port}", key=key).encode())
        answer = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE)
        assert b" 101 " in answer

    def send(self, content: bytes) -> None:
        self.writer.write(content)

    def frame(self, opcode: int, payload: bytes, *, masked: bool = True, length: int | None = None) -> None:
        """Send a WebSocket frame; `length`: the length in its header."""
        size = len(payload) if length is None else length
        mask = 0x80 if masked else 0
        if size < 126:
            head = struct.pack("!BB", opcode, mask | size)
        elif size < 1 << 16:
            head = struct.pack("!BBH", opcode, mask | 126, size)
        else:
            head = struct.pack("!BBQ", opcode, mask | 127, size)
        self.send(head + (b"\0\0\0\0" if masked else b"") + payload)

    async def rest(self) -> bytes:
        """Return everything that the server sends until it closes."""
        try:
            return await asyncio.wait_for(self.reader.read(), PATIENCE)
        except ConnectionError:
            return b""

    def reset(self) -> None:
        """Reset the connection instead of closing it."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Attack = Callable[[Running], Awaitable[None]]


async def no_http(server: Running) -> None:
    async with RawSocket(server) as raw:
        raw.send(os.urandom(4096) + b"\r\n\r\n")
        await raw.rest()


async def pings_and_never_reads(server: Running) -> None:
    """Send pings without reading: the answers would accumulate in the server's memory."""
    async with RawSocket(server) as raw:
        await raw.upgrade()
        raw.writer.transport.pause_reading()
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                for _ in range(1000):
                    raw.frame(PING, bytes(125))
                await asyncio.wait_for(raw.writer.drain(), PATIENCE)
            pytest.fail("26 MB of pings were answered")


async def headers_without_end(server: Running) -> None:
    async with RawSocket(server) as raw:
        raw.send(b"GET / HTTP/1.1\r\n" + b"X-A: " + b"a" * 200_000)
        await raw.rest()


async def handshake_and_nothing(server: Running) -> None:
    async with RawSocket(server) as raw:
        await raw.upgrade()
        raw.reset()


async def reserved_opcode(server: Running) -> None:
    async with RawSocket(server) as raw:
        await raw.upgrade()
        raw.frame(FIN | 11, b"?")
        assert struct.pack("!H", 1002) in await raw.rest()


async def without_mask(server: Running) -> None:
    async with RawSocket(server) as raw:
        await raw.upgrade()
        raw.frame(FIN | TEXT, START, masked=False)
        assert struct.pack("!H", 1002) in await raw.rest()


async def no_utf8(server: Running) -> None:
    async with RawSocket(server) as raw:
        await raw.upgrade()
        raw.frame(FIN | TEXT, b'{"signal": "\xff\xfe"}')
        assert struct.pack("!H", 1007) in await raw.rest()


async def announced_terabyte(server: Running) -> None:
    async with RawSocket(server) as raw:
        await raw.upgrade()
        raw.frame(FIN | BINARY, b"\0" * 1000, length=1 << 40)
        assert struct.pack("!H", 1009) in await raw.rest()


async def endless_fragments(server: Running) -> None:
    async with RawSocket(server) as raw:
        await raw.upgrade("/v1/realtime")
        raw.frame(TEXT, b"[")
        for _ in range(230):  # 23 MB, more than one message may have
            raw.frame(0, b"[" * 100_000)
        await raw.rest()


async def half_closed(server: Running) -> None:
    async with RawSocket(server) as raw:
        await raw.upgrade()
        raw.frame(FIN | TEXT, START)
        raw.frame(FIN | BINARY, b"\0" * 32_000)
        raw.writer.write_eof()
        await raw.rest()


async def reset_in_a_message(server: Running) -> None:
    async with RawSocket(server) as raw:
        await raw.upgrade()
        raw.frame(FIN | TEXT, START)
        raw.frame(FIN | BINARY, b"\0" * 100, length=32_000)
        await raw.writer.drain()
        raw.reset()


async def flood_of_pings(server: Running) -> None:
    async with RawSocket(server) as raw:
        await raw.upgrade()
        for _ in range(2000):
            raw.frame(FIN | PING, b"x" * 125)
        raw.frame(FIN | CLOSE, struct.pack("!H", 1000))
        await raw.rest()


async def grains_of_audio(server: Running) -> None:
    async with wenet_client(server.ws_url) as client:
        await client.start()
        for _ in range(3000):
            await client.socket.send(b"\1\0")
        await client.end()


async def noise_of_full_scale(server: Running) -> None:
    async with wenet_client(server.ws_url) as client:
        await client.start(continuous_decoding=True)
        noise = np.random.default_rng(0).integers(-32768, 32768, 100_000).astype(np.int16)
        await client.play(np.concatenate([noise, np.full(20_000, 32767, np.int16), np.full(20_000, -32768, np.int16)]))
        await client.end()
        assert client.error is None


async def floods_of_connections(server: Running) -> None:
    async def one(place: int) -> None:
        async with RawSocket(server) as raw:
            if place % 3:
                await raw.upgrade("/" if place % 2 else "/v1/realtime")
            if place % 5 == 0:
                raw.send(b"GET /metr")

    await asyncio.gather(*(one(place) for place in range(120)))


async def signals_in_any_order(server: Running) -> None:
    """Signals of both protocols in random order, with values of random types."""
    rng = random.Random(0)
    values = [None, True, -1, 1e99, "", "start", [], {}, {"a": [1]}, "\u0000", "x" * 3000]
    keys = ["signal", "nbest", "continuous_decoding", "type", "session", "audio", "event_id"]
    words = ["start", "end", "session.update", "input_audio_buffer.append", "input_audio_buffer.commit"]
    words.append("input_audio_buffer.clear")

    async def one(path: str) -> None:
        async with websockets.connect(server.ws_url + path) as client:
            try:
                for _ in range(30):
                    message = {rng.choice(keys): rng.choice(values) for _ in range(rng.randrange(4))}
                    message[rng.choice(["signal", "type"])] = rng.choice(words)
                    if rng.random() < 0.3:
                        message["audio"] = base64.b64encode(rng.randbytes(2 * rng.randrange(3000))).decode()
                    await client.send(json.dumps(message))
                    if rng.random() < 0.2:
                        await client.send(rng.randbytes(rng.randrange(5000)))
            except websockets.ConnectionClosed:
                pass

    await asyncio.gather(*(one("/" if place % 2 else "/v1/realtime") for place in range(40)))


ATTACKS: list[Attack] = [
    no_http,
    headers_without_end,
    pings_and_never_reads,
    handshake_and_nothing,
    reserved_opcode,
    without_mask,
    no_utf8,
    announced_terabyte,
    endless_fragments,
    half_closed,
    reset_in_a_message,
    flood_of_pings,
    grains_of_audio,
    noise_of_full_scale,
    floods_of_connections,
    signals_in_any_order,
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_other_sessions_get_their_words(server: Running, clips, expected, attack: Attack) -> None:
    async def good(place: int) -> list[str]:
        async with wenet_client(server.ws_url) as client:
            await client.start(continuous_decoding=True)
            middle = len(clips[place]) // 2
            await client.play(clips[place][:middle])
            attacked.set()
            await attack_over.wait()
            await client.play(clips[place][middle:])
            return await client.end()

    async def attack_in_the_middle() -> None:
        await attacked.wait()
        try:
            await attack(server)
        finally:
            attack_over.set()

    async def talk() -> list[list[str]]:
        *found, _ = await asyncio.gather(*(good(place) for place in range(5)), attack_in_the_middle())
        return found

    attacked, attack_over = asyncio.Event(), asyncio.Event()
    assert asyncio.run(talk()) == [[text] for text in expected]
    wait_until_empty(server)


def test_a_connection_without_a_request_is_closed(
    serve: Callable[..., Running], monkeypatch: pytest.MonkeyPatch, clips, expected
) -> None:
    monkeypatch.setattr("unichoir.serving.http.REQUEST_TIMEOUT", 0.2)
    server = serve()
    host = server.url.removeprefix("http://").encode()

    async def half_a_request(first: bytes, answers: int) -> None:
        async with RawSocket(server) as raw:
            raw.send(first + b"GET /healthz HTTP/1.1\r\nX-")
            assert (await raw.rest()).count(b"200 OK") == answers

    async def talk() -> list[str]:
        whole = b"GET /healthz HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
        async with wenet_client(server.ws_url) as client:
            await client.start()
            await client.play(clips[0][:8000])
            await asyncio.gather(half_a_request(b"", 0), half_a_request(whole, 1), half_a_request(whole * 2, 2))
            await client.play(clips[0][8000:])  # WebSockets have their own patience
            return await client.end()

    assert asyncio.run(talk()) == [expected[0]]
    wait_until_empty(server)


def test_hundreds_of_idle_connections_keep_no_one_out(serve: Callable[..., Running], clips, expected) -> None:
    server = serve(max_sessions=1)

    async def talk() -> list[str]:
        idle = [await asyncio.open_connection(*server.url.removeprefix("http://").split(":")) for _ in range(400)]
        async with wenet_client(server.ws_url) as client:
            await client.start()
            await client.play(clips[0])
            found = await client.end()
        answer = await asyncio.to_thread(httpx.get, f"{server.url}/healthz")
        assert answer.status_code == 200
        for _, writer in idle:
            writer.close()
        return found

    assert asyncio.run(talk()) == [expected[0]]


def wait_until_empty(server: Running) -> None:
    """Wait until the server has noticed that all clients are gone."""

    async def empty() -> None:
        engine, state = server.engine, server.server.server_state
        while engine.sessions or state.connections or any(each._live or each._arrived for each in engine.steppers):
            await asyncio.sleep(0.01)

    asyncio.run_coroutine_threadsafe(asyncio.wait_for(empty(), PATIENCE), server.loop).result()


def test_sessions_that_end_or_are_dropped_leave_nothing_behind(serve: Callable[..., Running], clips, expected) -> None:
    busy, process = serve(), psutil.Process()

    async def whole(place: int) -> list[str]:
        async with wenet_client(busy.ws_url) as client:
            await client.start()
            await client.play(clips[place % 5])
            return await client.end()

    async def dropped(place: int) -> None:
        async with RawSocket(busy) as raw:
            await raw.upgrade("/" if place % 2 else "/v1/realtime")
            raw.frame(FIN | TEXT, START)
            raw.frame(FIN | BINARY, clips[place % 5].tobytes()[: 4000 * (place % 7)])
            await raw.writer.drain()
            raw.reset()

    async def round_of(count: int) -> None:
        results = await asyncio.gather(*(whole(place) for place in range(count)), *(dropped(p) for p in range(count)))
        assert results[:count] == [[expected[place % 5]] for place in range(count)]

    def left() -> tuple[int, int, int]:
        wait_until_empty(busy)
        tasks = busy.call(lambda: len(asyncio.all_tasks()))
        return tasks, process.num_threads(), process.num_fds()

    asyncio.run(round_of(8))
    before = left()
    for _ in range(3):
        asyncio.run(round_of(8))
    assert left() == before
