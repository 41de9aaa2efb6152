"""A model directory with `punctuation.onnx`: texts have punctuation and case unless bare words are requested."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.text.punctuation_models import COMMA, LOWER, NOTHING, QUESTION, save_english_model

import unichoir
from unichoir.bundle.sums import SUMS_FILE, check_sums, write_sums
from unichoir.errors import CheckpointError
from unichoir.export import onnx
from unichoir.recognition.options import DecodingOptions, StreamingOptions
from unichoir.text.english_punctuation import PUNCTUATION_FILE
from unichoir.text.marked import Context
from unichoir.text.written import WrittenForm
from unichoir.transcript.results import Alternative
from unichoir.transcript.rewriting import last_words, rewrite, rewrite_segments
from unichoir.transcript.segments import Segment

RATE = 16000
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that recognises letters in any audio, and whose texts are all questions."""
    folder = tmp_path_factory.mktemp("models") / "english"
    shutil.copytree(tiny_checkpoint, folder)
    save_english_model(folder, {"<unk>": (LOWER, QUESTION)})
    write_sums(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> unichoir.Model:
    return unichoir.load_model(folder)


@pytest.fixture(scope="module")
def written(folder: Path) -> WrittenForm:
    return WrittenForm(punctuation=folder)


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * RATE).astype(np.float32)
    return noise * np.repeat(np.random.default_rng(1).random(30), RATE // 10).astype(np.float32)


def test_recordings(model: unichoir.Model, written: WrittenForm, samples: np.ndarray) -> None:
    bare = model.transcribe(samples, sample_rate=RATE, verbatim=True)
    assert bare.text.isupper()
    found = model.transcribe(samples, sample_rate=RATE)
    assert found == rewrite(bare, written)
    assert (found.text, found.spoken, bare.spoken) == (bare.text.capitalize() + "?", bare.text, bare.text)
    assert [(word.start_ms, word.end_ms, word.confidence) for word in found.words] == [
        (word.start_ms, word.end_ms, word.confidence) for word in bare.words
    ]
    assert [reading["spoken"] for reading in found.to_dict()["nbest"]] == [reading.text for reading in bare.nbest]
    assert model.transcribe(samples, sample_rate=RATE, options=DecodingOptions(verbatim=True)) == bare


def test_streams_go_on_from_what_they_have_written(
    model: unichoir.Model, written: WrittenForm, samples: np.ndarray
) -> None:
    rules = unichoir.EndpointRules(max_utterance=1.0)
    options = StreamingOptions(endpoint=rules)
    bare = list(model.stream([samples], sample_rate=RATE, options=options, verbatim=True))
    found = list(model.stream([samples], sample_rate=RATE, options=options))
    before, expected = "", []
    for result in bare:
        expected.append(rewrite(result, written, Context(before=before)))
        before = last_words(expected[-1].text) if result.is_final and result.text else before
    assert found == expected
    finals = [result for result in found if result.is_final]
    assert len(finals) >= 2
    assert [result.to_dict()["spoken"] for result in finals] == [result.text for result in bare if result.is_final]


def test_pieces_of_a_recording_know_each_other(tmp_path: Path) -> None:
    labels = {"who": (LOWER, QUESTION), "we": (LOWER, NOTHING)}
    written = WrittenForm(punctuation=save_english_model(tmp_path, labels, before={"but": COMMA}))

    def segments(*texts: str) -> list[Segment]:
        return [Segment(nbest=(Alternative(text=text, tokens=(), score=0.0),)) for text in texts]

    said = segments("", "WE GO HOME", "", "BUT NOT WHO", "WE GO", "WE")
    found = [segment.nbest[0] for segment in rewrite_segments(said, lambda language: written)]
    assert [reading.text for reading in found] == ["", "We go home,", "", "but not who?", "We go", "we"]
    assert [reading.spoken for reading in found] == [None, "WE GO HOME", None, "BUT NOT WHO", "WE GO", "WE"]
    assert rewrite_segments(said, lambda language: None) == said
    last = replace(said[1], language="de")
    assert rewrite_segments([last], lambda language: None if language == "de" else written) == [last]


def test_whose_marks_count(model: unichoir.Model, folder: Path, tmp_path: Path) -> None:
    reader, own = model.recognizer.reader, folder / PUNCTUATION_FILE
    other = WrittenForm(punctuation=save_english_model(tmp_path, {}))
    assert reader.written_form(DecodingOptions()) == WrittenForm(punctuation=own)
    assert reader.written_form(DecodingOptions(written=other)) == other
    numbers = WrittenForm(itn="en")
    both = reader.written_form(DecodingOptions(written=numbers))
    assert both == WrittenForm(itn="en", punctuation=own)
    assert reader.written_form(DecodingOptions(written=numbers, verbatim=True)) == numbers
    assert reader.written_form(DecodingOptions(), "zh") is None
    assert reader.written_form(DecodingOptions(), "en-GB") is not None


def test_the_file_is_one_of_the_models(folder: Path, tmp_path: Path) -> None:
    check_sums(folder)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    with (copy / "punctuation.onnx").open("ab") as file:
        file.write(b" ")
    with pytest.raises(CheckpointError, match=r"punctuation\.onnx: truncated, damaged or changed"):
        unichoir.load_model(copy)


def test_an_exported_model_has_it_too(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("write_graphs", "check_parity", "OnnxBackend"):
        monkeypatch.setattr(onnx, name, lambda *_, **__: {})
    onnx.export_onnx(folder, tmp_path / "exported")
    assert (tmp_path / "exported" / "punctuation.onnx").read_bytes() == (folder / "punctuation.onnx").read_bytes()
    assert "punctuation.onnx" in (tmp_path / "exported" / SUMS_FILE).read_text()


@pytest.mark.parametrize("command", [("transcribe",), ("stream", "--speed", 0, "--simulate")])
def test_commands(
    run_command: Run, folder: Path, samples: np.ndarray, tmp_path: Path, command: tuple[str | int, ...]
) -> None:
    soundfile.write(tmp_path / "a.wav", samples, RATE)
    arguments = (*command, tmp_path / "a.wav", "--model", folder)
    code, out, err = run_command(*arguments)
    assert code == 0, err
    assert out.endswith("?\n")
    _, bare, _ = run_command(*arguments, "--verbatim")
    assert bare == bare.upper()
    assert out.replace("?", "").upper() == bare
    _, lines, _ = run_command(*arguments, "--format", "json")
    assert json.loads(lines.splitlines()[-1])["spoken"] in bare
    code, _, err = run_command(*arguments, "--verbatim", "--punctuation", folder)
    assert code == 2
    assert "cannot be used with --punctuation" in err


def test_evaluation_scores_the_bare_words(run_command: Run, folder: Path, samples: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", samples, RATE)
    (tmp_path / "test.jsonl").write_text(json.dumps({"key": "a", "wav": "a.wav", "txt": "A"}) + "\n")
    code, _, err = run_command("evaluate", folder, tmp_path / "test.jsonl", "--output", tmp_path / "results")
    assert code == 0, err
    hypotheses = "".join(path.read_text() for path in (tmp_path / "results").rglob("*.jsonl"))
    assert "?" not in hypotheses
