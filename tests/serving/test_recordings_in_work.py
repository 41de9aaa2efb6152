"""Transcriptions in progress: clients disconnect, there are too many, the server stops, the recogniser fails."""

import io
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import numpy as np
import openai
import pytest
from tests.samples import CLIPS
from tests.serving.forms import MODEL, Client, audio, client_of, wait_for, write_long_recording
from tests.serving.harness import PATIENCE, RATE, Running

from unichoir.audio.io import Recording as AudioFile
from unichoir.errors import AudioError, ConfigError
from unichoir.recognition.options import DecodingOptions
from unichoir.recognition.pieces import find_pieces
from unichoir.recognition.recognizer import Recognizer
from unichoir.serving.engine import PIECES_HELD
from unichoir.serving.server import make_server
from unichoir.serving.settings import Settings
from unichoir.serving.sound import Abandoned, Sound
from unichoir.serving.uploads import UploadedFile


@pytest.fixture(scope="session")
def long_recording(clips: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of several pieces."""
    return write_long_recording(tmp_path_factory.mktemp("long") / "long.flac", clips)


class Gate:
    """Holds the recogniser before each piece of a recording until the test lets it pass."""

    def __init__(self, recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_pieces = 0
        self.reached = threading.Semaphore(0)
        self.passes = threading.Semaphore(0)
        self._pieces = recognizer.recordings.recognize_by_piece
        monkeypatch.setattr(recognizer.recordings, "recognize_by_piece", self._held)

    def _held(self, *arguments: Any) -> Iterator[Any]:
        pieces = self._pieces(*arguments)
        while True:
            self.reached.release()
            assert self.passes.acquire(timeout=PATIENCE)
            piece = next(pieces, None)
            if piece is None:
                return
            self.num_pieces += 1
            yield piece

    def wait(self) -> None:
        assert self.reached.acquire(timeout=PATIENCE)

    def open(self) -> None:
        self.passes.release(1000)


def test_a_client_that_goes_away_ends_the_decoding(
    serve: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file that never ends; its slot is free when its thread has ended, not before."""
    server, ended, begun = serve(), threading.Event(), threading.Event()

    def endless(*_: object, **__: object) -> Iterator[np.ndarray]:
        try:
            while True:
                begun.set()
                yield np.zeros(RATE, np.float32)
        finally:
            ended.set()

    with monkeypatch.context() as patch:
        patch.setattr(AudioFile, "blocks", endless)
        files = {"file": ("endless.wav", audio())}
        request = httpx.Request("POST", f"{server.url}/v1/audio/transcriptions", data={"model": MODEL}, files=files)
        connection = HTTPConnection(request.url.host, request.url.port, timeout=PATIENCE)
        connection.request("POST", request.url.path, request.read(), dict(request.headers))
        assert begun.wait(PATIENCE)
        assert not ended.is_set()
        connection.close()
        assert ended.wait(PATIENCE)
        wait_for(server, lambda: server.engine.is_idle)
    with client_of(server) as other:
        assert other.audio.transcriptions.create(file=CLIPS[2], model=MODEL).text == "NINE ONE EIGHT TWO"


@pytest.mark.parametrize("stream", ["true", "false"])
def test_a_client_that_goes_away_ends_the_work(
    serve: Callable[..., Running],
    included: Recognizer,
    long_recording: Path,
    monkeypatch: pytest.MonkeyPatch,
    stream: str,
) -> None:
    server = serve()
    gate = Gate(included, monkeypatch)
    form = {"model": MODEL, "stream": stream}
    files = {"file": ("long.flac", long_recording.read_bytes())}
    request = httpx.Request("POST", f"{server.url}/v1/audio/transcriptions", data=form, files=files)
    connection = HTTPConnection(request.url.host, request.url.port, timeout=PATIENCE)
    connection.request("POST", request.url.path, request.read(), dict(request.headers))
    gate.wait()
    gate.passes.release()
    gate.wait()  # the first piece is done, the second has begun
    assert server.metric("unichoir_uploads") == 1
    connection.close()
    (job,) = server.engine._jobs
    assert job.stop.wait(PATIENCE)
    assert server.metric("unichoir_uploads") == 1  # its thread is still at work
    gate.open()
    wait_for(server, lambda: server.engine.is_idle)
    # Something else, after which whatever was left of the first would have come.
    before = gate.num_pieces
    with client_of(server) as other:
        assert other.audio.transcriptions.create(file=CLIPS[2], model=MODEL).text == "NINE ONE EIGHT TWO"
    assert before <= 2
    assert gate.num_pieces <= 3


@pytest.mark.parametrize("limit", [{"max_waiting_uploads": 1}, {"max_decoded_bytes": 64 << 20}])
def test_too_many_recordings(
    serve: Callable[..., Running], included: Recognizer, monkeypatch: pytest.MonkeyPatch, limit: dict[str, int]
) -> None:
    """By their number, or by the memory for what is decoded of them."""
    server = serve(**limit)
    gate = Gate(included, monkeypatch)
    with client_of(server) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.audio.transcriptions.create, file=CLIPS[2], model=MODEL)
        gate.wait()
        for stream in (False, True):
            with pytest.raises(openai.RateLimitError) as caught:
                client.audio.transcriptions.create(file=CLIPS[1], model=MODEL, stream=stream)
            assert caught.value.code == "rate_limit_exceeded"
            assert int(caught.value.response.headers["retry-after"]) > 0
        assert server.metric("unichoir_refusals_total", reason="rate_limit_exceeded") == 2
        gate.open()
        assert first.result(PATIENCE).text == "NINE ONE EIGHT TWO"
        assert client.audio.transcriptions.create(file=CLIPS[2], model=MODEL).text == "NINE ONE EIGHT TWO"


