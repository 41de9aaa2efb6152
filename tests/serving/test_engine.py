"""The engine's thread: who waits for whom, and the effect of one failure on others."""

import asyncio
import contextlib
import json
import logging
import threading
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import pytest
import websockets
from tests.samples import SMALL_MODEL
from tests.serving.harness import PATIENCE, RATE, Running, running, wenet_client

from unichoir.api import load_recognizer
from unichoir.errors import DecodingError, UnichoirError
from unichoir.recognition.options import DecodingOptions, StreamingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.search import scoring
from unichoir.search.hotwords import ContextGraph
from unichoir.serving.engine import DEATH, Blocks, Busy, Draining, Piece
from unichoir.text import itn
from unichoir.text.written import WrittenForm


async def recognise(server: Running, samples: np.ndarray, **options: object) -> tuple[list[str], str | None]:
    async with wenet_client(server.ws_url) as client:
        with contextlib.suppress(websockets.ConnectionClosed):  # by a server that has said why
            await client.start(**options)
            await client.play(samples)
            return await client.end(), client.error
        return await client.listen(), client.error


def blocks_of(samples: np.ndarray) -> Blocks:
    """The blocks of a complete recording."""
    return lambda stop: [samples]


def test_a_recording_waits_for_live_sessions(server: Running, included: Recognizer, clips, expected) -> None:
    """Each piece of the long recording is held up until a whole live session has gone by."""
    recording = np.concatenate([*clips, *clips]).astype(np.float32) / 32768
    options = DecodingOptions(max_segment_seconds=2.0)

    async def in_the_server() -> list[tuple[Piece, list[str]]]:
        found = []
        async for piece in server.engine.transcribe(blocks_of(recording), options):
            words, error = await asyncio.wait_for(recognise(server, clips[len(found) % 5]), PATIENCE)
            assert error is None
            found.append((piece, words))
        return found

    found = asyncio.run_coroutine_threadsafe(in_the_server(), server.loop).result(PATIENCE)
    alone = list(included.recordings.recognize_by_piece([recording], options))
    assert [(piece.segment, piece.seconds) for piece, _ in found] == alone
    assert len(alone) > 5
    assert [words for _, words in found] == [[expected[place % 5]] for place in range(len(found))]


def test_recordings_are_recognised_in_turn(server: Running, clips) -> None:
    recording = np.concatenate([*clips, *clips]).astype(np.float32) / 32768

    async def in_the_server() -> list[int]:
        order: list[int] = []

        async def one(number: int) -> None:
            async for _ in server.engine.transcribe(blocks_of(recording), DecodingOptions(max_segment_seconds=2.0)):
                order.append(number)  # noqa: PERF401

        await asyncio.gather(one(0), one(1))
        return order

    order = asyncio.run_coroutine_threadsafe(in_the_server(), server.loop).result(PATIENCE)
    assert order == [0, 1] * (len(order) // 2)


def test_a_recording_that_no_one_waits_for_is_given_up(server: Running) -> None:
    recording = np.zeros(60 * RATE, np.float32)

    async def in_the_server() -> None:
        pieces = server.engine.transcribe(blocks_of(recording), DecodingOptions(max_segment_seconds=1.0))
        await anext(pieces)
        await pieces.aclose()

    before = server.metric("unichoir_audio_seconds_total")
    asyncio.run_coroutine_threadsafe(in_the_server(), server.loop).result(PATIENCE)
    assert server.engine.is_idle
    # Another one goes through the same queue, so that the first must have been passed by then.
    asyncio.run(recognise(server, np.zeros(RATE, np.int16)))
    assert server.metric("unichoir_audio_seconds_total") < before + 30


def test_too_many_recordings_are_refused(serve: Callable[..., Running]) -> None:
    small = serve(max_waiting_uploads=1)

    async def in_the_server() -> None:
        first = small.engine.transcribe(
            blocks_of(np.zeros(5 * RATE, np.float32)), DecodingOptions(max_segment_seconds=1.0)
        )
        await anext(first)
        with pytest.raises(Busy):
            await anext(small.engine.transcribe(blocks_of(np.zeros(RATE, np.float32)), DecodingOptions()))
        await first.aclose()
        assert await anext(small.engine.transcribe(blocks_of(np.zeros(RATE, np.float32)), DecodingOptions()))

    asyncio.run_coroutine_threadsafe(in_the_server(), small.loop).result(PATIENCE)


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """The server's log records."""
    found: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record)

    logger, handler = logging.getLogger("unichoir.serving"), Keep()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield found
    logger.setLevel(level)
    logger.removeHandler(handler)


