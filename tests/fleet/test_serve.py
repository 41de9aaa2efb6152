"""`unichoir serve --ray`: real clients of a server of several processes, some of which are killed."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import psutil
import pytest
import websockets
from tests.fleet.helpers import free_port, read_clip, replicas
from tests.samples import CLIPS, SMALL_MODEL
from tests.serving.harness import PATIENCE, running, wenet_client

from unichoir.api import load_recognizer
from unichoir.errors import UnichoirError
from unichoir.fleet.serve import NAME, Scaling, deploy, make_application, remove
from unichoir.fleet.worker import ModelSource
from unichoir.serving.settings import Settings

T = TypeVar("T")
MAX_MESSAGE_BYTES = 100_000
SETTINGS = {"language": "en", "max_message_bytes": MAX_MESSAGE_BYTES}


@pytest.fixture(scope="module")
def url(cluster: str) -> Iterator[str]:
    """The address of two replicas; a third starts when there are more than four sessions."""
    settings = Settings(model_name=SMALL_MODEL.name, **SETTINGS)
    scaling = Scaling(
        min_replicas=2, max_replicas=3, sessions_per_replica=2, look_back=2, upscale_delay=0, downscale_delay=600
    )
    port = free_port()
    with pytest.warns(FutureWarning, match="metrics_interval_s"):  # which the environment has set, as Ray advises
        application = make_application(ModelSource(str(SMALL_MODEL), 1), settings, scaling)
    deploy(application, {"host": "127.0.0.1", "port": port})
    yield f"127.0.0.1:{port}"
    remove(PATIENCE)


def num_running() -> int:
    from ray import serve

    return int(serve.status().applications[NAME].deployments[NAME].replica_states.get("RUNNING", 0))


async def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 3 * PATIENCE  # a replica is a new process, and Ray looks for dead ones now and then
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


async def dictate(url: str, samples: np.ndarray) -> list[str]:
    async with wenet_client(f"ws://{url}") as client:
        await client.start()
        await client.play(samples)
        return await client.end()


def upload(url: str, path: Path, **fields: str) -> Any:
    with path.open("rb") as file:
        answer = httpx.post(
            f"http://{url}/v1/audio/transcriptions",
            files={"file": (path.name, file)},
            data={"model": SMALL_MODEL.name, "response_format": "verbose_json", **fields},
            timeout=PATIENCE,
        )
    return answer.status_code, answer.json()


def test_replicas_say_what_the_plain_server_says(url: str) -> None:
    async def dictate_all(url: str) -> list[list[str]]:
        return await asyncio.gather(*(dictate(url, read_clip(path)) for path in CLIPS))

    def everything(url: str) -> Any:
        return (
            asyncio.run(dictate_all(url)),
            [upload(url, path) for path in CLIPS],
            upload(url, CLIPS[0], model="another"),
            upload(url, Path(__file__)),
        )

    with running(load_recognizer(SMALL_MODEL, 1), **SETTINGS) as plain:
        expected = everything(plain.url.removeprefix("http://"))
    assert all(expected[0])
    assert num_running() == 2
    assert everything(url) == expected


def test_too_long_messages_end_the_session(url: str) -> None:
    async def send(size: int) -> int | None:
        async with wenet_client(f"ws://{url}") as client:
            await client.start()
            await client.socket.send(b"\0" * size)
            with suppress(websockets.ConnectionClosed):
                await client.end()
            await client.socket.wait_closed()
            return client.socket.close_code

    assert asyncio.run(send(MAX_MESSAGE_BYTES)) == 1000
    assert asyncio.run(send(MAX_MESSAGE_BYTES + 2)) == 1009


def test_a_killed_replica_is_replaced(url: str) -> None:
    before = replicas()
    assert len(before) == 2
    killed = min(before)
    psutil.Process(killed).kill()
    clip = read_clip(CLIPS[0])

    async def dictate_later() -> list[str]:
        await wait_until(lambda: len(replicas() - before) == 1 and num_running() == 2)
        return await dictate(url, clip)

    (text,) = asyncio.run(dictate_later())
    assert text == "SIX OH FOUR FIVE NINE ONE TWO"
    assert killed not in replicas()


def test_many_sessions_have_more_replicas(url: str) -> None:
    clip = read_clip(CLIPS[0])

    async def hold_sessions() -> list[list[str]]:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(wenet_client(f"ws://{url}")) for _ in range(8)]
            for client in clients:
                await client.start()
                await client.play(clip[: len(clip) // 2])
            await wait_until(lambda: num_running() == 3)
            for client in clients:
                await client.play(clip[len(clip) // 2 :])
            return [await client.end() for client in clients]

    with pytest.raises(UnichoirError, match="already serves an application 'unichoir'"):
        deploy(make_application(ModelSource(str(SMALL_MODEL), 1), Settings(model_name=SMALL_MODEL.name), Scaling()), {})
    assert asyncio.run(hold_sessions()) == [["SIX OH FOUR FIVE NINE ONE TWO"]] * 8
    assert len(replicas()) == 3
