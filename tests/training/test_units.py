"""Texts that the vocabulary cannot represent are counted before training, named, and refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from unichoir.errors import ConfigError
from unichoir.training.config import ExperimentConfig
from unichoir.training.setup import prepare


def with_texts(corpus: Path, folder: Path, texts: list[str]) -> Path:
    """Write the manifest of the corpus with other texts."""
    lines = [json.loads(line) for line in (corpus / "train.jsonl").read_text().splitlines()]
    lines = [{**line, "wav": str(corpus / line["wav"]), "txt": text} for line, text in zip(lines, texts, strict=False)]
    (folder / "other.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "other.jsonl"


def test_of_another_language(experiment: Callable[..., ExperimentConfig], corpus: Path, tmp_path: Path) -> None:
    half, most = ([letters, "привет", "мир"] for letters in ("a" * 9, "a" * 8))
    (warning,) = prepare(experiment(), [with_texts(corpus, tmp_path, half)], [corpus / "dev.jsonl"]).warnings
    assert warning.startswith("warning: ")
    assert "50.0%" in warning
    expected = r"other\.jsonl: the vocabulary lacks 52\.9% .* 'train1': привет: .* for another language\?"
    with pytest.raises(ConfigError, match=expected):
        prepare(experiment(), [with_texts(corpus, tmp_path, most)], [corpus / "dev.jsonl"])


def test_a_few(experiment: Callable[..., ExperimentConfig], corpus: Path, tmp_path: Path) -> None:
    for known, warned in ((100, False), (98, True)):
        manifest = with_texts(corpus, tmp_path, ["a" * known, "é"])
        found = prepare(experiment(), [manifest], [corpus / "dev.jsonl"]).warnings
        assert [text for text in found if "other.jsonl" in text and "'train1': é" in text] == list(found)
        assert bool(found) == warned