@pytest.mark.parametrize("kind", [DecodingError, RuntimeError])
def test_what_fails_for_one_session_ends_that_one_alone(clips, expected, records, kind: type[Exception]) -> None:
    recognizer = load_recognizer(SMALL_MODEL)
    decode_streams = recognizer.streams.decode_streams

    def fail_with_the_odd_one(streams: list) -> None:
        if any(stream.options.num_best == 7 for stream in streams):
            raise kind("the odd one")
        decode_streams(streams)

    with running(recognizer) as server:
        recognizer.streams.decode_streams = fail_with_the_odd_one

        async def talk() -> list[tuple[list[str], str | None]]:
            good = [recognise(server, clip) for clip in clips]
            return await asyncio.gather(*good, recognise(server, clips[0], nbest=7), *good[5:])

        *good, (words, error) = asyncio.run(talk())
    assert good == [([text], None) for text in expected]
    assert words == []
    assert error == ("the odd one" if kind is DecodingError else "the recogniser has failed")
    assert any(record.getMessage() == "session_error" for record in records) == (kind is RuntimeError)


def test_a_written_form_that_fails_costs_no_words(clips, expected, monkeypatch: pytest.MonkeyPatch) -> None:
    class Grammar:
        def normalize(self, text: str) -> str:
            raise RuntimeError("no path")

    monkeypatch.setattr(itn, "load_grammar", lambda language: Grammar())
    itn._write_window.cache_clear()
    with running(load_recognizer(SMALL_MODEL), streaming=StreamingOptions(written=WrittenForm(itn="en"))) as server:
        assert asyncio.run(recognise(server, clips[3])) == ([expected[3]], None)


def test_logs_have_neither_text_nor_audio_unless_asked(serve: Callable[..., Running], clips, expected, records) -> None:
    for log_text in (False, True):
        records.clear()
        server = serve(log_text=log_text)
        assert asyncio.run(recognise(server, clips[3])) == ([expected[3]], None)
        server.call(lambda: None)
        while not any(record.getMessage() == "session_ended" for record in records):
            server.call(lambda: None)
        lines = json.dumps([[record.getMessage(), record.fields] for record in records])
        assert (expected[3] in lines) == log_text
        (ended,) = [record.fields for record in records if record.getMessage() == "session_ended"]
        assert ended["outcome"] == "completed"
        assert ended["audio_seconds"] == pytest.approx(len(clips[3]) / RATE, abs=1e-3)
        assert ended["latency"]["final_after_input"]["count"] == 1


