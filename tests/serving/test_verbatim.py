"""Servers with a model for punctuation and case, and clients that request the bare words."""

from collections.abc import Iterator

import openai
import pytest
from tests.samples import CLIPS
from tests.serving.forms import MODEL, client_of
from tests.serving.harness import Running, running
from tests.text.punctuation_models import LOWER, QUESTION, save_english_model

from unichoir.recognition.options import DecodingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.serving.realtime_config import InvalidUpdate, RealtimeConfig
from unichoir.serving.settings import Settings


@pytest.fixture(scope="module")
def recognizer(included: Recognizer, tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    """A recogniser that turns everything into a question."""
    file = save_english_model(tmp_path_factory.mktemp("marks"), {"<unk>": (LOWER, QUESTION)}) / "punctuation.onnx"
    return Recognizer(included.backend, included.tokenizer, included.fbank_config, punctuation=file)


@pytest.fixture(scope="module")
def marking(recognizer: Recognizer) -> Iterator[Running]:
    with running(recognizer) as server:
        yield server


def transcribe(server: Running, **fields: str) -> str:
    with client_of(server) as client:
        return client.audio.transcriptions.create(file=CLIPS[0], model=MODEL, extra_body=fields).text


def test_recordings(marking: Running) -> None:
    bare = transcribe(marking, verbatim="true")
    assert bare == bare.upper()
    assert transcribe(marking) == transcribe(marking, verbatim="false") != bare
    assert transcribe(marking).rstrip("?").upper() == bare
    with pytest.raises(openai.BadRequestError, match="verbatim: 'perhaps' is not one of true, false"):
        transcribe(marking, verbatim="perhaps")


def test_a_server_of_bare_words(recognizer: Recognizer) -> None:
    with running(recognizer, decoding=DecodingOptions(verbatim=True)) as server:
        bare = transcribe(server)
        assert bare == bare.upper()
        assert transcribe(server, verbatim="false") != bare


def test_realtime_sessions() -> None:
    settings = Settings(model_name="m")
    config = RealtimeConfig.of(settings)
    assert not config.streaming_options(settings.streaming).verbatim

    def updated(value: object) -> RealtimeConfig:
        session = {"audio": {"input": {"transcription": {"verbatim": value}}}}
        return config.updated(session, settings, has_audio=False)

    assert updated(True).streaming_options(settings.streaming).verbatim
    assert updated(True).to_dict()["audio"]["input"]["transcription"]["verbatim"] is True
    assert "verbatim" not in config.to_dict()["audio"]["input"]["transcription"]
    with pytest.raises(InvalidUpdate, match=r"transcription\.verbatim: .yes. is not one of true, false"):
        updated("yes")
