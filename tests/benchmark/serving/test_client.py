"""Clients against a scripted server that keeps the protocol, violates it or disconnects."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, ConnectionClosedError

from unichoir.benchmark.serving import client
from unichoir.benchmark.serving.client import Drop, Misbehaviour, SessionResult, Target, parse_message, run_session
from unichoir.benchmark.serving.hostile import ATTACKS
from unichoir.benchmark.serving.load import Job, burst, play
from unichoir.benchmark.serving.recordings import Recording
from unichoir.benchmark.serving.soak import make_jobs

Handler = Callable[[ServerConnection], Awaitable[None]]
READY, OVER = {"status": "ok", "type": "server_ready"}, {"status": "ok", "type": "speech_end"}


def recording(seconds: float = 0.25, key: str = "a") -> Recording:
    samples = np.arange(round(16000 * seconds), dtype=np.int16)
    return Recording(key=key, samples=samples, expected="ONE TWO THREE", first_word_end=0.1)


def result(kind: str, sentence: str) -> str:
    return json.dumps({"status": "ok", "type": kind, "nbest": json.dumps([{"sentence": sentence}])})


async def serve_well(socket: ServerConnection) -> list[bytes]:
    """Behave as a server should: two utterances, with a partial result in the first; returns the received audio."""
    assert json.loads(await socket.recv()) == {"signal": "start", "nbest": 1, "continuous_decoding": True}
    await socket.send(json.dumps(READY))
    audio = []
    while not isinstance(message := await socket.recv(), str):
        audio.append(message)
        if len(audio) == 1:
            await socket.send(result("partial_result", "ONE"))
            await socket.send(result("final_result", "ONE TWO"))
    assert json.loads(message) == {"signal": "end"}
    await socket.send(result("final_result", "THREE"))
    await socket.send(json.dumps(OVER))
    return audio


def with_server(handler: Handler, work: Callable[[Target], Awaitable[Sequence[SessionResult]]]) -> list[SessionResult]:
    """Run sessions against a server whose connections `handler` serves."""

    async def run() -> list[SessionResult]:
        async with serve(handler, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            return list(await work(Target(url=f"ws://127.0.0.1:{port}/")))

    return asyncio.run(run())


def talk(handler: Handler, drop: Drop | None = None, start_in: float | None = None) -> SessionResult:
    async def work(target: Target) -> list[SessionResult]:
        start = None if start_in is None else asyncio.get_running_loop().time() + start_in
        return [await run_session(target, recording(), start, drop)]

    (session,) = with_server(handler, work)
    return session


@pytest.mark.parametrize("start_in", [None, 0.05])
def test_a_good_session(start_in: float | None) -> None:
    heard: list[bytes] = []

    async def handler(socket: ServerConnection) -> None:
        heard.extend(await serve_well(socket))

    session = talk(handler, start_in=start_in)
    assert (session.outcome, session.reason, session.text) == ("completed", "", "ONE TWO THREE")
    assert session.is_right
    assert b"".join(heard) == recording().samples.astype("<i2").tobytes()
    assert [len(block) for block in heard] == [3200, 3200, 1600]
    assert session.audio_seconds == 0.25
    assert session.final_latency is not None
    assert session.final_latency >= 0
    assert session.first_partial is not None
    if start_in is None:
        assert session.lateness == ()
    else:
        # No block before its audio is over: unpaced ones would be early by their own length and more.
        assert len(session.lateness) == 3
        assert min(session.lateness) > -0.001
        # The first word is over with the first block, at whose arrival it is recognised.
        assert session.first_partial >= 0


async def refuse(socket: ServerConnection) -> None:
    await socket.recv()
    await socket.send(json.dumps({"status": "failed", "message": "no room"}))


async def hang_up_at_once(socket: ServerConnection) -> None:
    await socket.close(1013, "later")


async def begin(socket: ServerConnection) -> None:
    await socket.recv()
    await socket.send(json.dumps(READY))
    await socket.recv()


async def close_early(socket: ServerConnection) -> None:
    await begin(socket)
    await socket.close(1011, "engine")


async def vanish(socket: ServerConnection) -> None:
    await begin(socket)
    socket.transport.abort()


async def fail_later(socket: ServerConnection) -> None:
    await begin(socket)
    await socket.send(json.dumps({"status": "failed", "message": "no more"}))


async def end_too_soon(socket: ServerConnection) -> None:
    await begin(socket)
    await socket.send(json.dumps(OVER))


def say(message: str | bytes) -> Handler:
    async def handler(socket: ServerConnection) -> None:
        await begin(socket)
        await socket.send(message)

    return handler


@pytest.mark.parametrize(
    ("handler", "outcome", "reason"),
    [
        (refuse, "refused", "the server reports: no room"),
        (hang_up_at_once, "failed", "1013"),
        (close_early, "failed", "1011"),
        (vanish, "failed", "no close frame received"),
        (fail_later, "failed", "the server reports: no more"),
        (end_too_soon, "failed", "speech_end before the end of the audio"),
        (say(b"\x00\x01"), "failed", "not a message of the protocol"),
        (say("{"), "failed", "not a message of the protocol"),
        (say("[" * 100_000), "failed", "not a message of the protocol"),
        (say("[]"), "failed", "not a message of the protocol"),
        (say('{"status": "ok", "type": "song"}'), "failed", "unknown message type 'song'"),
        (say('{"status": "ok", "type": "final_result", "nbest": []}'), "failed", "final_result without a sentence"),
        (say('{"status": "ok", "type": "final_result"}'), "failed", "final_result without a sentence"),
        (say(json.dumps(READY)), "failed", "server_ready twice"),
    ],
)
def test_misbehaviour_is_told_and_others_go_on(handler: Handler, outcome: str, reason: str) -> None:
    """Of three sessions at once the server spoils the second."""
    count = 0

    async def second_is_bad(socket: ServerConnection) -> None:
        nonlocal count
        count += 1
        await (handler if count == 2 else serve_well)(socket)

    async def work(target: Target) -> Sequence[SessionResult]:
        # Audio that lasts keeps all three open together.
        start = asyncio.get_running_loop().time()
        return await asyncio.gather(*(run_session(target, recording(), start) for _ in range(3)))

    sessions = with_server(second_is_bad, work)
    assert sorted(session.outcome for session in sessions) == sorted(["completed", "completed", outcome])
    (bad,) = [session for session in sessions if session.outcome == outcome]
    assert reason in bad.reason
    assert not bad.is_right
    assert bad.final_latency is None


def test_silence_is_not_waited_for_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PATIENCE_SECONDS", 0.2)

    async def silent(socket: ServerConnection) -> None:
        await begin(socket)
        await socket.wait_closed()

    session = talk(silent)
    assert session.outcome == "failed"
    assert "not finished 0.2 s after" in session.reason


def test_no_server_and_no_websocket() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail\r\n")
        writer.close()
        await writer.wait_closed()

    async def run() -> tuple[SessionResult, SessionResult]:
        async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
            target = Target(url=f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
            odd = await run_session(target, recording())
        return odd, await run_session(target, recording())

    for session in asyncio.run(run()):
        assert session.outcome == "failed"
        assert session.reason


def test_key_is_shown() -> None:
    keys = []

    async def handler(socket: ServerConnection) -> None:
        assert socket.request is not None
        keys.append(socket.request.headers.get("Authorization"))
        await serve_well(socket)

    async def work(target: Target) -> Sequence[SessionResult]:
        return [await run_session(Target(url=target.url, api_key="k"), recording())]

    with_server(handler, work)
    assert keys == ["Bearer k"]


@pytest.mark.parametrize(("drop", "size"), [("before audio", 0), ("in audio", 4000)])
def test_dropped_sessions_are_cut_off(drop: Drop, size: int) -> None:
    """In the middle of the audio, or before it, and without a close frame."""
    heard: list[bytes] = []
    end: list[ConnectionClosed] = []

    async def handler(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send(json.dumps(READY))
        try:
            while True:
                message = await socket.recv()
                assert isinstance(message, bytes)
                heard.append(message)
        except ConnectionClosed as error:
            end.append(error)

    session = talk(handler, drop)
    assert (session.outcome, session.reason) == ("dropped", "")
    assert len(b"".join(heard)) == size
    assert isinstance(end[0], ConnectionClosedError)
    assert end[0].rcvd is None


def test_next_session_does_not_wait_for_the_last() -> None:
    """The server ends the first session only when it has heard audio of the second: else none would end."""
    second_speaks = asyncio.Event()
    keys: list[int] = []

    async def handler(socket: ServerConnection) -> None:
        keys.append(len(keys))
        number = keys[-1]
        await socket.recv()
        await socket.send(json.dumps(READY))
        while isinstance(await socket.recv(), bytes):
            if number == 1:
                second_speaks.set()
        await second_speaks.wait()
        await socket.send(result("final_result", f"SESSION {number}"))
        await socket.send(json.dumps(OVER))

    async def work(target: Target) -> Sequence[SessionResult]:
        recordings = [recording(0.2, "a"), recording(0.3, "b")]
        played = await play(target, recordings, 1, 0.35, 0.64)
        assert played.seconds > 0
        return played.sessions

    sessions = with_server(handler, work)
    # Those that begin before 0.35 s: at 0 and 0.2 s; the next would at 0.5 s.
    assert [(session.key, session.text) for session in sessions] == [("a", "SESSION 0"), ("b", "SESSION 1")]


def test_clients_begin_with_different_recordings() -> None:
    async def handler(socket: ServerConnection) -> None:
        await serve_well(socket)

    async def work(target: Target) -> Sequence[SessionResult]:
        recordings = [recording(0.2, key) for key in "abcd"]
        return (await play(target, recordings, 2, 0.1, 0.2)).sessions

    assert [session.key for session in with_server(handler, work)] == ["a", "c"]


def test_a_burst_keeps_to_its_limit() -> None:
    """Each connection waits until as many are open as there may be; never are there more."""
    opened, most = 0, 0
    full = asyncio.Event()

    async def handler(socket: ServerConnection) -> None:
        nonlocal opened, most
        opened += 1
        most = max(most, opened)
        if opened == 3:
            full.set()
        await full.wait()
        await serve_well(socket)
        opened -= 1

    async def work(target: Target) -> Sequence[SessionResult]:
        return await burst(target, [Job(recording=recording())] * 12, 3)

    assert [session.outcome for session in with_server(handler, work)] == ["completed"] * 12
    assert most == 3


def test_parsing() -> None:
    assert parse_message(json.dumps(READY)) == ("server_ready", "")
    assert parse_message(result("partial_result", "ONE")) == ("partial_result", "ONE")
    with pytest.raises(Misbehaviour, match="the server reports: None"):
        parse_message("{}")


def test_jobs_of_a_soak() -> None:
    jobs = make_jobs([recording(key="a"), recording(key="b")], sessions=20, dropped=6, hostile=2)
    drops = [job.drop for job in jobs if not job.attack]
    assert (drops.count(None), drops.count("before audio"), drops.count("in audio")) == (20, 3, 3)
    for part in (drops[:13], drops[13:]):
        assert part.count(None) == 10
    assert {job.recording.key for job in jobs if job.drop is None} == {"a", "b"}
    assert [bool(job.attack) for job in jobs[:14]].count(True) == 1
    assert [job.drop for job in make_jobs([recording()], sessions=3, dropped=0)] == [None] * 3
    hostile = make_jobs([recording()], sessions=0, dropped=0, hostile=len(ATTACKS))
    assert [job.attack for job in hostile] == list(ATTACKS)
