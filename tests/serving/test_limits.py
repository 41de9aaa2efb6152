"""Limits, refusals and shutdown: each is clear to the client and does not affect other sessions."""

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import openai
import pytest
import websockets
from tests.samples import SMALL_MODEL, WITH_SMALL_MODEL
from tests.serving.harness import PATIENCE, RATE, Running, running, wenet_client

from unichoir.api import load_recognizer

BEARER = {"Authorization": "Bearer secret"}


async def refused(url: str, **options: object) -> httpx.Response:
    """Return the response to a WebSocket that is not accepted."""
    with pytest.raises(websockets.InvalidStatus) as info:
        await websockets.connect(url, **options)
    return info.value.response


async def to_the_end(client: "websockets.ClientConnection") -> tuple[list[dict], int]:
    """Return all messages until the server closes, and the close code."""
    messages = []
    with contextlib.suppress(websockets.ConnectionClosed):
        while True:
            messages.append(json.loads(await asyncio.wait_for(client.recv(), PATIENCE)))
    assert client.close_code is not None
    return messages, client.close_code


def test_pages_and_health(server: Running) -> None:
    with httpx.Client(base_url=server.url) as client:
        page = client.get("/")
        assert page.status_code == 200
        assert "text/html" in page.headers["content-type"]
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert client.get("/web/app.js").status_code == 200
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/readyz").json() == {"status": "ready"}
        assert "unichoir_sessions 0.0" in client.get("/metrics").text
        missing = client.get("/nonesuch")
        assert missing.status_code == 404
        assert missing.json()["error"]["type"] == "invalid_request_error"
        assert client.get("/web/../app.py").status_code == 404


@pytest.mark.parametrize("path", ["/", "/v1/realtime"])
def test_the_token_is_needed_everywhere_but_for_health(serve: Callable[..., Running], path: str) -> None:
    guarded = serve(api_key="secret")

    async def talk() -> None:
        url = guarded.ws_url + path
        for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
            response = await refused(url, additional_headers=wrong)
            assert response.status_code == 401
            assert json.loads(response.body)["error"]["code"] == "invalid_api_key"
        async with websockets.connect(url, additional_headers=BEARER):
            pass
        key = "openai-insecure-api-key.secret"
        async with websockets.connect(url, subprotocols=["realtime", key]) as socket:
            assert socket.subprotocol == "realtime"

    asyncio.run(talk())
    with httpx.Client(base_url=guarded.url) as client:
        assert client.get("/v1/models").status_code == 401
        assert client.get("/v1/models", headers=BEARER).status_code == 200
        assert all(client.get(open_path).status_code == 200 for open_path in ("/", "/healthz", "/readyz", "/metrics"))
    assert guarded.metric("unichoir_refusals_total", reason="invalid_api_key") == 4
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(api_key="wrong", base_url=f"{guarded.url}/v1", max_retries=0).models.list()


def test_pages_of_other_origins_are_refused_unless_allowed(serve: Callable[..., Running]) -> None:
    guarded = serve(allowed_origins=("https://friend.example",))

    async def talk() -> None:
        response = await refused(f"{guarded.ws_url}/", origin="https://foe.example")
        assert response.status_code == 403
        assert json.loads(response.body)["error"]["code"] == "origin_not_allowed"
        for origin in ("https://friend.example", guarded.url):
            async with websockets.connect(f"{guarded.ws_url}/", origin=origin):
                pass

    asyncio.run(talk())
    with httpx.Client(base_url=guarded.url) as client:
        assert client.get("/v1/models", headers={"Origin": "https://foe.example"}).status_code == 403
        assert client.get("/v1/models", headers={"Origin": "null"}).status_code == 403
        assert client.get("/v1/models", headers={"Origin": guarded.url}).status_code == 200


