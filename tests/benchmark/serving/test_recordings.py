"""The recordings of clients, and the texts expected for them."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.samples import CLIPS, REFERENCES, SMALL_MODEL

from unichoir.api import load_recognizer
from unichoir.benchmark.serving import recordings as module
from unichoir.benchmark.serving.recordings import (
    Recording,
    decode_stream,
    load_recordings,
    short_recordings,
    with_expected_texts,
)
from unichoir.errors import ManifestError
from unichoir.recognition.options import EndpointRules, StreamingOptions
from unichoir.recognition.recognizer import Recognizer


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return load_recognizer(SMALL_MODEL)


def test_samples_are_those_of_the_file(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    samples[:2] = -32768, 32767
    soundfile.write(tmp_path / "a.wav", samples, 16000)
    (found,), description = load_recordings(tmp_path / "a.wav")
    assert np.array_equal(found.samples, samples)
    assert description == "a.wav, 0.3 s"


def test_manifests_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "a.wav", np.ones(16000, np.int16), 16000)
    lines = [json.dumps({"key": f"k{number}", "wav": "a.wav", "txt": f"T{number}"}) for number in range(5)]
    (tmp_path / "set.jsonl").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr(module, "MAX_SECONDS", 3.0)
    found, description = load_recordings(tmp_path / "set.jsonl")
    assert [(each.key, each.reference) for each in found] == [("k0", "T0"), ("k1", "T1"), ("k2", "T2")]
    assert description == "3 utterances (of 5) of set.jsonl, 0.1 minutes"
    with pytest.raises(ManifestError):
        load_recordings(tmp_path / "none.jsonl")


def test_noise_without_a_source() -> None:
    found, _ = load_recordings(None)
    assert len({each.key for each in found}) == len(found) == 8
    assert all(each.seconds == 5 and each.samples.std() > 100 for each in found)


def test_short_ones() -> None:
    found = short_recordings([Recording(key="a", samples=np.arange(20000, dtype=np.int16), expected="X")] * 20)
    assert len(found) == 8
    assert [(each.key, each.seconds, each.expected) for each in found[:1]] == [("a, 1 s", 1.0, "")]


def test_expected_texts_are_those_of_a_live_stream(recognizer: Recognizer) -> None:
    """Held against the loop of a live client, which sends small blocks and takes results as they come."""
    clips, _ = load_recordings(REFERENCES)
    options = StreamingOptions(chunk_size=16, num_left_chunks=4)
    progress: list[int] = []
    for found in with_expected_texts(clips[:3], recognizer, options, progress.append):
        stream, texts, first_word = recognizer.streams.create_stream(options), [], None
        blocks = [found.samples[begin : begin + 1000] for begin in range(0, len(found.samples), 1000)]
        for block in [*blocks, None]:
            if block is None:
                stream.input_finished()
            else:
                stream.accept_waveform(block, 16000)
            while recognizer.streams.is_ready(stream):
                recognizer.streams.decode_streams([stream])
                while recognizer.streams.is_endpoint(stream):
                    result = recognizer.streams.get_result(stream)
                    first_word = first_word or (result.words[0] if result.words else None)
                    texts.append(result.text)
                    recognizer.streams.reset(stream)
        assert found.expected == " ".join(text for text in texts if text) != ""
        assert first_word is not None
        assert found.first_word_end == first_word.end_ms / 1000
        assert 0 < found.first_word_end <= found.seconds
    assert progress == [0, 1, 2]


def test_every_utterance_of_a_stream_counts(recognizer: Recognizer) -> None:
    clip = load_recordings(CLIPS[0])[0][0].samples
    options = StreamingOptions(endpoint=EndpointRules(silence_after_speech=0.5))
    pause = np.zeros(24000, np.int16)
    texts = [result.text for result in decode_stream(recognizer, np.concatenate([clip, pause, clip]), options)]
    assert len([text for text in texts if text]) >= 2
    silence = Recording(key="silence", samples=pause)
    (found,) = with_expected_texts([silence], recognizer, options, lambda done: None)
    assert (found.expected, found.first_word_end) == ("", None)
