"""WeNet's protocol, tested with a client that shares no code with the server."""

import asyncio
import json
from collections.abc import Callable

import numpy as np
import pytest
import websockets
from tests.serving.harness import PATIENCE, RATE, Running, stream_texts, wenet_client

from unichoir.recognition.recognizer import Recognizer

SILENCE = np.zeros(3 * RATE, np.int16)


async def recognise(server: Running, samples: np.ndarray, block: int = 1600, **options: object) -> list[str]:
    async with wenet_client(server.ws_url) as client:
        assert await client.start(**options) == {"status": "ok", "type": "server_ready"}
        await client.play(samples, block)
        return await client.end()


@pytest.mark.parametrize("block", [160, 1601, 100_000])
def test_the_words_of_a_stream_however_it_is_cut(server: Running, clips, expected, block: int) -> None:
    assert asyncio.run(recognise(server, clips[0], block)) == [expected[0]]


def test_messages_have_the_shapes_of_the_protocol(server: Running, clips, expected) -> None:
    async def talk() -> tuple[list[dict], object]:
        async with wenet_client(server.ws_url) as client:
            messages = [await client.start(nbest=3)]
            await client.play(clips[1])
            await client.socket.send('{"signal": "end"}')
            while not client.is_ended:
                messages.append(await client.receive())
            with pytest.raises(websockets.ConnectionClosedOK):
                await client.socket.recv()
            return messages, client.finals

    messages, finals = asyncio.run(talk())
    assert [message["type"] for message in messages] == [
        "server_ready",
        *["partial_result"] * (len(messages) - 3),
        "final_result",
        "speech_end",
    ]
    assert len(messages) > 3, "a partial result at least"
    assert all(message["status"] == "ok" for message in messages)
    for message in messages[1:-2]:
        assert set(message) == {"status", "type", "nbest"}
        assert isinstance(message["nbest"], str)
        assert 1 <= len(json.loads(message["nbest"])) <= 3
        assert all(set(item) == {"sentence"} for item in json.loads(message["nbest"]))
    assert set(messages[-1]) == {"status", "type"}
    (nbest,) = finals
    assert nbest[0]["sentence"] == expected[1]
    assert len(nbest) == 3
    for item in nbest:
        assert set(item) == {"sentence", "word_pieces"}
        assert "".join(piece["word"] for piece in item["word_pieces"]).replace("\u2581", " ").split() == (
            item["sentence"].split()
        )
        for piece in item["word_pieces"]:
            assert set(piece) == {"word", "start", "end"}
            assert isinstance(piece["start"], int)
            assert 0 <= piece["start"] <= piece["end"] <= 1000 * len(clips[1]) / RATE


def test_without_continuous_decoding_the_session_ends_at_the_first_endpoint(server: Running, clips, expected) -> None:
    async def talk() -> list[str]:
        async with wenet_client(server.ws_url) as client:
            await client.start()
            await client.play(np.concatenate([clips[0], SILENCE]))
            # No end signal: the server must find the end by itself, and close.
            found = await client.listen()
            with pytest.raises(websockets.ConnectionClosedOK):
                await client.socket.recv()
            return found

    assert asyncio.run(talk()) == [expected[0]]


def test_continuous_decoding_goes_on_and_loses_nothing(server: Running, clips, included: Recognizer) -> None:
    samples = np.concatenate([part for clip in clips for part in (clip, SILENCE)])
    texts = stream_texts(included, samples)
    assert len(texts) == len(clips)
    assert asyncio.run(recognise(server, samples, continuous_decoding=True)) == texts


def test_times_of_later_sentences_count_from_the_start(server: Running, clips) -> None:
    samples = np.concatenate([clips[0], SILENCE, clips[1]])

    async def talk() -> list[list[dict]]:
        async with wenet_client(server.ws_url) as client:
            await client.start(continuous_decoding=True)
            await client.play(samples)
            await client.end()
            return [nbest for nbest in client.finals if nbest[0]["sentence"]]

    first, second = asyncio.run(talk())
    border = 1000 * len(clips[0]) / RATE
    assert first[0]["word_pieces"][-1]["end"] <= border
    assert border + 3000 < second[0]["word_pieces"][0]["start"] < border + 3000 + 1000 * len(clips[1]) / RATE


