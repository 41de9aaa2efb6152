"""Hostile clients against a server that deals with them and against one that does not."""

import asyncio

import pytest
from tests.benchmark.serving.test_client import recording
from tests.samples import SMALL_MODEL
from tests.serving.harness import running
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websockets

from unichoir.api import load_recognizer
from unichoir.benchmark.serving import hostile
from unichoir.benchmark.serving.client import SessionResult, Target
from unichoir.benchmark.serving.hostile import ATTACKS, run_attack
from unichoir.benchmark.serving.outcomes import Outcomes


def test_a_good_server_repels_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unichoir.serving.http.REQUEST_TIMEOUT", 3.0)
    monkeypatch.setattr("unichoir.serving.uploads.GRACE_SECONDS", 3.0)

    async def attack(url: str) -> list[SessionResult]:
        target = Target(url=url)
        return await asyncio.gather(*(run_attack(target, recording(1.0), kind) for kind in ATTACKS))

    with running(load_recognizer(SMALL_MODEL)) as server:
        found = asyncio.run(attack(f"{server.ws_url}/"))
        assert server.engine.is_alive
    assert [(each.key, each.outcome, each.reason) for each in found] == [(kind, "repelled", "") for kind in ATTACKS]


def test_a_server_that_takes_everything_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says that it is ready to whoever speaks to it as a WebSocket, and nothing to all others."""
    monkeypatch.setattr(hostile, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(hostile, "MAX_PING_BYTES", 1 << 20)

    async def ready(socket: ServerConnection) -> None:
        async for _ in socket:
            await socket.send('{"status": "ok", "type": "server_ready"}')

    async def attack() -> list[SessionResult]:
        async with serve_websockets(ready, "127.0.0.1", 0, max_size=None, open_timeout=None) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            target = Target(url=f"ws://127.0.0.1:{port}/")
            return await asyncio.gather(*(run_attack(target, recording(), kind) for kind in ATTACKS))

    found = asyncio.run(attack())
    assert [(each.key, each.outcome) for each in found] == [(kind, "failed") for kind in ATTACKS]
    assert all(each.reason.startswith(f"{each.key}: ") for each in found)
    assert f"{len(ATTACKS)} failed" in Outcomes(sessions=tuple(found)).objections()
