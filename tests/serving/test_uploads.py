"""Malformed and malicious upload forms."""

import errno
import io
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import soundfile
from tests.samples import SMALL_MODEL
from tests.serving.forms import MODEL_PART, Client, audio, form, part, wait_for
from tests.serving.harness import Running

from unichoir.serving import uploads
from unichoir.serving.transcriptions import MAX_RECEIVING
from unichoir.serving.uploads import UploadedFile

MEBIBYTE = 1 << 20
AUDIO_PART = part("file", audio(), "a.wav")


@pytest.fixture
def connect(server: Running) -> Iterator[Client]:
    with Client(server) as client:
        yield client


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files of the server, which runs in this process."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> list[BinaryIO]:
    """Return the unnamed temporary files of the server."""
    made: list[BinaryIO] = []
    real: Any = tempfile.TemporaryFile

    def make() -> BinaryIO:
        made.append(real())
        return made[-1]

    monkeypatch.setattr(uploads.tempfile, "TemporaryFile", make)
    return made


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (form(MODEL_PART), (400, "missing_required_parameter", "file")),
        (form(AUDIO_PART), (400, "missing_required_parameter", "model")),
        (form(), (400, "missing_required_parameter", "model")),
        (form(MODEL_PART, AUDIO_PART, AUDIO_PART), (400, "duplicate_parameter", "file")),
        (form(MODEL_PART, MODEL_PART, AUDIO_PART), (400, "duplicate_parameter", "model")),
        (form(MODEL_PART, AUDIO_PART, part("audio", b"RIFF", "b.wav")), (400, "unknown_parameter", "audio")),
        (form(MODEL_PART, AUDIO_PART, part("", "")), (400, "unknown_parameter", "")),
        (form(*[part("include[]", "logprobs")] * 33, AUDIO_PART), (400, "too_many_fields", None)),
        (form(part("prompt", "A" * 65_537), AUDIO_PART), (400, "invalid_value", "prompt")),
        (form(part("prompt", "A" * 40_000), part("language", "A" * 40_000)), (400, "invalid_value", "language")),
        (form(MODEL_PART, AUDIO_PART, part("language", b"\xff\xfe")), (400, "invalid_value", "language")),
        (form(MODEL_PART, AUDIO_PART, part("x\x1b[31m\u202e", "")), (400, "unknown_parameter", "x\ufffd[31m\ufffd")),
        (form(MODEL_PART, AUDIO_PART, part(b"\xff", "")), (400, "unknown_parameter", "\ufffd")),
        (form(MODEL_PART, AUDIO_PART)[:-6], (400, "invalid_form", None)),
        (MODEL_PART + AUDIO_PART, (400, "invalid_form", None)),
        (b"", (400, "invalid_form", None)),
        (audio(), (400, "invalid_form", None)),
        (b"--the-boundary\r\nX: y\r\n\r\nz\r\n--the-boundary--\r\n", (400, "invalid_form", None)),
        (b"--the-boundary\r\n" + b"X: y\r\n" * 20, (400, "invalid_form", None)),
        (form(part("file", b"", b"A" * 5000)), (400, "invalid_form", None)),
    ],
    ids=range(20),
)
def test_forms_that_are_refused(connect: Client, body: bytes, error: tuple[int, str, str | None]) -> None:
    answer = connect.post(body)
    assert answer.error == error
    assert answer.message.isprintable()
    # The connection is as good as before.
    assert connect.post(form(MODEL_PART, AUDIO_PART)).status == 200


@pytest.mark.parametrize(
    ("content_type", "error"),
    [
        ("audio/wav", (415, "unsupported_media_type", None)),
        ("application/json", (415, "unsupported_media_type", None)),
        ("application/x-www-form-urlencoded", (415, "unsupported_media_type", None)),
        ("", (415, "unsupported_media_type", None)),
        ("multipart/form-data", (400, "invalid_form", None)),
        (f"multipart/form-data; boundary={'b' * 300}", (400, "invalid_form", None)),
    ],
)
def test_content_types_that_are_refused(connect: Client, content_type: str, error: tuple[int, str, str | None]) -> None:
    assert connect.post(form(MODEL_PART, AUDIO_PART), content_type=content_type).error == error


