"""OpenAI's realtime transcription events, spoken by OpenAI's own client."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import openai
import pytest
import websockets
from openai.resources.realtime.realtime import AsyncRealtimeConnection
from tests.samples import SMALL_MODEL
from tests.serving.harness import PATIENCE, RATE, Running, stream_texts

from unichoir.audio.io import resample
from unichoir.recognition.options import EndpointRules
from unichoir.recognition.recognizer import Recognizer

TRANSCRIPTION = "conversation.item.input_audio_transcription"
SILENCE = np.zeros(3 * RATE, np.int16)
INCLUDE = [f"item.input_audio_transcription.{what}" for what in ("words", "partial", "logprobs")]


@asynccontextmanager
async def connected(server: Running, **query: str) -> AsyncIterator[AsyncRealtimeConnection]:
    client = openai.AsyncOpenAI(api_key="none", base_url=f"{server.url}/v1", websocket_base_url=f"{server.ws_url}/v1")
    async with client, client.realtime.connect(extra_query={"intent": "transcription", **query}) as connection:
        yield connection


async def receive(connection: AsyncRealtimeConnection) -> Any:
    return await asyncio.wait_for(connection.recv(), PATIENCE)


async def until(connection: AsyncRealtimeConnection, kind: str) -> list[Any]:
    """Return all events up to the first of this type."""
    events = [await receive(connection)]
    while events[-1].type != kind:
        events.append(await receive(connection))
    return events


async def update(connection: AsyncRealtimeConnection, **session: Any) -> Any:
    await connection.session.update(session={"type": "transcription", **session})
    return (await until(connection, "session.updated"))[-1]


async def play(connection: AsyncRealtimeConnection, samples: np.ndarray, block: int = 2400) -> None:
    for start in range(0, len(samples), block):
        content = samples[start : start + block].astype("<i2").tobytes()
        await connection.input_audio_buffer.append(audio=base64.b64encode(content).decode())


def at_rate(samples: np.ndarray, rate: int) -> np.ndarray:
    floats = resample(samples.astype(np.float32) / 32768, RATE, rate)
    return np.clip(np.round(floats * 32768), -32768, 32767).astype(np.int16)


def audio(rate: int, **more: Any) -> dict[str, Any]:
    return {"input": {"format": {"type": "audio/pcm", "rate": rate}, **more}}


def of_type(events: list[Any], kind: str) -> list[Any]:
    return [event for event in events if event.type == kind]


def test_a_session_begins_with_its_configuration(server: Running) -> None:
    async def talk() -> Any:
        async with connected(server) as connection:
            return await receive(connection)

    event = asyncio.run(talk())
    assert event.type == "session.created"
    assert event.session.type == "transcription"
    assert event.session.audio.input.format.to_dict() == {"type": "audio/pcm", "rate": 24000}
    assert event.session.audio.input.transcription.model == SMALL_MODEL.name
    assert event.session.audio.input.turn_detection.to_dict() == {
        "type": "server_vad",
        "threshold": 0.2,
        "prefix_padding_ms": 300,
        "silence_duration_ms": 1000,
    }


@pytest.mark.parametrize("rate", [24000, 16000])
def test_committed_audio_is_transcribed(server: Running, included: Recognizer, clips, rate: int) -> None:
    samples = at_rate(clips[0], rate)

    async def talk() -> list[Any]:
        async with connected(server) as connection:
            await update(connection, audio=audio(rate, turn_detection=None), include=INCLUDE)
            await play(connection, samples)
            await connection.input_audio_buffer.commit()
            return await until(connection, f"{TRANSCRIPTION}.completed")

    events = asyncio.run(talk())
    (committed,) = of_type(events, "input_audio_buffer.committed")
    completed = events[-1]
    (expected,) = stream_texts(included, samples, rate)
    assert completed.transcript == expected
    assert completed.item_id == committed.item_id
    assert committed.previous_item_id is None
    assert completed.usage.to_dict() == {"type": "duration", "seconds": pytest.approx(len(clips[0]) / RATE, abs=2e-3)}
    assert "".join(event.delta for event in of_type(events, f"{TRANSCRIPTION}.delta")) == expected
    assert [event.item.id for event in of_type(events, "conversation.item.added")] == [completed.item_id]
    # Our extensions arrive as further fields and as events of an unknown type.
    assert [word["word"] for word in completed.words] == expected.split()
    assert all(0 < word["start"] < word["end"] < len(clips[0]) / RATE + 0.001 for word in completed.words)
    assert all(0 < word["confidence"] <= 1 for word in completed.words)
    assert "".join(entry.token for entry in completed.logprobs).strip() == expected
    assert all(entry.logprob <= 0 for entry in completed.logprobs)
    partials = [event.transcript for event in events if event.type == f"{TRANSCRIPTION}.partial"]
    assert len(partials) >= 2
    assert expected.split()[0] in partials[-1]


def test_the_server_finds_the_ends_of_utterances(server: Running, included: Recognizer, clips) -> None:
    texts = stream_texts(included, np.concatenate([part for clip in clips[:3] for part in (clip, SILENCE)]))

    async def talk() -> list[Any]:
        events: list[Any] = []
        async with connected(server) as connection:
            await update(connection, audio=audio(16000))
            for clip in clips[:3]:
                await play(connection, np.concatenate([clip, SILENCE]))
            for _ in range(3):
                events += await until(connection, f"{TRANSCRIPTION}.completed")
        return events

    events = asyncio.run(talk())
    completed = of_type(events, f"{TRANSCRIPTION}.completed")
    assert len(texts) == 3
    assert [event.transcript for event in completed] == texts
    ids = [event.item_id for event in completed]
    assert [event.previous_item_id for event in of_type(events, "input_audio_buffer.committed")] == [None, *ids[:2]]
    starts, stops = (
        of_type(events, "input_audio_buffer.speech_started"),
        of_type(events, "input_audio_buffer.speech_stopped"),
    )
    assert [event.item_id for event in starts] == [event.item_id for event in stops] == ids
    offset = 0.0
    for clip, start, stop in zip(clips[:3], starts, stops, strict=True):
        end = offset + 1000 * len(clip) / RATE
        assert offset - 1000 < start.audio_start_ms < end
        assert offset < stop.audio_end_ms < end + 1500
        offset = end + 3000
    assert of_type(events, f"{TRANSCRIPTION}.delta")
    for each in ids:
        deltas = "".join(event.delta for event in of_type(events, f"{TRANSCRIPTION}.delta") if event.item_id == each)
        transcript = completed[ids.index(each)].transcript
        # What was shown cannot be taken back: where rescoring has changed it, nothing more is shown.
        assert deltas == transcript or not transcript.startswith(deltas)


def test_silence_detection_can_be_chosen(server: Running, included: Recognizer, clips) -> None:
    samples = np.concatenate([clips[0], np.zeros(RATE // 2, np.int16), clips[1], SILENCE])
    rules = EndpointRules(silence_after_speech=0.32, blank_threshold=0.5)
    texts = stream_texts(included, samples, endpoint=rules)
    detection = {"type": "server_vad", "threshold": 0.5, "silence_duration_ms": 320}

    async def talk() -> list[str]:
        async with connected(server) as connection:
            event = await update(connection, audio=audio(16000, turn_detection=detection))
            assert event.session.audio.input.turn_detection.silence_duration_ms == 320
            await play(connection, samples)
            found = [(await until(connection, f"{TRANSCRIPTION}.completed"))[-1].transcript for _ in texts]
            return found

    assert len(texts) >= 2
    assert asyncio.run(talk()) == texts


def test_commits_follow_each_other_and_times_go_on(server: Running, clips, expected) -> None:
    async def talk() -> list[Any]:
        async with connected(server) as connection:
            await update(connection, audio=audio(16000, turn_detection=None), include=INCLUDE[:1])
            for clip in clips[:2]:
                await play(connection, clip)
                await connection.input_audio_buffer.commit()
            return [(await until(connection, f"{TRANSCRIPTION}.completed"))[-1] for _ in range(2)]

    first, second = asyncio.run(talk())
    assert [first.transcript, second.transcript] == expected[:2]
    border = len(clips[0]) / RATE
    assert first.words[-1]["end"] <= border + 0.001
    assert second.words[0]["start"] >= border


def test_an_utterance_longer_than_the_longest_is_one_item_when_committed(serve: Callable[..., Running], clips) -> None:
    # Without turn detection nothing but the longest utterance cuts, and the client does not see it.
    samples = np.concatenate([clips[0], np.zeros(RATE, np.int16)] * 8)

    async def talk() -> list[Any]:
        async with connected(serve()) as connection:
            await update(connection, audio=audio(16000, turn_detection=None), include=INCLUDE[:1])
            await play(connection, samples)
            await connection.input_audio_buffer.commit()
            return await until(connection, f"{TRANSCRIPTION}.completed")

    events = asyncio.run(talk())
    assert len(samples) / RATE > 20
    assert len(of_type(events, "input_audio_buffer.committed")) == 1
    words = events[-1].transcript.split()
    assert words.count("SEVEN") + words.count("SIX") >= 8
    assert [word["word"] for word in events[-1].words] == words
    assert events[-1].words[-1]["end"] > 20


def test_clear_forgets(server: Running, clips, expected) -> None:
    async def talk() -> str:
        async with connected(server) as connection:
            await update(connection, audio=audio(16000, turn_detection=None))
            await play(connection, clips[0])
            await connection.input_audio_buffer.clear()
            await until(connection, "input_audio_buffer.cleared")
            await play(connection, clips[3])
            await connection.input_audio_buffer.commit()
            return (await until(connection, f"{TRANSCRIPTION}.completed"))[-1].transcript

    assert asyncio.run(talk()) == expected[3]


def test_nothing_to_commit_is_an_error_and_the_session_goes_on(server: Running, clips, expected) -> None:
    async def talk() -> tuple[Any, str]:
        async with connected(server) as connection:
            await connection.input_audio_buffer.commit(event_id="mine")
            error = (await until(connection, "error"))[-1]
            await update(connection, audio=audio(16000))
            await play(connection, clips[2])
            await connection.input_audio_buffer.commit()
            return error, (await until(connection, f"{TRANSCRIPTION}.completed"))[-1].transcript

    error, transcript = asyncio.run(talk())
    assert (error.error.code, error.error.event_id) == ("input_audio_buffer_commit_empty", "mine")
    assert transcript == expected[2]


def test_silence_committed_is_an_empty_transcript(server: Running) -> None:
    async def talk() -> list[Any]:
        async with connected(server) as connection:
            await update(connection, audio=audio(16000))
            await play(connection, np.zeros(800, np.int16))
            await connection.input_audio_buffer.commit()
            return await until(connection, f"{TRANSCRIPTION}.completed")

    events = asyncio.run(talk())
    assert events[-1].transcript == ""
    assert not of_type(events, "input_audio_buffer.speech_started")


@pytest.mark.parametrize(
    ("session", "param"),
    [
        ({"type": "realtime"}, "session.type"),
        ({"voice": "alloy"}, "session.voice"),
        ({"include": ["everything"]}, "session.include"),
        ({"audio": {"output": {}}}, "session.audio.output"),
        ({"audio": audio(48000)}, "session.audio.input.format.rate"),
        ({"audio": {"input": {"format": {"type": "audio/pcmu"}}}}, "session.audio.input.format.type"),
        ({"audio": {"input": {"noise_reduction": {"type": "near_field"}}}}, "session.audio.input.noise_reduction"),
        ({"audio": {"input": {"transcription": {"model": "whisper-1"}}}}, "session.audio.input.transcription.model"),
        ({"audio": {"input": {"transcription": {"language": "zh"}}}}, "session.audio.input.transcription.language"),
        ({"audio": {"input": {"transcription": {"prompt": "Dr."}}}}, "session.audio.input.transcription.prompt"),
        ({"audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}}, "session.audio.input.turn_detection.type"),
        (
            {"audio": {"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": -1}}}},
            "session.audio.input.turn_detection.silence_duration_ms",
        ),
        (
            {"audio": {"input": {"turn_detection": {"type": "server_vad", "create_response": True}}}},
            "session.audio.input.turn_detection.create_response",
        ),
        ({"audio": []}, "session.audio"),
        ({"audio": {"input": {"turn_detection": 5}}}, "session.audio.input.turn_detection"),
    ],
)
def test_what_the_server_cannot_do_is_refused_by_name(server: Running, session: dict, param: str) -> None:
    async def talk() -> tuple[Any, Any]:
        async with connected(server) as connection:
            before = await receive(connection)
            await connection.send({"type": "session.update", "session": {"type": "transcription", **session}})
            error = await receive(connection)
            after = await update(connection)
            return error, (before.session.audio, after.session.audio)

    error, (before, after) = asyncio.run(talk())
    assert error.type == "error"
    assert error.error.param == param
    assert param in error.error.message
    assert after == before


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("nonsense", "invalid_json"),
        (b"\x00\x01", "invalid_json"),
        ("[" * 200_000, "invalid_json"),
        ("3", "unknown_event"),
        ('{"type": 3}', "unknown_event"),
        ('{"type": ["session.update"]}', "unknown_event"),
        ('{"type": "response.create"}', "unknown_event"),
        ('{"type": "session.update"}', "invalid_value"),
        ('{"type": "session.update", "session": 7}', "invalid_value"),
        ('{"type": "input_audio_buffer.append"}', "invalid_value"),
        ('{"type": "input_audio_buffer.append", "audio": "?"}', "invalid_value"),
        ('{"type": "input_audio_buffer.append", "audio": "AAA="}' + " ", None),
        ('{"type": "input_audio_buffer.append", "audio": "AA=="}', "invalid_value"),
        ('{"type": "input_audio_buffer.append", "audio": "\u00e9"}', "invalid_value"),
    ],
)
def test_a_bad_event_is_answered_and_the_session_goes_on(server: Running, message, code: str | None) -> None:
    async def talk() -> tuple[dict, dict]:
        async with websockets.connect(f"{server.ws_url}/v1/realtime") as socket:
            await socket.recv()
            await socket.send(message)
            await socket.send('{"type": "session.update", "session": {}, "event_id": "x"}')
            answers = [json.loads(await asyncio.wait_for(socket.recv(), PATIENCE))]
            while answers[-1]["type"] != "session.updated":
                answers.append(json.loads(await asyncio.wait_for(socket.recv(), PATIENCE)))
            return answers

    *errors, _ = asyncio.run(talk())
    assert [error["error"]["code"] for error in errors] == ([] if code is None else [code])


@pytest.mark.parametrize("query", [{"model": "gpt-4o-transcribe"}, {"intent": "conversation"}])
def test_another_model_or_intent_is_refused(server: Running, query: dict) -> None:
    async def talk() -> Any:
        async with connected(server, **query) as connection:
            event = await receive(connection)
            with pytest.raises(websockets.ConnectionClosed):
                await receive(connection)
            return event

    event = asyncio.run(talk())
    assert event.type == "error"
    assert next(iter(query.values())) in event.error.message or "intent" in event.error.message


def test_an_alias_is_a_name_of_the_model(serve: Callable[..., Running]) -> None:
    async def talk() -> Any:
        async with connected(serve(aliases=("whisper-1",)), model="whisper-1") as connection:
            return await receive(connection)

    assert asyncio.run(talk()).type == "session.created"


def test_the_rate_cannot_change_in_the_middle(server: Running, clips) -> None:
    async def talk() -> Any:
        async with connected(server) as connection:
            await update(connection, audio=audio(16000))
            await play(connection, clips[0][:1600])
            await connection.session.update(session={"type": "transcription", "audio": audio(24000)})
            return (await until(connection, "error"))[-1]

    assert asyncio.run(talk()).error.param == "session.audio.input.format"


def test_turn_detection_changed_in_the_middle_ends_the_item(server: Running, clips, expected) -> None:
    async def talk() -> list[str]:
        async with connected(server) as connection:
            await update(connection, audio=audio(16000))
            await play(connection, clips[0])
            await connection.session.update(
                session={"type": "transcription", "audio": audio(16000, turn_detection=None)}
            )
            first = (await until(connection, f"{TRANSCRIPTION}.completed"))[-1]
            await play(connection, np.concatenate([clips[1], SILENCE, clips[2]]))
            await connection.input_audio_buffer.commit()
            second = (await until(connection, f"{TRANSCRIPTION}.completed"))[-1]
            return [first.transcript, second.transcript]

    first, second = asyncio.run(talk())
    assert first == expected[0]
    # Without turn detection the silence in the middle ends nothing.
    assert second.startswith(expected[1])
    assert len(second.split()) > len(expected[1].split())