def test_more_sessions_than_allowed_are_refused_until_one_ends(serve: Callable[..., Running], clips, expected) -> None:
    small = serve(max_sessions=2)

    async def talk() -> list[str]:
        async with wenet_client(small.ws_url) as first:
            async with wenet_client(small.ws_url) as second:
                await first.start()
                await second.start()
                response = await refused(f"{small.ws_url}/")
                assert response.status_code == 503
                assert json.loads(response.body)["error"]["code"] == "server_busy"
                assert int(response.headers["retry-after"]) > 0
                assert httpx.get(f"{small.url}/readyz").status_code == 503
                await second.play(clips[1])
                assert await second.end() == [expected[1]]
            while small.metric("unichoir_sessions") > 1:
                await asyncio.sleep(0)
            async with wenet_client(small.ws_url) as third:
                await third.start()
                await third.play(clips[2])
                assert await third.end() == [expected[2]]
            await first.play(clips[0])
            return await first.end()

    assert asyncio.run(talk()) == [expected[0]]
    assert small.metric("unichoir_refusals_total", reason="server_busy") == 1


@pytest.mark.parametrize("path", ["/", "/v1/realtime"])
def test_a_silent_client_is_told_and_closed(serve: Callable[..., Running], path: str) -> None:
    impatient = serve(idle_timeout=0.2)

    async def talk() -> list[dict]:
        async with websockets.connect(impatient.ws_url + path) as socket:
            messages, code = await to_the_end(socket)
            assert code == 1008
            return messages

    last = asyncio.run(talk())[-1]
    assert "nothing came for 0.2 s" in (last["message"] if path == "/" else last["error"]["message"])
    protocol = "wenet" if path == "/" else "realtime"
    assert impatient.metric("unichoir_sessions_ended_total", protocol=protocol, outcome="idle_timeout") == 1


def test_a_client_that_waits_for_results_is_not_idle(clips, expected) -> None:
    recognizer, may_go_on = load_recognizer(SMALL_MODEL), threading.Event()
    with running(recognizer, idle_timeout=1.0) as impatient:
        decode_streams = recognizer.streams.decode_streams

        def held_up(streams: object) -> None:
            assert may_go_on.wait(PATIENCE)
            decode_streams(streams)

        recognizer.streams.decode_streams = held_up

        async def talk() -> list[str]:
            async with wenet_client(impatient.ws_url) as client:
                await client.start()
                await client.play(clips[0])
                # Longer than a client may be silent that has not ended its input.
                asyncio.get_running_loop().call_later(1.5, may_go_on.set)
                return await client.end()

        assert asyncio.run(talk()) == [expected[0]]


def test_a_session_has_a_longest_duration(serve: Callable[..., Running]) -> None:
    short = serve(max_session_seconds=2.0)

    async def talk() -> str:
        async with wenet_client(short.ws_url) as client:
            await client.start()
            await client.play(np.zeros(3 * RATE, np.int16))
            while client.error is None:
                await client.receive()
            return client.error

    assert asyncio.run(talk()) == "a session may have 2 s of audio"


@pytest.mark.parametrize("content", [b"\0" * 5000, "x" * 5000, b"\0" * (2 << 20)], ids=["bytes", "text", "huge"])
def test_a_huge_message_closes_its_session_only(serve: Callable[..., Running], clips, expected, content) -> None:
    """One beyond the limit is answered with words; beyond a MiB more the connection just ends."""
    narrow = serve(max_message_bytes=4096)

    async def talk() -> list[str]:
        async with wenet_client(narrow.ws_url) as good, wenet_client(narrow.ws_url) as bad:
            await good.start()
            await good.play(clips[0][:8000])
            await bad.start()
            await bad.socket.send(content)
            messages, code = await to_the_end(bad.socket)
            if len(content) == 5000:
                (message,) = messages
                assert message["status"] == "failed"
                assert message["message"] == "a message of 5000 bytes is too long: this server takes 4096 bytes in one"
            else:
                assert (messages, code) == ([], 1009)
            await good.play(clips[0][8000:])
            return await good.end()

    assert asyncio.run(talk()) == [expected[0]]


