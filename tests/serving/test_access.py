"""Who may use the server from where, and ambiguous requests."""

import asyncio
import json
import socket

import httpx
import numpy as np
import pytest
import websockets
from tests.serving.harness import PATIENCE, RATE, Running, wenet_client

PAGE = "https://example.org"


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "null", "http://evil.example", "\u2603".encode()])
def test_an_origin_that_is_none_is_refused_before_anything_else(serve, origin: str | bytes) -> None:
    server = serve(api_key="secret")
    answer = httpx.get(
        f"{server.url}/v1/models", headers=[(b"origin", origin if isinstance(origin, bytes) else origin.encode())]
    )
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "origin_not_allowed"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("a.localhost:10086", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:10086", 200),
        ("192.168.1.5", 200),
        ("speech.example:10086", 200),
        ("SPEECH.example", 200),
        ("evil.example", 421),
        ("speech.example.evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("[", 421),
    ],
)
def test_a_name_that_is_not_the_servers_is_refused(serve, host: str, status: int) -> None:
    """A page that has its name point to this machine (DNS rebinding) is of the same origin as what it asks."""
    server = serve(allowed_hosts=("speech.example",))
    answer = httpx.get(f"{server.url}/v1/models", headers={"Host": host, "Origin": f"http://{host}"})
    assert answer.status_code == status
    if status == 421:
        assert "--allow-host" in answer.json()["error"]["message"]


def test_any_name_may_be_allowed_and_websockets_are_guarded(serve) -> None:
    assert httpx.get(f"{serve(allowed_hosts=('*',)).url}/v1/models", headers={"Host": "x.example"}).status_code == 200
    server = serve()

    port = server.url.rpartition(":")[2]
    with socket.create_connection(("127.0.0.1", int(port)), PATIENCE) as client:
        client.sendall(
            b"GET / HTTP/1.1\r\nHost: evil.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert b" 421 " in client.recv(100)


def test_pages_that_are_allowed_may_upload(serve) -> None:
    """As browsers ask: first whether they may, without a key, then the request itself."""
    server = serve(allowed_origins=(PAGE,), api_key="secret")
    url = f"{server.url}/v1/audio/transcriptions"
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    answer = httpx.options(url, headers={"Origin": PAGE, **asked})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "authorization" in answer.headers["access-control-allow-headers"].lower()
    refused = httpx.options(url, headers={"Origin": "https://evil.example", **asked})
    assert "access-control-allow-origin" not in refused.headers
    models = httpx.get(f"{server.url}/v1/models", headers={"Origin": PAGE, "Authorization": "Bearer secret"})
    assert models.status_code == 200
    assert models.headers["access-control-allow-origin"] == PAGE
    wrong = httpx.get(f"{server.url}/v1/models", headers={"Origin": PAGE})
    assert wrong.status_code == 401
    assert wrong.headers["access-control-allow-origin"] == PAGE  # or the page could not read why


def test_no_page_is_allowed_by_itself(server: Running) -> None:
    answer = httpx.options(f"{server.url}/v1/models", headers={"Origin": PAGE, "Access-Control-Request-Method": "GET"})
    assert "access-control-allow-origin" not in answer.headers
    assert answer.status_code in (403, 405)


def test_a_request_with_two_lengths_is_refused(server: Running) -> None:
    """What stands behind it would be another request to one of two proxies."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), PATIENCE) as client:
        client.sendall(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        )
        client.settimeout(PATIENCE)
        assert client.recv(1000).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "text", [r'{"signal": "start", "x": "\ud800"}', r'{"\udfff": 1, "signal": "start"}', "[" * 5000]
)
def test_characters_that_are_none_are_an_error_of_the_protocol(server: Running, clips, expected, text: str) -> None:
    async def talk() -> None:
        async with websockets.connect(server.ws_url) as client:
            await client.send(text)
            assert json.loads(await asyncio.wait_for(client.recv(), PATIENCE))["status"] == "failed"
        async with websockets.connect(f"{server.ws_url}/v1/realtime") as client:
            await client.recv()
            await client.send(text)
            error = json.loads(await asyncio.wait_for(client.recv(), PATIENCE))["error"]
            assert error["code"] == "invalid_json"
            await client.send(json.dumps({"type": "session.update", "session": {}}))  # the session goes on
            assert json.loads(await asyncio.wait_for(client.recv(), PATIENCE))["type"] == "session.updated"
        async with wenet_client(server.ws_url) as client:
            await client.start()
            await client.play(np.concatenate([clips[0], np.zeros(RATE // 2, np.int16)]))
            assert await client.end() == [expected[0]]

    asyncio.run(talk())
