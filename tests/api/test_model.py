"""Loading models and transcribing from Python, over a tiny exported model with random weights."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.samples import CLIPS, REFERENCES, SMALL_MODEL, WITH_SMALL_MODEL

import unichoir
from unichoir import api, loading
from unichoir.data.manifest import load_utterance, read_manifest
from unichoir.errors import AudioError, CheckpointError, DecodingError
from unichoir.search.options import MODES
from unichoir.text.normalize import normalize_for_scoring
from unichoir.text.wer import ErrorCounts, word_errors

Run = Callable[..., tuple[int, str, str]]
RATE = 16000
DEMO = Path(__file__).resolve().parents[2] / "demo" / "clips.jsonl"


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> unichoir.Model:
    return unichoir.load_model(tiny_model, num_threads=1)


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    """Two seconds of audio with a constantly changing spectrum."""
    rng = np.random.default_rng(3)
    time = np.arange(2 * RATE) / RATE
    wave = np.sin(2 * np.pi * (200 * time + 900 * time**2)) * np.sin(2 * np.pi * 3 * time) ** 2
    return (0.3 * wave + 0.01 * rng.standard_normal(len(time))).astype(np.float32)


def wav_bytes(samples: np.ndarray, rate: int, subtype: str = "PCM_16") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype=subtype)
    return buffer.getvalue()


def test_transcript_of_every_mode(model: unichoir.Model, samples: np.ndarray) -> None:
    for mode in MODES:
        found = model.transcribe(samples, sample_rate=RATE, decoding=mode)
        assert isinstance(found, unichoir.Transcript)
        assert found.text == " ".join(word.text for word in found.words) == found.nbest[0].text
        assert found.text or mode == "attention"  # a random decoder may well begin with the end
        assert found.duration_ms == 2000
        assert all(0 <= word.start_ms <= word.end_ms <= 2000 and 0 <= word.confidence <= 1 for word in found.words)


def test_path_bytes_stream_and_array_agree(model: unichoir.Model, samples: np.ndarray, tmp_path: Path) -> None:
    content = wav_bytes(samples, RATE)
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    pcm = soundfile.read(io.BytesIO(content), dtype="int16")[0]
    sources = [path, str(path), content, io.BytesIO(content)]
    found = [model.transcribe(source) for source in sources] + [model.transcribe(pcm, sample_rate=RATE)]
    assert all(each == found[0] for each in found)


def test_options_reach_the_search(model: unichoir.Model, samples: np.ndarray) -> None:
    options = unichoir.DecodingOptions(mode="ctc_prefix_beam_search", beam_size=3)
    whole = model.transcribe(samples, sample_rate=RATE, options=options)
    assert len(whole.nbest) == 3
    chunked = model.transcribe(samples, sample_rate=RATE, options=options, chunk_size=2)
    assert chunked.score != whole.score
    greedy = model.transcribe(samples, sample_rate=RATE, options=options, decoding="ctc_greedy_search")
    assert len(greedy.nbest) == 1


def test_rates_and_channels(model: unichoir.Model, samples: np.ndarray) -> None:
    stereo = np.stack([samples, samples], axis=1)
    expected = model.transcribe(samples, sample_rate=RATE)
    assert model.transcribe(stereo, sample_rate=RATE) == expected
    assert model.transcribe(wav_bytes(stereo, RATE, "FLOAT")) == expected
    for rate in (8000, 44100, 96000):
        found = model.transcribe(samples, sample_rate=rate)
        assert found.duration_ms == pytest.approx(2000 * RATE / rate, abs=1)
        assert found == model.transcribe(wav_bytes(samples, rate, "FLOAT"))


def test_progress_ends_at_the_whole(model: unichoir.Model, samples: np.ndarray) -> None:
    seen: list[tuple[float, float]] = []
    options = unichoir.DecodingOptions(mode="ctc_greedy_search", max_segment_seconds=1.0)
    model.transcribe(samples, sample_rate=RATE, options=options, progress=lambda *at: seen.append(at))
    assert len(seen) >= 2
    assert seen[-1] == (2.0, 2.0)


def test_short_and_silent_audio_has_no_words_or_few(model: unichoir.Model) -> None:
    short = model.transcribe(np.full(800, 0.1, np.float32), sample_rate=RATE)
    assert (short.text, short.words, short.duration_ms) == ("", (), 50)
    silent = model.transcribe(np.zeros(RATE, np.int16), sample_rate=RATE)
    assert silent.duration_ms == 1000


@pytest.mark.parametrize(
    ("source", "rate", "message"),
    [
        (np.zeros(RATE, np.float32), None, "samples: need a sample_rate"),
        (np.zeros(0, np.float32), RATE, "no samples"),
        (np.array([0.0, np.nan]), RATE, "not a finite number"),
        (np.full(RATE, 3000.0), RATE, r"\[-1, 1\]"),
        (np.zeros((2, 2, 2)), RATE, "shape"),
        (np.zeros(RATE, np.float32), 0, "sample rate 0"),
        (b"", None, "empty"),
        (b"no audio at all", None, "cannot be decoded"),
        ("missing.wav", None, "missing.wav: No such file"),
        ("missing.wav", RATE, "sample_rate: only for arrays"),
    ],
)
def test_bad_audio_is_one_clear_line(model: unichoir.Model, source: object, rate: int | None, message: str) -> None:
    with pytest.raises(AudioError, match=message) as caught:
        model.transcribe(source, sample_rate=rate)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_truncated_file(model: unichoir.Model, samples: np.ndarray) -> None:
    content = wav_bytes(samples, RATE)[:-4000]
    found = model.transcribe(content)
    assert found.duration_ms == pytest.approx(1000 * len(samples) / RATE - 125, abs=1)
    (warning,) = found.warnings
    assert warning.startswith("audio data: truncated: the audio ends at ")
    with pytest.raises(AudioError, match="truncated"):
        model.transcribe(content, strict=True)


def test_arrays_have_channels_too(model: unichoir.Model, samples: np.ndarray) -> None:
    stereo = np.stack([samples, -samples], axis=1)
    plain = model.transcribe(samples, sample_rate=RATE)
    assert plain.warnings == ()
    heard = model.transcribe(stereo, sample_rate=RATE)
    assert heard.duration_ms == plain.duration_ms
    assert heard.warnings == ("samples: the channels cancel each other; the loudest channel is used there",)
    assert model.transcribe(stereo, sample_rate=RATE, channel=1).words == plain.words
    each = model.transcribe(stereo, sample_rate=RATE, channel="each")
    assert {word.channel for word in each.words} <= {1, 2}
    assert each.duration_ms == plain.duration_ms
    with pytest.raises(AudioError, match="channel 'left'"):
        model.transcribe(stereo, sample_rate=RATE, channel="left")  # type: ignore[arg-type]


def test_options_that_cannot_be(model: unichoir.Model, samples: np.ndarray) -> None:
    with pytest.raises(DecodingError, match="mode: 'best'"):
        model.transcribe(samples, sample_rate=RATE, decoding="best")  # type: ignore[arg-type]
    with pytest.raises(DecodingError, match="chunk_size"):
        model.transcribe(samples, sample_rate=RATE, chunk_size=-3)


def test_half_an_hour(model: unichoir.Model, samples: np.ndarray) -> None:
    seconds = 1800
    long = np.tile(samples, seconds // 2)
    options = unichoir.DecodingOptions(mode="ctc_greedy_search", vad="none")  # the model finds letters in noise
    found = model.transcribe(long, sample_rate=RATE, options=options)
    assert found.duration_ms == 1000 * seconds
    assert found.tokens[-1].end_ms > 1000 * (seconds - 2)


def test_checkpoint_and_its_export_agree(model: unichoir.Model, tiny_checkpoint: Path, samples: np.ndarray) -> None:
    other = unichoir.load_model(tiny_checkpoint)
    for mode in MODES:
        expected, found = (each.transcribe(samples, sample_rate=RATE, decoding=mode) for each in (model, other))
        assert found.text == expected.text
        assert found.score == pytest.approx(expected.score, abs=1e-2)


def test_models_are_found_by_name_or_folder(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    included = tmp_path / "models"
    included.mkdir()
    (included / api.DEFAULT_MODEL).symlink_to(tiny_model)
    monkeypatch.setattr(loading, "MODELS", included)
    assert api.included_models() == [api.DEFAULT_MODEL]
    assert api.find_model(None) == api.find_model(api.DEFAULT_MODEL) == included / api.DEFAULT_MODEL
    assert api.find_model(str(tiny_model)) == tiny_model
    assert unichoir.load_model().sample_rate == RATE
    with pytest.raises(CheckpointError, match=f"nonesuch: .*{api.DEFAULT_MODEL}"):
        unichoir.load_model("nonesuch")
    with pytest.raises(CheckpointError, match="neither a model"):
        unichoir.load_model(tmp_path)


def test_included_model_understands_the_demo() -> None:
    """That the packaged files belong together: most words must come out, where mismatched ones give none.

    How well it recognises speech is measured in docs/results/included-model.md.
    """
    model = unichoir.load_model()
    errors = {}
    for utterance in read_manifest(DEMO):
        if utterance.key == "minute":  # takes as long as all others
            continue
        found = model.transcribe(load_utterance(utterance, RATE), sample_rate=RATE)
        errors[utterance.key] = word_errors(normalize_for_scoring(utterance.txt), normalize_for_scoring(found.text))
    assert (errors["digits"] + errors["name"]).rate < 0.2
    assert sum(errors.values(), ErrorCounts()).rate < 0.3


def test_devices(tiny_checkpoint: Path, tiny_model: Path, samples: np.ndarray) -> None:
    for folder in (tiny_checkpoint, tiny_model):
        expected = unichoir.load_model(folder, num_threads=1).transcribe(samples, sample_rate=RATE)
        found = unichoir.load_model(folder, num_threads=1, device="cpu").transcribe(samples, sample_rate=RATE)
        assert found == expected
        with pytest.raises(DecodingError, match="device: 'gpu' is not one of cpu, cuda"):
            unichoir.load_model(folder, device="gpu")  # type: ignore[arg-type]


def test_a_device_that_is_not_there_is_told_before_anything_is_loaded(tiny_checkpoint: Path, tmp_path: Path) -> None:
    if pytest.importorskip("torch").cuda.is_available():
        pytest.skip("there is a GPU")
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(DecodingError, match="device cuda: the installed PyTorch "):
        unichoir.load_model(folder, device="cuda")
    with pytest.raises(CheckpointError, match="damaged"):
        unichoir.load_model(folder, device="cpu")


@pytest.mark.parametrize(
    "arguments",
    [
        ["transcribe", *WITH_SMALL_MODEL, CLIPS[0], "--device", "cuda"],
        ["evaluate", SMALL_MODEL, REFERENCES, "--device", "cuda"],
        ["stream", *WITH_SMALL_MODEL, "--simulate", CLIPS[0], "--speed", "0", "--compute-device", "cuda"],
        ["serve", *WITH_SMALL_MODEL, "--port", "0", "--device", "cuda"],
    ],
)
def test_every_command_loads_its_model_on_the_device(run_command: Run, arguments: list[object]) -> None:
    """The model is in int8, which is for CPUs wherever the command runs."""
    code, out, err = run_command(*arguments)
    assert (code, out) == (1, "")
    assert "device cuda: ONNX Runtime multiplies int8 on CPUs only" in err