def test_a_minute_in_one_message(server: Running, clips) -> None:
    """The whole recording at once, as the first thing that a client tries: as in many small messages."""
    silence = np.zeros(14 * RATE, np.int16)
    recording = np.concatenate([part for clip in clips[:4] for part in (clip, silence)])

    async def talk(block: int) -> list[str]:
        async with wenet_client(server.ws_url) as client:
            await client.start(continuous_decoding=True)
            await client.play(recording, block)
            return await client.end()

    assert len(recording) > 60 * RATE
    at_once, in_blocks = asyncio.run(talk(len(recording))), asyncio.run(talk(1600))
    assert len(at_once) == 4
    assert at_once == in_blocks


def test_draining_gives_open_sessions_their_last_words(serve: Callable[..., Running], clips, expected) -> None:
    leaving = serve()

    async def talk() -> list[str]:
        url = f"{leaving.ws_url}/v1/realtime"
        async with wenet_client(leaving.ws_url) as client, websockets.connect(url) as realtime:
            await client.start()
            await client.play(clips[0])
            while not client.partials:
                await client.receive()
            leaving.call(leaving.server.drain)
            found = await client.listen()
            _, code = await to_the_end(realtime)
            assert code == 1001
            return found

    # All that was sent had been taken from the socket by then, or the words say how much.
    (found,) = asyncio.run(talk())
    assert expected[0].startswith(found[: len("SIX")])


@pytest.fixture
def process() -> Iterator[tuple[subprocess.Popen[str], dict]]:
    """The process of the command, and its log record with the address."""
    limits = ["--threads", "1", "--max-sessions", "1"]
    command = [sys.executable, "-m", "unichoir", "serve", *WITH_SMALL_MODEL, "--port", "0", *limits]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        try:
            yield child, json.loads(child.stderr.readline())
        finally:
            child.kill()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_with_0(process, clips, expected, stop: signal.Signals) -> None:
    child, first = process
    assert (first["event"], first["model"]) == ("listening", SMALL_MODEL.name)
    url = first["url"].replace("http", "ws", 1)

    async def talk() -> list[str]:
        async with wenet_client(url) as client:
            await client.start()
            assert (await refused(f"{url}/")).status_code == 503
            await client.play(clips[3])
            while not client.partials or len(client.partials[-1].split()) < 6:
                await client.receive()
            child.send_signal(stop)
            found = await client.listen()
            return found

    assert asyncio.run(talk()) == [expected[3]]
    assert child.wait(PATIENCE) == 0
    records = [json.loads(line) for line in child.stderr.read().splitlines()]
    assert records[0]["event"] == "draining"
    assert {"session_ended", "stopping"} <= {record["event"] for record in records}
    assert {record["level"] for record in records} == {"info"}
    text = json.dumps(records)
    assert "J O H N" not in text
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", int(first["url"].rsplit(":", 1)[1])))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--chunk-size", "26"], "--chunk-size"),
        (["--silence-after-speech", "0.01"], "--silence-after-speech"),
        (["--ssl-keyfile", __file__], "--ssl-certfile"),
        (["--api-key", ""], "--api-key"),
        (["--model", "nonesuch"], "nonesuch"),
        (["--idle-timeout", "0"], "idle_timeout"),
        (["--api-key", "two words"], "api_key"),
        (["--host", "192.0.2.1", "--port", "0"], "192.0.2.1"),
        (["--host", "no host", "--port", "0"], "no host"),
    ],
)
def test_the_command_refuses_what_makes_no_sense(
    run_command: Callable[..., tuple[int, str, str]], options: list[str], words: str
) -> None:
    code, _, errors = run_command("serve", *WITH_SMALL_MODEL, *options)
    assert code in (1, 2)
    assert words in errors
    assert "Traceback" not in errors
