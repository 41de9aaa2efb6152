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
from tests.samples import REFERENCES, SMALL_MODEL

from unichoir.api import load_recognizer
from unichoir.data.manifest import load_utterance, read_manifest

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
