"""The endpoint for recordings, used by OpenAI's client and compared with the model without a server."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from openai.types.audio import Transcription, TranscriptionVerbose
from openai.types.audio.transcription_text_delta_event import TranscriptionTextDeltaEvent
from tests.samples import CLIPS
from tests.serving.forms import MODEL, client_of, write_long_recording
from tests.serving.harness import PATIENCE, RATE, Running

from unichoir.api import Model
from unichoir.audio.io import resample
from unichoir.recognition.recognizer import Recognizer
from unichoir.transcript.results import Transcript


@pytest.fixture
def create(server: Running) -> Iterator[Callable[..., Any]]:
    """`client.audio.transcriptions.create` with the model."""
    with client_of(server) as client:
        yield lambda **options: client.audio.transcriptions.create(**{"model": MODEL, **options})


@pytest.fixture(scope="session")
def long_recording(clips: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of several pieces."""
    return write_long_recording(tmp_path_factory.mktemp("long") / "long.flac", clips)


@pytest.fixture(scope="session")
def long_transcript(included: Recognizer, long_recording: Path) -> Transcript:
    """The transcript of the long recording, computed without a server."""
    return transcribe(included, long_recording)


def transcribe(recognizer: Recognizer, path: Path) -> Transcript:
    return Model(recognizer).transcribe(path)


def words_of(transcript: Transcript) -> list[tuple[str, float, float, float]]:
    return [(w.text, w.start_ms / 1000, w.end_ms / 1000, round(w.confidence, 4)) for w in transcript.words]


@pytest.mark.parametrize("clip", CLIPS, ids=lambda path: path.stem)
def test_json(create: Callable[..., Any], included: Recognizer, clip: Path) -> None:
    found = create(file=clip)
    expected = transcribe(included, clip)
    assert isinstance(found, Transcription)
    assert found.text == expected.text != ""
    assert found.usage.to_dict() == {"type": "duration", "seconds": round(soundfile.info(clip).duration, 3)}


def test_text(create: Callable[..., Any], included: Recognizer) -> None:
    assert create(file=CLIPS[0], response_format="text") == transcribe(included, CLIPS[0]).text + "\n"


def test_verbose_json_of_several_pieces(
    create: Callable[..., Any], long_transcript: Transcript, long_recording: Path
) -> None:
    found = create(file=long_recording, response_format="verbose_json", timestamp_granularities=["word", "segment"])
    expected = long_transcript
    TranscriptionVerbose.model_validate(found.to_dict(), strict=True)
    assert found.task == "transcribe"
    assert (found.text, found.language, found.duration) == (expected.text, "en", expected.duration_ms / 1000)
    assert [(w.word, w.start, w.end, w.confidence) for w in found.words] == words_of(expected)

    assert len(found.segments) > 1
    assert " ".join(segment.text for segment in found.segments) == expected.text
    assert [token for segment in found.segments for token in segment.tokens] == [token.id for token in expected.tokens]
    assert [segment.id for segment in found.segments] == [*range(len(found.segments))]
    rest = list(found.words)
    for segment in found.segments:
        own = [rest.pop(0) for _ in segment.text.split()]
        assert [word.word for word in own] == segment.text.split()
        assert (segment.start, segment.end) == (own[0].start, own[-1].end)
        assert segment.seek / 100 <= segment.start + 0.01
        assert segment.temperature == segment.no_speech_prob == 0
    # The first piece has no word and is no segment, so the first that is one does not begin at 0.
    assert found.segments[0].seek > 0
    assert [s.seek for s in found.segments] == sorted({s.seek for s in found.segments})


def test_average_of_log_probabilities(create: Callable[..., Any], included: Recognizer) -> None:
    """Of one piece: the score with the weights of its parts, 1 and ctc_weight, and the end of the sentence."""
    (segment,) = create(file=CLIPS[0], response_format="verbose_json").segments
    expected = transcribe(included, CLIPS[0])
    assert segment.avg_logprob == pytest.approx(expected.score / 1.5 / (len(expected.tokens) + 1))
    assert -1 < segment.avg_logprob < 0, "Whisper's clients take less than -1 as a failure"
    assert 0.5 < segment.compression_ratio < 2.4


@pytest.mark.parametrize(
    ("granularities", "has_words", "has_segments"),
    [(None, False, True), (["segment"], False, True), (["word"], True, False), (["word", "segment"], True, True)],
)
def test_granularities(
    create: Callable[..., Any], granularities: list[str] | None, has_words: bool, has_segments: bool
) -> None:
    options = {} if granularities is None else {"timestamp_granularities": granularities}
    found = create(file=CLIPS[4], response_format="verbose_json", **options)
    assert (found.words is not None, found.segments is not None) == (has_words, has_segments)


def test_logprobs(create: Callable[..., Any], included: Recognizer) -> None:
    found = create(file=CLIPS[1], include=["logprobs"])
    expected = transcribe(included, CLIPS[1])
    assert "".join(entry.token for entry in found.logprobs).split() == expected.text.split()
    assert [np.exp(entry.logprob) for entry in found.logprobs] == pytest.approx(
        [token.confidence for token in expected.tokens]
    )
    assert all(bytes(map(int, entry.bytes)).decode() == entry.token for entry in found.logprobs)


