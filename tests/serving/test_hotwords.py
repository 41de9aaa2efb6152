"""Hotwords of clients, by OpenAI's own client and by WeNet's protocol: a clip in which the model mishears two words."""

import asyncio
import threading
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import openai
import pytest
from tests.samples import CLIPS
from tests.serving.forms import MODEL, client_of
from tests.serving.harness import RATE, Running, wenet_client
from tests.serving.test_realtime import TRANSCRIPTION, audio, connected, of_type, play, receive, until, update

from unichoir.recognition.options import DecodingOptions, StreamingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.search.hotwords import Hotword
from unichoir.serving.settings import Settings

PLAIN, WITH_HOTWORDS = "ACTOBER P TWENT", "OCTOBER TWENTY FOUR"
"""The first is how it begins: whether TWENTY has one T too many depends on the last bit of a feature."""
PHRASES = ["October", "twenty :2"]
KEYWORDS = "session.audio.input.transcription.keywords"


def transcribe(server: Running, **options: Any) -> str:
    with client_of(server) as client:
        found = client.audio.transcriptions.create(file=CLIPS[4], model=MODEL, **options)
        if not options.get("stream"):
            return str(found.text)
        return str(list(found)[-1].text)


async def stream(server: Running, samples: np.ndarray, **options: Any) -> str:
    async with wenet_client(server.ws_url) as client:
        await client.start(**options)
        await client.play(samples)
        return " ".join(await client.end())


def test_a_recording(server: Running) -> None:
    plain = transcribe(server)
    assert plain.startswith(PLAIN)
    assert transcribe(server, keywords=PHRASES) == WITH_HOTWORDS
    assert transcribe(server, keywords=PHRASES, stream=True) == WITH_HOTWORDS
    assert transcribe(server) == plain


@pytest.mark.parametrize(
    ("phrases", "message"),
    [
        (["october", "Zürich"], "keywords: 'Zürich': this model's vocabulary cannot write 'ü'"),
        ([" "], "keywords: '' has no text"),
        (["october :0"], "keywords: 'october': expected a boost above 0"),
        (["october :much"], "keywords: ':much' is not a boost"),
        (["october"] * 6, "keywords: 6 phrases, this server takes at most 5"),
        (["october" * 15], "keywords: more than the 100 characters in all that this server takes"),
    ],
)
def test_lists_that_are_refused(serve: Callable[..., Running], phrases: list[str], message: str) -> None:
    server = serve(max_hotwords=5)
    with pytest.raises(openai.BadRequestError) as caught:
        transcribe(server, keywords=phrases)
    assert (caught.value.param, caught.value.code) == ("keywords", "invalid_value")
    assert caught.value.body["message"].startswith(message)

    async def start() -> dict[str, Any]:
        async with wenet_client(server.ws_url) as client:
            return await client.start(hotwords=phrases)

    answer = asyncio.run(start())
    assert answer["status"] == "failed"
    assert answer["message"].startswith(message.replace("keywords", "hotwords", 1))

    async def change() -> Any:
        async with connected(server) as connection:
            await receive(connection)
            session = {"type": "transcription", "audio": audio(16000, transcription={"keywords": phrases})}
            await connection.session.update(session=session)  # type: ignore[arg-type]
            error = await receive(connection)
            await update(connection)
            return error.error

    error = asyncio.run(change())
    assert (error.code, error.param) == ("invalid_value", KEYWORDS)
    assert error.message.startswith(message.replace("keywords", KEYWORDS, 1))


def test_as_many_as_a_server_takes(server: Running) -> None:
    phrases = [
        f"{first}{second} {third}" for first in "ABCDEFGHIJ" for second in "KLMNOPQRST" for third in "UVWXYZABCD"
    ]
    assert transcribe(server, keywords=[*phrases[2:], *PHRASES]) == WITH_HOTWORDS
    with pytest.raises(openai.BadRequestError, match="1001 phrases, this server takes at most 1000"):
        transcribe(server, keywords=[*phrases, "A"])


def test_an_operator_may_allow_more(serve: Callable[..., Running]) -> None:
    phrases = [" ".join(letters * 3) for letters in product("ABCDEFGHIJKLMNOP", repeat=3)]
    assert sum(map(len, phrases)) > 1 << 16
    server = serve(max_hotwords=len(phrases), max_upload_bytes=CLIPS[4].stat().st_size)
    assert transcribe(server, keywords=[*phrases[2:], *PHRASES]) == WITH_HOTWORDS
    with pytest.raises(openai.BadRequestError, match="4097 phrases, this server takes at most 4096"):
        transcribe(server, keywords=[*phrases, "A"])