def test_a_file_without_a_name_and_fields_with_one(connect: Client) -> None:
    """The name of a part says what it is, whether it comes with a file name or not."""
    body = form(part("file", audio()), part("model", SMALL_MODEL.name, "model.txt"))
    assert connect.post(body).status == 200


@pytest.mark.parametrize("step", [1, 7, 64])
def test_pieces_of_any_size(connect: Client, step: int) -> None:
    """Boundaries and headers cut anywhere."""
    body = form(MODEL_PART, part("file", audio(0.1), "a.wav"), part("stream", "false"))
    connect.start("Transfer-Encoding: chunked")
    for start in range(0, len(body), step):
        connect.send_chunk(body[start : start + step])
    connect.send(b"0\r\n\r\n")
    answer = connect.answer()
    assert answer.status == 200, answer
    assert answer.body["usage"]["seconds"] == 0.1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"not audio at all, but a letter to a friend\n" * 10, "cannot be decoded"),
        (np.random.default_rng(1).bytes(100_000), "cannot be decoded"),
        (np.random.default_rng(1).bytes(3 * MEBIBYTE), "cannot be decoded"),
        (audio(2)[:30], "cannot be decoded"),
        (audio(0), "no samples"),
        (audio(1, rate=1000), "sample rate"),
        (audio(0.1, kind="WAV", subtype="FLOAT")[:-4] + struct.pack("<f", np.nan), "not a finite number"),
    ],
    ids=range(8),
)
def test_files_that_cannot_be_read(connect: Client, temporary: Path, content: bytes, reason: str) -> None:
    answer = connect.post(form(MODEL_PART, part("file", content, "a letter.flac")))
    assert answer.error == (400, "audio_unreadable", "file")
    assert answer.message.startswith("a letter.flac: ")
    assert reason in answer.message
    assert str(temporary) not in answer.message
    assert not os.listdir(temporary)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (audio(2, kind="FLAC")[:-12000], "truncated"),
        (audio(2)[:-8000], "truncated"),
        (audio(2, kind="OGG")[:-2000], "truncated"),
        (audio(60, kind="FLAC", rate=48000)[: 5 * MEBIBYTE // 4], "truncated"),
    ],
    ids=range(4),
)
def test_files_of_which_something_is_missing(connect: Client, temporary: Path, content: bytes, reason: str) -> None:
    for more, key in ((), "json"), ((part("response_format", "verbose_json"),), "verbose"):
        answer = connect.post(form(MODEL_PART, part("file", content, "a letter.flac"), *more))
        assert answer.status == 200, key
        (warning,) = answer.body["warnings"]
        assert warning.startswith("a letter.flac: ")
        assert reason in warning
        assert str(temporary) not in warning
    assert not os.listdir(temporary)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "../../etc/passwd"),
        ("/dev/stdin", "/dev/stdin"),
        ("größe 你好.wav", "größe 你好.wav"),
        (b"\xff\xfe.wav", "\ufffd\ufffd.wav"),
        ("\x1b[31mred\x00\x07\u202ename", "\ufffd[31mred\ufffd\ufffd\ufffdname"),
        ("n" * 3000, "n" * 97 + "..."),
        ("", "the file"),
        ("  ", "the file"),
        ("{0.__class__} %s", "{0.__class__} %s"),
        ('a\\"b', 'a"b'),
    ],
    ids=range(10),
)
@pytest.mark.parametrize("size", [100, 2 * MEBIBYTE], ids=["memory", "disk"])
def test_hostile_file_names(connect: Client, temporary: Path, name: str | bytes, shown: str, size: int) -> None:
    answer = connect.post(form(MODEL_PART, part("file", b"\xa5" * size, name)))
    assert answer.error == (400, "audio_unreadable", "file")
    assert answer.message.startswith(f"{shown}: cannot be decoded")
    assert str(temporary) not in answer.message
    assert connect.post(form(MODEL_PART, part("file", audio(), name))).status == 200