def test_metrics_count_what_was_done(serve: Callable[..., Running], clips) -> None:
    server = serve()
    asyncio.run(recognise(server, clips[0]))
    while server.metric("unichoir_sessions"):
        pass
    assert server.metric("unichoir_audio_seconds_total") == pytest.approx(len(clips[0]) / RATE, abs=1e-3)
    chunks = -(-len(clips[0]) // (16 * 640))
    assert server.metric("unichoir_batch_size_sum") == chunks
    assert server.metric("unichoir_step_seconds_count") == chunks
    assert server.metric("unichoir_sessions_ended_total", protocol="wenet", outcome="completed") == 1
    assert server.metric("unichoir_final_latency_seconds_count") == 1
    assert server.metric("unichoir_queue_seconds") == 0
    assert server.metric("process_resident_memory_bytes") > 5e7


@pytest.mark.parametrize("kind", [MemoryError, DecodingError])
@pytest.mark.parametrize("verb", ["is_ready", "create_stream", "get_result"])
def test_an_error_anywhere_in_one_session_ends_that_one_alone(
    clips, expected, kind: type[Exception], verb: str
) -> None:
    recognizer = load_recognizer(SMALL_MODEL)
    right = getattr(recognizer.streams, verb)

    def fail_with_the_odd_one(first: object, *more: object, **named: object) -> object:
        options = first if isinstance(first, StreamingOptions) else first.options
        if options.num_best == 7:
            raise kind("the odd one")
        return right(first, *more, **named)

    with running(recognizer) as server:
        setattr(recognizer.streams, verb, fail_with_the_odd_one)

        async def talk() -> list[tuple[list[str], str | None]]:
            return await asyncio.gather(
                recognise(server, clips[0], nbest=7), *(recognise(server, clip) for clip in clips)
            )

        (words, error), *good = asyncio.run(talk())
        assert httpx.get(f"{server.url}/readyz").status_code == 200
    assert good == [([text], None) for text in expected]
    assert words == []
    assert error == ("the odd one" if kind is DecodingError else "the recogniser has failed")


@pytest.mark.parametrize("verb", ["decode_streams", "get_result"])
def test_when_a_thread_dies_all_are_told_and_the_server_ends(clips, verb: str) -> None:
    """By what is no error of a session: live sessions and recordings get a message, nobody new is taken."""
    recognizer = load_recognizer(SMALL_MODEL)
    recording = np.zeros(600 * RATE, np.float32)
    with running(recognizer) as server:

        async def upload() -> str:
            async def in_the_server() -> None:
                async for _ in server.engine.transcribe(blocks_of(recording), DecodingOptions(max_segment_seconds=1.0)):
                    begun.set()

            found = asyncio.run_coroutine_threadsafe(in_the_server(), server.loop)
            with pytest.raises(UnichoirError) as raised:
                await asyncio.wait_for(asyncio.wrap_future(found), PATIENCE)
            return str(raised.value)

        def die(*_: object, **__: object) -> None:
            raise SystemExit(1)

        async def talk() -> tuple[str, tuple[list[str], str | None]]:
            waiting = asyncio.create_task(upload())
            await asyncio.to_thread(begun.wait, PATIENCE)
            setattr(recognizer.streams, verb, die)
            said = await asyncio.wait_for(recognise(server, clips[0]), PATIENCE)
            return await waiting, said

        begun = threading.Event()
        uploaded, (words, error) = asyncio.run(talk())
        assert uploaded == error == DEATH
        assert words == []
        assert not server.engine.is_alive
        assert server.engine.is_dead
        with pytest.raises(Draining):
            server.engine.open_session()
        server.thread.join(PATIENCE)
        assert not server.thread.is_alive()


def test_many_lists_of_hotwords_are_built_outside_of_the_engine(server: Running, clips, expected, monkeypatch) -> None:
    """More lists than the recogniser keeps for nobody: each is built once, and never where streams are stepped."""
    threads = []

    def build(hotwords: object, tokenizer: object) -> ContextGraph:
        threads.append(threading.current_thread().name)
        return ContextGraph(hotwords, tokenizer)

    monkeypatch.setattr(scoring, "ContextGraph", build)
    count = scoring.MAX_GRAPHS + 8

    async def talk() -> list[tuple[list[str], str | None]]:
        phrases = [[f"SIX {'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[number]} :0.001"] for number in range(count)]
        return await asyncio.gather(*(recognise(server, clips[0], hotwords=each) for each in phrases))

    assert asyncio.run(talk()) == [([expected[0]], None)] * count
    assert len(threads) == count
    assert not any(name.startswith("unichoir") for name in threads)