@pytest.mark.parametrize("phrases", ["october", 7, None, {"october": 2}, [["october", 2]], [None]], ids=str)
def test_lists_that_are_none(server: Running, phrases: object) -> None:
    async def talk() -> dict[str, Any]:
        async with wenet_client(server.ws_url) as client:
            return await client.start(hotwords=phrases)

    answer = asyncio.run(talk())
    assert answer == {"status": "failed", "message": "hotwords: expected a list of texts"}


def test_a_live_session(server: Running, clips) -> None:
    plain = asyncio.run(stream(server, clips[4]))
    assert not plain.startswith("OCTOBER")
    found = asyncio.run(stream(server, clips[4], hotwords=PHRASES))
    assert found.startswith("OCTOBER")
    assert found.endswith("TWENTY FOUR")
    assert asyncio.run(stream(server, clips[4], hotwords=[])) == plain


def test_a_realtime_session_changes_its_keywords(server: Running, clips) -> None:
    async def talk() -> list[Any]:
        async with connected(server) as connection:
            sessions = [(await receive(connection)).session]
            texts = []
            for keywords in (None, PHRASES, ["six"], None):
                event = await update(
                    connection, audio=audio(16000, turn_detection=None, transcription={"keywords": keywords})
                )
                sessions.append(event.session)
                await play(connection, clips[4])
                await connection.input_audio_buffer.commit()
                events = await until(connection, f"{TRANSCRIPTION}.completed")
                texts.append(events[-1].transcript)
            shown = [session.audio.input.transcription.to_dict().get("keywords") for session in sessions]
            return [texts, shown]

    texts, shown = asyncio.run(talk())
    assert shown == [None, None, PHRASES, ["six"], None]
    assert texts[1].startswith("OCTOBER")
    assert texts[0] == texts[3] != texts[1]
    assert not texts[2].startswith("OCTOBER")


def test_keywords_that_change_within_an_item_end_it(server: Running, clips) -> None:
    async def talk() -> list[Any]:
        async with connected(server) as connection:
            await receive(connection)
            await update(connection, audio=audio(16000, turn_detection=None))
            await play(connection, clips[4])
            await connection.session.update(
                session={"type": "transcription", "audio": {"input": {"transcription": {"keywords": PHRASES}}}}
            )
            await play(connection, clips[4])
            await connection.input_audio_buffer.commit()
            events = await until(connection, f"{TRANSCRIPTION}.completed")
            events += await until(connection, f"{TRANSCRIPTION}.completed")
            return of_type(events, f"{TRANSCRIPTION}.completed")

    first, second = asyncio.run(talk())
    assert not first.transcript.startswith("OCTOBER")
    assert second.transcript.startswith("OCTOBER")


def test_the_server_has_its_own_which_a_clients_list_replaces(serve: Callable[..., Running], clips) -> None:
    own = (Hotword("OCTOBER"), Hotword("TWENTY", 2.0))
    server = serve(streaming=StreamingOptions(hotwords=own), decoding=DecodingOptions(hotwords=own))
    assert transcribe(server) == WITH_HOTWORDS
    assert transcribe(server, keywords=["six"]).startswith(PLAIN)
    assert asyncio.run(stream(server, clips[4])).startswith("OCTOBER")
    assert not asyncio.run(stream(server, clips[4], hotwords=[])).startswith("OCTOBER")


def test_graphs_are_built_beside_the_event_loop_and_the_engine(
    serve: Callable[..., Running], included: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unichoir.search import scoring

    threads: list[str] = []
    graph = scoring.ContextGraph

    def build(*arguments: Any) -> Any:
        threads.append(threading.current_thread().name)
        return graph(*arguments)

    monkeypatch.setattr(scoring, "ContextGraph", build)
    server = serve()
    assert transcribe(server, keywords=["October", "TWENTY :1.25"])
    assert asyncio.run(stream(server, np.zeros(RATE, np.int16), hotwords=["TWENTY :1.75"])) == ""
    assert len(threads) == 2
    assert not any(name == "server" or name.startswith("unichoir-engine") for name in threads)


def test_settings() -> None:
    assert Settings(model_name="m", max_hotwords=0).max_hotwords == 0
    with pytest.raises(Exception, match="max_hotwords: expected a whole number of at least 0"):
        Settings(model_name="m", max_hotwords=-1)