def test_large_files_go_through_the_disk_and_leave_nothing(
    server: Running, connect: Client, on_disk: list[BinaryIO]
) -> None:
    body = form(MODEL_PART, part("file", audio(60), "long.wav"))
    connect.start(f"Content-Length: {len(body)}")
    connect.send(body[:-10])
    wait_for(server, lambda: any(file.tell() > MEBIBYTE for file in on_disk))
    connect.send(body[-10:])
    answer = connect.answer()
    assert (answer.status, answer.body["usage"]["seconds"]) == (200, 60)
    assert [file.closed for file in on_disk] == [True]


def test_what_is_on_the_disk_has_no_name(temporary: Path) -> None:
    """So nothing of it stays, however the process ends."""
    file = UploadedFile("a")
    file.write(bytes(MEBIBYTE + 1))
    file.write(b"end")
    assert os.listdir(temporary) == []
    assert not isinstance(file.source, bytes)
    assert file.source.read() == bytes(MEBIBYTE + 1) + b"end"
    file.close()


def test_a_full_disk_is_no_failure_of_the_request(
    connect: Client, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(uploads.tempfile, "TemporaryFile", Full)
    assert connect.post(form(MODEL_PART, part("file", audio(60), "a.wav"))).error == (507, "out_of_storage", None)
    monkeypatch.undo()
    with Client(server) as client:
        assert client.post(form(MODEL_PART, part("file", audio(60), "a.wav"))).status == 200


def test_an_upload_that_is_too_slow_is_given_up(
    connect: Client, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it had taken a thousand seconds."""
    monkeypatch.setattr(uploads, "GRACE_SECONDS", -1000.0)
    assert connect.post(form(MODEL_PART, part("file", audio(30), "a.wav"))).error == (408, "upload_timeout", None)
    monkeypatch.setattr(uploads, "GRACE_SECONDS", 10.0)
    monkeypatch.setattr(uploads, "MAX_UPLOAD_SECONDS", 0.0)
    with Client(server) as client:
        assert client.post(form(MODEL_PART, part("file", audio(30), "a.wav"))).error == (408, "upload_timeout", None)


def test_small_files_stay_in_memory(server: Running, connect: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere/at/all")
    assert connect.post(form(MODEL_PART, part("file", audio(30), "a.wav"))).status == 200


def test_an_upload_that_is_broken_off_leaves_nothing(server: Running, on_disk: list[BinaryIO]) -> None:
    body = form(MODEL_PART, part("file", audio(60), "long.wav"))
    with Client(server) as client:
        client.start(f"Content-Length: {len(body)}")
        client.send(body[: len(body) // 2 + MEBIBYTE // 2])
        wait_for(server, lambda: bool(on_disk))
    wait_for(server, lambda: all(file.closed for file in on_disk))
    assert server.engine.is_idle


def test_an_upload_that_stands_still_is_given_up(serve: Callable[..., Running], temporary: Path) -> None:
    server = serve(idle_timeout=0.5)
    with Client(server) as client:
        client.start("Content-Length: 10000000")
        client.send(MODEL_PART)
        assert client.answer().error == (408, "upload_timeout", None)
    with Client(server) as client:
        assert client.post(form(MODEL_PART, AUDIO_PART)).status == 200


@pytest.mark.parametrize("length_is", ["told", "not told", "a lie"])
def test_too_large_a_file(serve: Callable[..., Running], temporary: Path, length_is: str) -> None:
    """It is refused without its end, or even before its beginning."""
    limit = 2 * MEBIBYTE
    server = serve(max_upload_bytes=limit)
    with Client(server) as client:
        if length_is == "told":
            client.start(f"Content-Length: {limit + MEBIBYTE}")
        elif length_is == "a lie":
            # Truly so many, but the server cannot know, for other parts of the form might take some of them.
            body = MODEL_PART + part("file", bytes(limit + 1000))
            client.start(f"Content-Length: {len(body) + 1000}")
            client.send(body)
        else:
            client.start("Transfer-Encoding: chunked")
            client.send_chunk(MODEL_PART + part("file", b"", "a.wav")[:-2])
            for _ in range(limit // 65536 + 8):
                client.send_chunk(bytes(65536))
        answer = client.answer()
    assert answer.error == (413, "file_too_large", "file")
    assert str(limit) in answer.message
    assert not os.listdir(temporary)


def test_the_limit_is_for_the_file_alone(serve: Callable[..., Running]) -> None:
    content = audio()
    with Client(serve(max_upload_bytes=len(content))) as client:
        assert client.post(form(MODEL_PART, part("file", content), part("prompt", ""))).status == 200
        assert client.post(form(MODEL_PART, part("file", content + b"\0"))).error == (413, "file_too_large", "file")


def test_bytes_outside_of_parts_count_too(serve: Callable[..., Running]) -> None:
    with Client(serve(max_upload_bytes=1000, max_hotwords=0)) as client:
        client.start("Transfer-Encoding: chunked")
        client.send_chunk(form(MODEL_PART, part("file", b"abc")))
        for _ in range(8):
            client.send_chunk(b"\r\n" * 32768)
        assert client.answer().error == (413, "file_too_large", "file")


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "MP3", "OGG"])
def test_too_long_audio(serve: Callable[..., Running], kind: str) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(11 * 8000), 8000, format=kind)
    client = Client(serve(max_audio_seconds=10))
    with client:
        answer = client.post(form(MODEL_PART, part("file", buffer.getvalue(), "hours")))
        assert answer.error == (413, "audio_too_long", "file")
        assert answer.message == "hours: longer than 10 s, which is more than this server takes"
        assert client.post(form(MODEL_PART, part("file", audio(9.9)))).status == 200


@pytest.mark.parametrize(
    ("rate", "channels", "seconds", "error", "words"),
    [
        (655_350, 8, 0.1, (400, "audio_unreadable", "file"), "8 channels at 655350 Hz are too many"),
        (48_000, 8, 9.9, (200, None, None), ""),
        (96_000, 8, 9.9, (413, "audio_too_long", "file"), "more than 3840000 samples of all channels"),
    ],
)
def test_what_costs_too_much_to_decode(
    serve: Callable[..., Running], rate: int, channels: int, seconds: float, error: tuple, words: str
) -> None:
    """By rate, channels and seconds together: ten seconds of eight channels at 48 kHz are the most here."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros((round(seconds * rate), channels), np.int16), rate, format="FLAC")
    with Client(serve(max_audio_seconds=10)) as client:
        answer = client.post(form(MODEL_PART, part("file", buffer.getvalue(), "dear")))
    assert answer.status == error[0]
    if words:
        assert answer.error == error
        assert words in answer.message


def test_headers_that_lie_about_the_length(serve: Callable[..., Running]) -> None:
    """A FLAC that holds ten minutes and promises one second is not decoded for longer than the server takes."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(600 * 8000), 8000, format="FLAC")
    content = bytearray(buffer.getvalue())
    (fields,) = struct.unpack_from(">Q", content, 18)
    assert fields & (1 << 36) - 1 == 600 * 8000, "STREAMINFO's number of samples"
    struct.pack_into(">Q", content, 18, fields & ~((1 << 36) - 1) | 8000)
    with Client(serve(max_audio_seconds=10)) as client:
        answer = client.post(form(MODEL_PART, part("file", bytes(content))))
    assert answer.error == (413, "audio_too_long", "file")


def test_many_uploads_that_never_end(server: Running) -> None:
    """There is room for so many files on the disk; who comes later is told at once, and the first lose nothing."""
    body = form(MODEL_PART, AUDIO_PART)
    slow = [Client(server) for _ in range(MAX_RECEIVING)]
    for client in slow:
        client.start("Expect: 100-continue", f"Content-Length: {len(body)}")
        # The server asks for the body when it has made room for it.
        assert client._stream.readline() == b"HTTP/1.1 100 Continue\r\n"
        client._stream.readline()
    with Client(server) as client:
        assert client.post(body).error == (429, "rate_limit_exceeded", None)
    for client in slow[1:]:
        with client:
            pass
    slow[0].send(body)
    with slow[0]:
        assert slow[0].answer().status == 200
    with Client(server) as client:
        wait_for(server, lambda: client.post(body).status == 200)
