"""Several engines in one server: sessions are spread over them, and clients see no difference from one engine."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable

import httpx
import numpy as np
import pytest
import websockets
from prometheus_client.parser import text_string_to_metric_families
from tests.samples import SMALL_MODEL, WITH_SMALL_MODEL
from tests.serving.harness import PATIENCE, RATE, Running, WenetClient, running, stream_texts, wenet_client

from unichoir.api import load_recognizer
from unichoir.errors import ConfigError
from unichoir.recognition.recognizer import Recognizer
from unichoir.serving.engine import DEATH
from unichoir.serving.settings import Settings

NAMES = {"unichoir-engine-0", "unichoir-engine-1"}


def shares(server: Running) -> list[int]:
    """The number of sessions of each engine."""
    return server.call(lambda: [len(stepper.sessions) for stepper in server.engine.steppers])


async def until_shares(server: Running, expected: list[int]) -> None:
    while shares(server) != expected:
        await asyncio.sleep(0)


def value(server: Running, name: str) -> float:
    """A value of /metrics, as a monitoring system reads it."""
    text = httpx.get(f"{server.url}/metrics", timeout=PATIENCE).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == name)


def test_two_engines_give_the_results_of_one_stream(serve: Callable[..., Running], included, clips) -> None:
    """Twelve clients at once, with options that make the results long: words, times and n-best list are the same."""
    one, two = serve(engines=1), serve(engines=2)

    async def talk(server: Running, clip) -> list:
        async with wenet_client(server.ws_url) as client:
            await client.start(nbest=3, continuous_decoding=True)
            await client.play(clip)
            await client.end()
            assert client.error is None
            return client.finals

    async def all_clients(server: Running) -> list:
        return await asyncio.gather(*(talk(server, clips[number % 5]) for number in range(12)))

    found = asyncio.run(all_clients(two))
    assert found == asyncio.run(all_clients(one))
    texts = [[nbest[0]["sentence"] for nbest in finals if nbest[0]["sentence"]] for finals in found]
    assert texts == [stream_texts(included, clips[number % 5]) for number in range(12)]


def num_chunks(recognizer: Recognizer, clip: np.ndarray) -> int:
    """The number of steps of a stream without a server."""
    stream = recognizer.streams.create_stream()
    stream.accept_waveform(clip, RATE)
    stream.input_finished()
    count = 0
    while recognizer.streams.is_ready(stream):
        recognizer.streams.decode_streams([stream])
        count += 1
    return count


def test_a_new_session_goes_to_the_engine_with_the_fewest(
    serve: Callable[..., Running], included: Recognizer, clips, expected
) -> None:
    """Metrics and limits are those of all engines together."""
    server = serve(engines=2, max_sessions=5)

    async def talk() -> list[list[str]]:
        async with contextlib.AsyncExitStack() as stack:

            async def come() -> WenetClient:
                client = await stack.enter_async_context(wenet_client(server.ws_url))
                await client.start()
                return client

            clients = [await come() for _ in range(5)]
            assert shares(server) == [3, 2]
            assert value(server, "unichoir_sessions") == 5
            assert httpx.get(f"{server.url}/readyz").json() == {"status": "busy"}
            with pytest.raises(websockets.InvalidStatus):
                await come()
            await clients[0].socket.close()
            await clients[2].socket.close()
            await until_shares(server, [1, 2])
            assert httpx.get(f"{server.url}/readyz").json() == {"status": "ready"}
            newcomers = [await come(), await come()]
            assert shares(server) == [3, 2]
            clients = [clients[1], clients[3], clients[4], *newcomers]
            await asyncio.gather(*(client.play(clip) for client, clip in zip(clients, clips, strict=True)))
            return await asyncio.gather(*(client.end() for client in clients))

    assert asyncio.run(talk()) == [[text] for text in expected]
    while value(server, "unichoir_sessions_ended_total") < 7:
        pass
    seconds = sum(map(len, clips)) / RATE
    assert value(server, "unichoir_audio_seconds_total") == pytest.approx(seconds, abs=1e-2)
    assert value(server, "unichoir_batch_size_sum") == sum(num_chunks(included, clip) for clip in clips)
    assert value(server, "unichoir_sessions") == value(server, "unichoir_queue_seconds") == 0


def test_engines_step_at_the_same_time(clips, expected) -> None:
    """Each first step waits for one of the other engine: with one thread for both, none would ever go on."""
    recognizer = load_recognizer(SMALL_MODEL)
    decode_streams = recognizer.streams.decode_streams
    meeting, steps = threading.Barrier(2), Counter[str]()

    def meet(streams: list) -> None:
        name = threading.current_thread().name
        steps[name] += 1
        if steps[name] == 1:
            meeting.wait(PATIENCE)
        decode_streams(streams)

    with running(recognizer, engines=2) as server:
        recognizer.streams.decode_streams = meet  # type: ignore[method-assign]

        async def talk(place: int) -> list[str]:
            async with wenet_client(server.ws_url) as client:
                await client.start()
                await client.play(clips[place])
                return await client.end()

        async def both() -> list[list[str]]:
            return await asyncio.gather(talk(0), talk(1))

        assert asyncio.run(both()) == [[expected[0]], [expected[1]]]
    assert set(steps) == NAMES
    assert not meeting.broken


def test_draining_waits_for_the_sessions_of_all_engines(serve: Callable[..., Running], clips, expected) -> None:
    leaving = serve(engines=2)

    async def talk() -> list[list[str]]:
        async with wenet_client(leaving.ws_url) as one, wenet_client(leaving.ws_url) as other:
            for client in (one, other):
                await client.start()
                await client.play(clips[3])
                while not client.partials or len(client.partials[-1].split()) < 6:
                    await client.receive()
            assert shares(leaving) == [1, 1]
            leaving.call(leaving.server.drain)
            found = [await one.listen(), await other.listen()]
            for client in (one, other):
                with pytest.raises(websockets.ConnectionClosed) as closed:
                    await client.socket.recv()
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1001
            return found

    assert asyncio.run(talk()) == [[expected[3]]] * 2
    leaving.thread.join(PATIENCE)
    assert not leaving.thread.is_alive()
    assert not leaving.engine.is_dead


def test_the_death_of_one_engine_ends_the_server(clips) -> None:
    """Sessions of the other engine also get the error, although that engine could continue."""
    recognizer = load_recognizer(SMALL_MODEL)
    decode_streams = recognizer.streams.decode_streams

    def die(streams: list) -> None:
        if threading.current_thread().name == "unichoir-engine-1":
            raise SystemExit(1)
        decode_streams(streams)

    with running(recognizer, engines=2) as server:
        recognizer.streams.decode_streams = die  # type: ignore[method-assign]

        async def talk() -> list[str | None]:
            async with wenet_client(server.ws_url) as well, wenet_client(server.ws_url) as ill:
                await well.start()
                await ill.start()
                await well.play(clips[0][: RATE // 2])
                await ill.play(clips[0])
                await asyncio.gather(well.listen(), ill.listen())
                return [well.error, ill.error]

        assert asyncio.run(talk()) == [DEATH, DEATH]
        assert server.engine.is_dead
        assert not server.engine.is_alive
        server.thread.join(PATIENCE)
        assert not server.thread.is_alive()


@pytest.mark.parametrize("engines", [0, 65, 1.5, None])
def test_numbers_that_make_no_sense(engines: object) -> None:
    with pytest.raises(ConfigError, match="engines: expected a whole number from 1 to 64, found"):
        Settings(model_name="m", engines=engines)  # type: ignore[arg-type]


@pytest.mark.parametrize(("options", "engines"), [([], 1), (["--engines", "3"], 3)])
def test_the_command_counts_the_cores_that_it_may_use(options: list[str], engines: int) -> None:
    """A small model gets an engine for each core, unless the user says how many."""

    def one_core() -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    command = [sys.executable, "-m", "unichoir", "serve", *WITH_SMALL_MODEL, "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=one_core) as process:
        assert process.stderr is not None
        try:
            assert json.loads(process.stderr.readline())["engines"] == engines
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
