"""Digits read by a synthesiser; the one here writes a tone for each phoneme."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
from onnx import TensorProto, helper, numpy_helper
from tests.recipes.test_tools import script

from unichoir.data.manifest import read_manifest


@pytest.fixture(scope="module")
def reading():
    return script("english/read_aloud")


class Letters:
    """A phoneme for each letter."""

    def phonemize(self, text: str, language: str) -> str:
        assert language == "en-us"
        return text

    def tokenize(self, phonemes: str) -> list[int]:
        return [ord(letter) for letter in phonemes]


def write_synthesiser(folder: Path) -> None:
    """0.1 s of silence for the border on both sides, 0.1 s of a tone of 500 Hz, as loud as the style's first number,
    for each token between."""
    tone = np.sin(2 * np.pi * 500 * np.arange(2400) / 24000).astype(np.float32)
    constants = {
        "zero": np.int64(0),
        "tone": tone[None],
        "first": np.zeros(1, np.int64),
        "column": np.array([-1, 1], np.int64),
        "shape": np.array([-1], np.int64),
    }
    nodes = [
        helper.make_node("Greater", ["tokens", "zero"], ["is_sound"]),
        helper.make_node("Cast", ["is_sound"], ["on"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["on", "column"], ["gates"]),
        helper.make_node("MatMul", ["gates", "tone"], ["waves"]),
        helper.make_node("Gather", ["style", "first"], ["loudness"], axis=1),
        helper.make_node("Mul", ["waves", "loudness"], ["scaled"]),
        helper.make_node("Mul", ["scaled", "speed"], ["wanted"]),
        helper.make_node("Reshape", ["wanted", "shape"], ["audio"]),
    ]
    inputs = [
        helper.make_tensor_value_info("tokens", TensorProto.INT64, [1, None]),
        helper.make_tensor_value_info("style", TensorProto.FLOAT, [1, 256]),
        helper.make_tensor_value_info("speed", TensorProto.FLOAT, [1]),
    ]
    output = helper.make_tensor_value_info("audio", TensorProto.FLOAT, [None])
    graph = helper.make_graph(
        nodes,
        "kokoro",
        inputs,
        [output],
        [numpy_helper.from_array(np.asarray(each), name) for name, each in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    (folder / "voices").mkdir()
    for name, loudness in (("loud", 0.9), ("soft", 0.3)):
        np.full((510, 1, 256), loudness, np.float32).tofile(folder / "voices" / f"{name}.bin")


def test_what_is_read_is_cut_out_and_said_in_the_manifest(reading, tmp_path: Path, monkeypatch) -> None:
    write_synthesiser(tmp_path)
    session = reading.onnxruntime.InferenceSession(tmp_path / "model.onnx")
    monkeypatch.setattr(reading, "load", lambda kokoro: (session, Letters()))
    out = tmp_path / "out"
    (out / "audio").mkdir(parents=True)
    takes = list(reading.plan(["loud", "soft"], takes=2, rows=3, seed=0))
    assert len({take.key for take in takes}) == len(takes) == 2 * (2 * 10 + 3)
    rows = [reading.read(take, tmp_path, out) for take in takes]
    for take, row in zip(takes, rows, strict=True):
        samples, rate = soundfile.read(out / row["wav"])
        assert rate == 16000
        said = 0.1 * len(take.text.replace(" ", ", "))
        # Of the silence there is 0.1 s on each side.
        kept = sum(min(margin, 0.1) for margin in take.margins)
        assert len(samples) / rate == pytest.approx(said + kept, abs=0.011)
        assert np.abs(samples).max() == pytest.approx(0.9 * take.gain, rel=0.01)
        spectrum = np.abs(np.fft.rfft(samples))
        assert spectrum.argmax() * rate / len(samples) == pytest.approx(500, abs=10)
    counts = {digit: sum(take.text == digit for take in takes) for digit in reading.DIGITS}
    assert set(counts.values()) == {4}
    assert {len(take.voices) for take in takes} == {1, 2}
    # What is there is not made again.
    monkeypatch.setattr(reading, "load", lambda kokoro: pytest.fail("made again"))
    assert [reading.read(take, tmp_path, out) for take in takes] == rows


def test_the_command_writes_a_manifest(reading, tmp_path: Path) -> None:
    """Of what an earlier start has left, so that nothing has to be read."""
    write_synthesiser(tmp_path)
    for take in reading.plan(["loud", "soft"], takes=1, rows=1, seed=5):
        path = tmp_path / "out" / "audio" / f"{take.key}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.zeros(1600), 16000)
    command = [sys.executable, reading.__file__, tmp_path, tmp_path / "out"]
    command += ["--takes=1", "--rows=1", "--jobs=1", "--seed=5"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = list(read_manifest(tmp_path / "out" / "train.jsonl"))
    assert len(found) == 22
    assert {utterance.txt for utterance in found} > {*reading.DIGITS}
    for voice in ("loud", "soft"):
        (tmp_path / "voices" / f"{voice}.bin").unlink()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no voices" in done.stderr
