"""The script that trains punctuation and case: its input, and the equality of graph and network."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.recipes.test_tools import ROOT, call, script

from unichoir.bundle.sums import check_sums
from unichoir.text.english_punctuation import load_english_punctuation
from unichoir.text.word_features import word_rows

LINES = [
    "He came on Monday, but she stayed.",
    'I asked him, "Where is Mr. McDonald now?"',
    "We saw the U.S. Capitol; it was well-known!",
    "SHE HAS BUT ONE EYE",
    "no mark at the end",
    "There are 12 of them.",
]


@pytest.fixture(autouse=True)
def _beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the modules in the script's folder importable."""
    monkeypatch.syspath_prepend(ROOT / "recipes" / "english")


def test_lines_become_words_and_marks() -> None:
    text = script("english/written_text")
    parsed = [text.parse(line) for line in LINES]
    assert parsed[0] == [("He", 0), ("came", 0), ("on", 0), ("Monday", 1), ("but", 0), ("she", 0), ("stayed", 2)]
    assert parsed[1] == [
        *zip(["I", "asked", "him", "Where", "is", "Mr", "McDonald", "now"], [0, 0, 1, 0, 0, 0, 0, 3], strict=True)
    ]
    assert [word for word, _ in parsed[2]] == ["We", "saw", "the", "U", "S", "Capitol", "it", "was", "well", "known"]
    assert [mark for _, mark in parsed[2]] == [0, 0, 0, 0, 0, 1, 0, 0, 0, 2]
    assert parsed[3:] == [None, None, None]


def test_the_exported_graph_computes_what_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = script("english/written")
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"{LINES[0][:-1]} {chr(97 + place % 26)}.\n{LINES[1]}" for place in range(300)) + "\n")
    for hours in (1e-7, 1.0001e-7):  # a step, and one more in a second sitting
        call(written, monkeypatch, "train", text, "--output", tmp_path / "out", "--hours", hours)
    model = tmp_path / "model"
    model.mkdir()
    call(written, monkeypatch, "export", tmp_path / "out", "--model", model)
    check_sums(model)
    punctuator = load_english_punctuation(model / "punctuation.onnx")
    words = ["he", "came", "on", "monday", "but", "mcdonald", "stayed", "unheard-of"]
    network = written.Network()
    network.load_state_dict(torch.load(tmp_path / "out" / "state.pt")["network"])
    rows = torch.from_numpy(word_rows(words, punctuator.index)).long()[None]
    with torch.no_grad():
        logits = network.eval()(rows, torch.ones(1, len(words)))[0]
    marks, cases = punctuator.probabilities(words)
    np.testing.assert_allclose(marks, logits[:, :4].softmax(-1), atol=0.01)
    np.testing.assert_allclose(cases, logits[:, 4:].softmax(-1), atol=0.01)
    call(written, monkeypatch, "test", model / "punctuation.onnx", text)
