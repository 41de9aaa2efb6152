"""A server with a model for two languages, which clients may choose: two of the three tones that it hears."""

import asyncio
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
import soundfile
from tests.serving.forms import client_of
from tests.serving.harness import Running, running
from tests.serving.test_realtime import audio, connected, play, receive, until, update
from tests.tone_model import RATE, TOKENS, TONES, ToneBackend

from unichoir.audio.fbank import FbankConfig
from unichoir.recognition.options import DecodingOptions, StreamingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.text.tokenizer import BpeTokenizer

ENGLISH, WORD = 3, 5
MODES = {
    "decoding": DecodingOptions(mode="ctc_prefix_beam_search"),
    "streaming": StreamingOptions(mode="ctc_prefix_beam_search"),
}


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer(ToneBackend(), BpeTokenizer([*TOKENS[:3], "<|en|>", "<|ar|>", "\u2581high"], None), FbankConfig())


@pytest.fixture(scope="module")
def server(recognizer: Recognizer) -> Iterator[Running]:
    with running(recognizer, model_name="tones", language="", languages=("en", "ar"), **MODES) as found:
        yield found


def tones(*places: tuple[int, float, float], seconds: float) -> np.ndarray:
    samples = np.random.default_rng(0).normal(size=round(seconds * RATE), scale=1e-4)
    for tone, start, end in places:
        span = np.arange(round(start * RATE), round(end * RATE))
        samples[span] += 0.5 * np.sin(2 * np.pi * TONES[tone] * span / RATE)
    return np.round(samples * 32767).astype(np.int16)


SAID = tones((ENGLISH, 0.3, 0.5), (WORD, 0.6, 0.9), seconds=2.0)


def transcribe(server: Running, **options: Any) -> Any:
    file = io.BytesIO()
    soundfile.write(file, SAID, RATE, format="WAV")
    with client_of(server) as client:
        return client.audio.transcriptions.create(
            file=("tones.wav", file.getvalue()), model="tones", response_format="verbose_json", **options
        )


def test_a_recording(server: Running) -> None:
    heard = [transcribe(server, **options) for options in ({}, {"language": "en"}, {"language": "AR"})]
    assert [(one.text, one.language) for one in heard] == [("high", "en"), ("high", "en"), ("high", "ar")]


def test_a_language_that_the_model_does_not_know(server: Running) -> None:
    with pytest.raises(openai.BadRequestError, match="language: zh: this model recognises en, ar"):
        transcribe(server, language="zh")


def test_an_operator_may_choose(recognizer: Recognizer) -> None:
    only = {**MODES, "decoding": DecodingOptions(mode="ctc_prefix_beam_search", language="ar")}
    with running(recognizer, model_name="tones", language="ar", **only) as server:
        assert transcribe(server).language == "ar"
        with pytest.raises(openai.BadRequestError, match="this model recognises ar only"):
            transcribe(server, language="en")


def test_a_realtime_session(server: Running) -> None:
    async def talk() -> list[Any]:
        async with connected(server) as connection:
            created = await receive(connection)
            wanted = {"model": "tones", "language": "ar"}
            updated = await update(connection, audio=audio(RATE, transcription=wanted, turn_detection=None))
            await connection.session.update(
                session={"type": "transcription", "audio": audio(RATE, transcription={"language": "zh"})}
            )
            refused = (await until(connection, "error"))[-1]
            await play(connection, SAID)
            await connection.input_audio_buffer.commit()
            done = (await until(connection, "conversation.item.input_audio_transcription.completed"))[-1]
            return [created, updated, refused, done]

    created, updated, refused, done = asyncio.run(talk())
    assert created.session.audio.input.transcription.language is None
    assert updated.session.audio.input.transcription.language == "ar"
    assert refused.error.param == "session.audio.input.transcription.language"
    assert "this model recognises en, ar" in refused.error.message
    assert done.transcript == "high"


def test_a_realtime_session_is_restricted(server: Running) -> None:
    streams: list[str | None] = []

    async def talk() -> None:
        async with connected(server) as connection:
            for language in ("ar", ""):
                await update(connection, audio=audio(RATE, transcription={"language": language}, turn_detection=None))
                [session] = server.engine.sessions
                streams.append(session.options.language)

    asyncio.run(talk())
    assert streams == ["ar", None]