def test_memory_that_is_not_enough_for_one_recording(included: Recognizer) -> None:
    with pytest.raises(ConfigError, match=r"^max_decoded_bytes: decoded audio of one recording may take \d+ bytes"):
        make_server(included, Settings(model_name=MODEL, max_decoded_bytes=1 << 20))
    uncut = DecodingOptions(max_segment_seconds=None)
    with pytest.raises(ConfigError, match=r"^max_decoded_bytes: "):
        make_server(included, Settings(model_name=MODEL, decoding=uncut))


@pytest.mark.parametrize("vad", ["none", "ctc", "auto"])
def test_no_more_is_decoded_than_there_is_memory_for(vad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of sound that is speech all the time, which is cut as late as can be."""

    class Speech:
        hop_seconds = 0.04

        def process(self, samples: np.ndarray, last: bool = False) -> np.ndarray:
            return np.ones(round(len(samples) / RATE / self.hop_seconds), np.float32)

    monkeypatch.setattr("unichoir.recognition.pieces.silero_is_installed", lambda: False)
    limit = 20.0
    blocks = (np.full(4 * RATE, 0.1, np.float32) for _ in range(40))
    tracemalloc.start()
    pieces = find_pieces(blocks, RATE, DecodingOptions(vad=vad, max_segment_seconds=limit), Speech)
    assert sum(piece.end - piece.start for piece in pieces) == 160 * RATE
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < PIECES_HELD * limit * RATE * 4


def test_a_decoder_that_reads_on_and_on_is_stopped() -> None:
    """By the end of its file, since it gives no block at which it could be stopped."""
    stop = threading.Event()

    class Chunks(io.BytesIO):
        num_reads = 0

        def read(self, size: int | None = -1) -> bytes:
            self.num_reads += 1
            if self.num_reads == 100:
                stop.set()
            return super().read(size)

    chunks = Chunks(b"RIFF\0\0\0\0WAVE" + 9_000 * b"junk\0\0\0\0")
    file = cast(UploadedFile, SimpleNamespace(source=chunks, name="chunks.wav"))
    with pytest.raises((Abandoned, AudioError)):
        list(Sound(file, RATE, 60.0).blocks(stop))
    assert chunks.num_reads == 100


def test_a_server_that_stops_ends_what_it_has_and_takes_nothing_new(
    serve: Callable[..., Running], included: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    gate = Gate(included, monkeypatch)
    with client_of(server) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.audio.transcriptions.create, file=CLIPS[2], model=MODEL)
        gate.wait()
        server.call(server.engine.drain)
        with pytest.raises(openai.InternalServerError) as caught:
            client.audio.transcriptions.create(file=CLIPS[1], model=MODEL)
        assert (caught.value.status_code, caught.value.code) == (503, "server_draining")
        with Client(server) as late:
            late.start("Content-Length: 1000000")  # of which nothing needs to be sent
            assert late.answer().error == (503, "server_draining", None)
        gate.open()
        assert first.result(PATIENCE).text == "NINE ONE EIGHT TWO"


@pytest.mark.parametrize("failing_piece", [0, 1])
def test_a_recogniser_that_fails(
    serve: Callable[..., Running],
    included: Recognizer,
    long_recording: Path,
    monkeypatch: pytest.MonkeyPatch,
    failing_piece: int,
) -> None:
    """Before anything has been sent there is a status for it, later it is the last event."""
    server = serve()
    pieces = included.recordings.recognize_by_piece

    def failing(*arguments: Any) -> Iterator[Any]:
        for number, piece in enumerate(pieces(*arguments)):
            if number == failing_piece:
                raise RuntimeError("the secret of the house")
            yield piece

    monkeypatch.setattr(included.recordings, "recognize_by_piece", failing)
    with client_of(server) as client:
        create = client.audio.transcriptions.create
        with pytest.raises(openai.InternalServerError) as caught:
            create(file=long_recording, model=MODEL)
        assert (caught.value.code, caught.value.type) == ("recognition_failed", "server_error")
        with pytest.raises(openai.APIError) as failed:
            list(create(file=long_recording, model=MODEL, stream=True))
        assert isinstance(failed.value, openai.InternalServerError) == (failing_piece == 0)
        assert failed.value.code == "recognition_failed"
        assert "secret" not in f"{caught.value} {failed.value}"
