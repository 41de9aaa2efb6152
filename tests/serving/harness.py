"""Real servers on loopback and a client of WeNet's protocol."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import websockets
from tests.samples import SMALL_MODEL

from unichoir.recognition.options import StreamingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.serving.engine import Engine
from unichoir.serving.server import Server, make_server
from unichoir.serving.settings import Settings

RATE = 16000
PATIENCE = 60
"""Seconds after which a test that hangs has failed."""


@dataclass
class Running:
    """A server that runs in a thread of this process."""

    server: Server
    engine: Engine
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread
    """It ends when the server does."""

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def ws_url(self) -> str:
        return self.url.replace("http", "ws", 1)

    def call(self, function: Callable[[], Any]) -> Any:
        """Run a function in the server's event loop and return its result."""

        async def called() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(called(), self.loop).result(PATIENCE)

    def metric(self, name: str, **labels: str) -> float:
        """Return the value of a metric, 0 if it does not exist."""
        return self.call(lambda: self.engine.metrics.registry.get_sample_value(name, labels) or 0.0)


@contextmanager
def running(recognizer: Recognizer, **options: Any) -> Iterator[Running]:
    """Run a server with these settings; it is stopped at the end, whatever its clients do."""
    settings = Settings(**{"model_name": SMALL_MODEL.name, "language": "en", **options})
    server = make_server(recognizer, settings, host="127.0.0.1", port=0)
    started, loops = threading.Event(), []
    startup = server.startup

    async def announced(sockets: Any = None) -> None:
        await startup(sockets)
        loops.append(asyncio.get_running_loop())
        started.set()

    server.startup = announced  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, name="server")
    thread.start()
    try:
        assert started.wait(PATIENCE)
        yield Running(server, server.engine, loops[0], thread)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


def stream_texts(recognizer: Recognizer, samples: np.ndarray, rate: int = RATE, **options: Any) -> list[str]:
    """Return the final texts of a stream, without a server."""
    stream = recognizer.streams.create_stream(replace(StreamingOptions(), **options))
    stream.accept_waveform(samples, rate)
    stream.input_finished()
    texts = []
    while True:
        while recognizer.streams.is_endpoint(stream):
            texts.append(recognizer.streams.get_result(stream).text)
            recognizer.streams.reset(stream)
        if not recognizer.streams.is_ready(stream):
            return [text for text in texts if text]
        recognizer.streams.decode_streams([stream])


class WenetClient:
    """A client for WeNet's protocol that shares no code with the server."""

    def __init__(self, socket: "websockets.ClientConnection") -> None:
        self.socket = socket
        self.partials: list[str] = []
        self.finals: list[list[dict[str, Any]]] = []
        self.error: str | None = None
        self.is_ended = False

    async def start(self, **options: Any) -> dict[str, Any]:
        """Send the start signal; return the answer."""
        await self.socket.send(json.dumps({"signal": "start", **options}))
        return await self.receive()

    async def receive(self) -> dict[str, Any]:
        """Receive and record the next message."""
        message = json.loads(await asyncio.wait_for(self.socket.recv(), PATIENCE))
        if message["status"] == "failed":
            self.error = message["message"]
        elif message["type"] == "partial_result":
            self.partials.append(json.loads(message["nbest"])[0]["sentence"])
        elif message["type"] == "final_result":
            self.finals.append(json.loads(message["nbest"]))
        self.is_ended = self.is_ended or message.get("type") == "speech_end"
        return message

    async def play(self, samples: np.ndarray, block: int = 1600) -> None:
        """Send int16 samples in blocks, as fast as possible."""
        for start in range(0, len(samples), block):
            await self.socket.send(samples[start : start + block].astype("<i2").tobytes())

    async def end(self) -> list[str]:
        """Send the end signal and wait for the last message; return the sentences of the final results."""
        await self.socket.send(json.dumps({"signal": "end"}))
        return await self.listen()

    async def listen(self) -> list[str]:
        """Wait for the last message as `end` does, without an end signal."""
        while not self.is_ended and self.error is None:
            await self.receive()
        return [nbest[0]["sentence"] for nbest in self.finals if nbest[0]["sentence"]]


def wenet_client(url: str, **options: Any) -> AbstractContextManager[Any]:
    """`async with wenet_client(server.ws_url) as client`."""

    class Connecting:
        async def __aenter__(self) -> WenetClient:
            self.socket = await websockets.connect(f"{url}/", compression=None, **options)
            return WenetClient(self.socket)

        async def __aexit__(self, *_: Any) -> None:
            await self.socket.close()

    return Connecting()  # type: ignore[return-value]
