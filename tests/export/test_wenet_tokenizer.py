"""Which files of a WeNet checkpoint are its tokenizer."""

from pathlib import Path
from typing import Any

import pytest

from unichoir.export.checkpoint import wenet_tokenizer_files

NAMED = {"tokenizer": "bpe", "tokenizer_conf": {"bpe_path": "data/lang_char/train_xl_unigram5000.model"}}


@pytest.mark.parametrize(
    ("conf", "models", "bpe"),
    [
        # Published archives from before 2023 don't name the tokenizer.
        ({}, ["train_960_unigram5000.model"], "train_960_unigram5000.model"),
        ({}, ["bpe.model"], "bpe.model"),
        ({}, ["bpe.model", "other.model"], "bpe.model"),
        ({}, ["one.model", "other.model"], None),
        ({}, [], None),
        (NAMED, ["train_xl_unigram5000.model", "other.model"], "train_xl_unigram5000.model"),
        (NAMED, ["other.model"], None),
        ({"tokenizer": "char"}, ["other.model"], None),
    ],
)
def test_the_bpe_model(tmp_path: Path, conf: dict[str, Any], models: list[str], bpe: str | None) -> None:
    for name in ("units.txt", *models):
        (tmp_path / name).touch()
    found = wenet_tokenizer_files(tmp_path, conf, tmp_path / "train.yaml")
    assert found == {"units.txt": tmp_path / "units.txt", **({"bpe.model": tmp_path / bpe} if bpe else {})}
