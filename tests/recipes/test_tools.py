"""The scripts that recipes share."""

import importlib.util
import itertools
import json
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch
import yaml
from tests.samples import REFERENCES, SMALL_MODEL

from unichoir.api import load_recognizer
from unichoir.audio.fbank import FbankConfig
from unichoir.configuration import to_mapping
from unichoir.data.manifest import load_utterance, read_manifest
from unichoir.errors import CheckpointError
from unichoir.export.onnx import export_model
from unichoir.network.asr_model import AsrModel
from unichoir.network.checkpoint import load_checkpoint
from unichoir.network.config import DecoderConfig, EncoderConfig, FeedForwardConfig, ModelConfig
from unichoir.text.tokenizer import CharTokenizer, load_tokenizer

ROOT = Path(__file__).resolve().parents[2]
RATE = 16000


def script(name: str) -> ModuleType:
    path = ROOT / "recipes" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["script", *map(str, arguments)])
    module.main()


def test_words_are_cut_in_the_pauses_between_recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Joined recordings with known silences between them: there, and nowhere else near, cuts must lie."""
    clips = read_manifest(REFERENCES)
    pause = np.zeros(RATE // 2, dtype=np.float32)
    pieces, silences, now, texts = [], [], 0.0, []
    for clip in clips[:3]:
        samples = load_utterance(clip, RATE)
        pieces += [samples, pause]
        now += len(samples) / RATE
        silences.append((now, now + 0.5))
        now += 0.5
        texts.append(clip.txt)
    soundfile.write(tmp_path / "long.flac", np.concatenate(pieces), RATE)
    soundfile.write(tmp_path / "other.flac", pieces[0], RATE)
    lines = [
        {"key": "long", "wav": "long.flac", "txt": " ".join(texts), "speaker": "x"},
        {"key": "wrong", "wav": "other.flac", "txt": "YES YES YES YES YES YES"},
        {"key": "empty", "wav": "other.flac", "txt": ""},
        {"key": "broken", "wav": "nowhere.flac", "txt": "ONE"},
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tool, output = script("tools/cut_words"), tmp_path / "cut" / "words.jsonl"
    spans = tool.cut(load_recognizer(SMALL_MODEL), np.concatenate(pieces), " ".join(texts))
    assert [word for word, _, _ in spans] == " ".join(texts).split()
    assert spans[0][1] == 0
    assert spans[-1][2] == pytest.approx(now)
    assert all(end == start for (_, _, end), (_, start, _) in itertools.pairwise(spans))
    counts = np.cumsum([len(text.split()) for text in texts])
    for count, (start, end) in zip(counts[:2], silences, strict=False):
        assert start <= spans[count][1] <= end
    call(tool, monkeypatch, SMALL_MODEL, tmp_path / "train.jsonl", output)
    words = read_manifest(output)
    expected = [(word, round(start, 4), round(end, 4)) for word, start, end in spans if 0.1 <= end - start <= 1.5]
    assert [(word.txt, word.start, word.end) for word in words] == expected
    assert {Path(word.wav).resolve() for word in words} == {(tmp_path / "long.flac").resolve()}
    assert {word.speaker for word in words} == {"x"}
    for word in words:
        assert len(load_utterance(word, RATE)) == pytest.approx(word.duration * RATE, abs=2)


def test_combined_manifests_point_to_the_same_audio_and_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "deep" / "all.jsonl"
    call(script("tools/combine"), monkeypatch, output, f"{REFERENCES}:2")
    original, combined = read_manifest(REFERENCES), read_manifest(output)
    assert len(combined) == 2 * len(original)
    for first, second in zip([utterance for utterance in original for _ in range(2)], combined, strict=True):
        assert os.path.samefile(first.wav, second.wav)
        assert first.txt == second.txt


@pytest.mark.slow
def test_a_model_in_int8_becomes_a_checkpoint_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what graphs hold in other ways: joined products, small experts as one wide network, convolutions as products
    of frames, float weights that were transposed. Nothing is lost but the rounding to 8 bits."""
    tokenizer = CharTokenizer(["<blank>", "<unk>", "<sos/eos>", *"abcd"])
    small = FeedForwardConfig(hidden_dim=4, num_experts=4, top_k=2, shared_hidden_dim=32, activation="gelu")
    large = FeedForwardConfig(hidden_dim=12, num_experts=4, top_k=2)
    encoder = EncoderConfig(
        input_dim=80,
        dim=16,
        num_heads=2,
        num_blocks=1,
        num_top_blocks=1,
        front="conv1d",
        subsampling_channels=None,
        block="transformer",
        position="sinusoidal",
        feed_forward=small,
    )
    decoder = DecoderConfig(num_blocks=2, num_reverse_blocks=1, num_heads=2, feed_forward=large, position="learned")
    config = ModelConfig(vocab_size=7, encoder=encoder, decoder=decoder, reverse_weight=0.3)
    torch.manual_seed(3)
    model = AsrModel(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    tokenizer.save(tmp_path)
    fbank = FbankConfig(kind="whisper", lead_frames=2)
    export_model(model, fbank, tmp_path, tmp_path / "model", quantize="int8")
    experiment = {"tokenizer": "here", "model": to_mapping(config), "fbank": to_mapping(fbank)}
    experiment |= {"optim": {"learning_rate": 0.1}, "trainer": {"max_steps": 1}}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    tool = script("tools/dequantize")
    call(tool, monkeypatch, tmp_path / "model", tmp_path / "experiment.yaml", tmp_path / "checkpoint")
    found, sections = load_checkpoint(tmp_path / "checkpoint")
    assert found.config == config
    assert sections["fbank"] == to_mapping(fbank)
    assert load_tokenizer(tmp_path / "checkpoint").tokens == tokenizer.tokens
    weights, expected = found.state_dict(), model.state_dict()
    assert weights.keys() == expected.keys()
    for name, weight in expected.items():
        rounding = 1e-6 if weight.ndim < 2 or "norm" in name else 0.005  # of the largest weights of an output, 1.2
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=rounding, msg=name)
    assert any(not torch.equal(weights[name], weight) for name, weight in expected.items())
    experiment["model"]["decoder"]["num_blocks"] = 3
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    with pytest.raises(CheckpointError, match="is this the configuration of the model"):
        call(tool, monkeypatch, tmp_path / "model", tmp_path / "experiment.yaml", tmp_path / "other")