@pytest.mark.parametrize("samples", [0, 1, 399, 400])
def test_too_little_for_a_word_is_an_empty_final_result(server: Running, samples: int) -> None:
    async def talk() -> list[list[dict]]:
        async with wenet_client(server.ws_url) as client:
            await client.start()
            await client.play(np.zeros(samples, np.int16))
            await client.end()
            return client.finals

    (nbest,) = asyncio.run(talk())
    assert nbest == [{"sentence": "", "word_pieces": []}]


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        (['{"signal": "start", "nbest": "two"}'], "integer is expected for nbest option"),
        (['{"signal": "start", "nbest": true}'], "integer is expected for nbest option"),
        (['{"signal": "start", "nbest": 1.5}'], "integer is expected for nbest option"),
        (
            ['{"signal": "start", "continuous_decoding": 1}'],
            "boolean true or false is expected for continuous_decoding option",
        ),
        (['{"signal": "pause"}'], "Unexpected signal type"),
        (['{"signal": null}'], "Unexpected signal type"),
        (['{"signal": "end"}'], "Unexpected signal type"),
        (['{"signal": "start"}', '{"signal": "start"}'], "Unexpected signal type"),
        (['{"type": "start"}'], "Wrong message header"),
        (["{}"], "Wrong message header"),
        (["start"], "Wrong protocol"),
        (["[1, 2]"], "Wrong protocol"),
        (["[" * 100_000], "Wrong protocol"),
        (["\x00"], "Wrong protocol"),
        ([b"\x00\x00"], "Start signal is expected before binary data"),
    ],
)
def test_errors_have_the_words_of_the_protocol_and_close(server: Running, messages, error: str) -> None:
    async def talk() -> dict:
        async with wenet_client(server.ws_url) as client:
            for message in messages:
                await client.socket.send(message)
            answer = {"status": "ok"}
            while answer["status"] == "ok":
                answer = await client.receive()
            with pytest.raises(websockets.ConnectionClosed):
                await asyncio.wait_for(client.socket.recv(), PATIENCE)
            return answer

    assert asyncio.run(talk()) == {"status": "failed", "message": error}


@pytest.mark.parametrize("nbest", [0, -1, 11])
def test_an_nbest_that_the_search_has_not_is_refused(server: Running, nbest: int) -> None:
    async def talk() -> dict:
        async with wenet_client(server.ws_url) as client:
            return await client.start(nbest=nbest)

    answer = asyncio.run(talk())
    assert answer["status"] == "failed"
    assert "nbest" in answer["message"]


def test_many_at_once_each_get_their_own_words(server: Running, clips, expected) -> None:
    async def talk() -> list[list[str]]:
        return await asyncio.gather(
            *(recognise(server, clips[place % 5], 400 + 100 * place, continuous_decoding=True) for place in range(20))
        )

    assert asyncio.run(talk()) == [[expected[place % 5]] for place in range(20)]
    assert server.metric("unichoir_batch_size_sum") > server.metric("unichoir_batch_size_count")


def test_a_sample_cut_in_two_between_messages_is_put_together(server: Running, clips, expected) -> None:
    async def talk() -> list[str]:
        async with wenet_client(server.ws_url) as client:
            await client.start()
            content = clips[2].astype("<i2").tobytes()
            for start in range(0, len(content), 1333):
                await client.socket.send(content[start : start + 1333])
            return await client.end()

    assert asyncio.run(talk()) == [expected[2]]


def test_a_client_that_does_not_read_delays_no_other(server: Running, clips, expected) -> None:
    async def talk() -> list[list[str]]:
        async with wenet_client(server.ws_url) as silent:
            await silent.start(continuous_decoding=True)
            await silent.play(clips[0])  # and never reads
            return await asyncio.gather(*(recognise(server, clip) for clip in clips))

    assert asyncio.run(talk()) == [[text] for text in expected]


def test_results_come_before_the_audio_has_ended(server: Running, clips, expected) -> None:
    async def talk() -> tuple[list[str], str]:
        async with wenet_client(server.ws_url) as client:
            await client.start()
            await client.play(clips[0])
            while not client.partials or len(client.partials[-1].split()) < 3:
                await client.receive()
            early = client.partials[-1]
            return await client.end(), early

    found, early = asyncio.run(talk())
    assert found == [expected[0]]
    assert expected[0].startswith(early)


@pytest.mark.parametrize("settings", [{"max_backlog_seconds": 2.0}, {"max_batch": 1}])
def test_backpressure_and_small_batches_change_no_word(
    serve: Callable[..., Running], clips, expected, settings: dict
) -> None:
    limited = serve(**settings)

    async def talk() -> list[list[str]]:
        long = np.concatenate([clips[0], SILENCE] * 4)
        return await asyncio.gather(
            recognise(limited, long, 50_000, continuous_decoding=True), *(recognise(limited, clip) for clip in clips)
        )

    long, *others = asyncio.run(talk())
    assert long == stream_texts(limited.engine.recognizer, np.concatenate([clips[0], SILENCE] * 4))
    assert others == [[text] for text in expected]