@pytest.mark.parametrize(("kind", "point"), [("srt", ","), ("vtt", ".")])
def test_subtitles(
    create: Callable[..., Any], long_transcript: Transcript, long_recording: Path, kind: str, point: str
) -> None:
    """Their form is tested with the module that writes it; here it is what is said and when."""
    found = create(file=long_recording, response_format=kind)
    expected = long_transcript
    clock = rf"(\d\d):(\d\d):(\d\d)\{point}(\d\d\d)"
    ms, text = [], []
    for line in found.splitlines():
        if match := re.fullmatch(f"{clock} --> {clock}", line):
            hours, minutes, seconds, rest = np.array([*map(int, match.groups())]).reshape(2, 4).T
            ms.append(((hours * 60 + minutes) * 60 + seconds) * 1000 + rest)
        elif line and line != "WEBVTT" and not line.isdecimal():
            text.append(line)
    assert " ".join(text) == expected.text
    times = np.concatenate(ms)
    assert (np.diff(times) >= 0).all()
    assert {*times[::2]} <= {word.start_ms for word in expected.words}
    shown = [*zip(times[::2], times[1::2], strict=True)]
    assert all(any(start <= word.start_ms < end for start, end in shown) for word in expected.words)
    assert times[-1] >= expected.words[-1].end_ms
    assert found.startswith("WEBVTT\n" if kind == "vtt" else "1\n")


def test_content_types(server: Running) -> None:
    kinds = {
        "json": "application/json",
        "verbose_json": "application/json",
        "text": "text/plain; charset=utf-8",
        "srt": "application/x-subrip; charset=utf-8",
        "vtt": "text/vtt; charset=utf-8",
    }
    for kind, content_type in kinds.items():
        form = {"model": MODEL, "response_format": kind}
        answer = httpx.post(
            f"{server.url}/v1/audio/transcriptions", data=form, files={"file": CLIPS[2].read_bytes()}, timeout=PATIENCE
        )
        assert (answer.status_code, answer.headers["content-type"]) == (200, content_type)


def test_stream(create: Callable[..., Any], long_transcript: Transcript, long_recording: Path) -> None:
    with create(file=long_recording, stream=True, include=["words", "logprobs"]) as events:
        *deltas, done = events
    expected = long_transcript
    for delta in deltas:
        TranscriptionTextDeltaEvent.model_validate(delta.to_dict())
    assert "".join(delta.delta for delta in deltas) == done.text == expected.text
    assert deltas[0].delta == "", "nothing is said in the first piece"
    first, *later = [delta.delta for delta in deltas if delta.delta]
    assert not first.startswith(" ")
    assert later
    assert all(text.startswith(" ") for text in later)
    found = [(w["word"], w["start"], w["end"], w["confidence"]) for delta in deltas for w in delta.words]
    assert found == words_of(expected)
    positions = [delta.position for delta in deltas]
    assert positions == sorted({*positions})
    assert {delta.duration for delta in deltas} == {positions[-1]} == {expected.duration_ms / 1000}
    assert [entry.token for delta in deltas for entry in delta.logprobs] == [entry.token for entry in done.logprobs]
    assert done.type == "transcript.text.done"
    assert (done.usage.type, done.usage.seconds) == ("duration", expected.duration_ms / 1000)


def test_stream_sends_only_what_is_asked_for(create: Callable[..., Any]) -> None:
    delta, done = create(file=CLIPS[2], stream=True)
    assert not {"words", "logprobs"} & {*delta.to_dict(), *done.to_dict()}


@pytest.mark.parametrize(
    ("kind", "options", "rate", "channels"),
    [
        ("WAV", {"subtype": "PCM_16"}, 8000, 1),
        ("WAV", {"subtype": "FLOAT"}, 48000, 2),
        ("WAV", {"subtype": "PCM_24"}, 22050, 3),
        ("FLAC", {}, 44100, 2),
        ("OGG", {"subtype": "VORBIS"}, 44100, 2),
        ("OGG", {"subtype": "OPUS"}, 48000, 1),
        ("MP3", {}, 44100, 2),
    ],
)
def test_kinds_of_files(
    create: Callable[..., Any],
    included: Recognizer,
    clips: list[np.ndarray],
    kind: str,
    options: dict[str, str],
    rate: int,
    channels: int,
    tmp_path: Path,
) -> None:
    path = tmp_path / f"clip.{kind.lower()}"
    samples = resample(clips[0].astype(np.float32) / 32768, RATE, rate)
    soundfile.write(path, np.repeat(samples[:, None], channels, axis=1), rate, format=kind, **options)
    found = create(file=path, response_format="verbose_json", timestamp_granularities=["word"])
    expected = transcribe(included, path)
    assert [(w.word, w.start, w.end, w.confidence) for w in found.words] == words_of(expected)
    assert found.text == "SIX OH FOUR FIVE NINE ONE TWO"


def test_audio_without_words(create: Callable[..., Any], tmp_path: Path) -> None:
    """Too short for a word, and so short that there is no frame."""
    for name, length in (("short.wav", 800), ("shortest.wav", 1)):
        soundfile.write(tmp_path / name, np.zeros(length, np.int16), RATE)
        assert create(file=tmp_path / name).text == ""
        assert create(file=tmp_path / name, response_format="vtt") == "WEBVTT\n"
        verbose = create(
            file=tmp_path / name, response_format="verbose_json", timestamp_granularities=["word", "segment"]
        )
        assert (verbose.words, verbose.segments) == ([], [])
        delta, done = create(file=tmp_path / name, stream=True)
        assert (delta.delta, done.text) == ("", "")


def test_uploads_at_once_each_get_their_own_words(server: Running, included: Recognizer) -> None:
    with client_of(server) as client, ThreadPoolExecutor(8) as pool:

        def send(clip: Path) -> str:
            return str(client.audio.transcriptions.create(file=clip, model=MODEL).text)

        jobs = [(clip, pool.submit(send, clip)) for clip in [*CLIPS, *CLIPS][:8]]
        for clip, job in jobs:
            assert job.result(PATIENCE) == transcribe(included, clip).text
