"""Checkpoints of Whisper and WeNet that the tests convert."""

import json
import shutil
from pathlib import Path

import pytest
from tests.formats import whisper_reference as reference
from tests.formats.wenet_reference import NAMES, TINY
from tests.formats.whisper_reference import random_weights, vocabulary


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One Whisper, with the same weights in each format."""
    folder, state = tmp_path_factory.mktemp("whisper"), random_weights()
    written = {
        "openai": reference.write_openai(folder / "openai", state).parent,
        "huggingface": reference.write_huggingface(folder / "huggingface", state),
        "shards": reference.write_huggingface(folder / "shards", state, shards=3),
        "ctranslate2": reference.write_ctranslate2(folder / "ctranslate2", state),
    }
    for each in written.values():
        (each / "vocabulary.json").write_text(json.dumps(vocabulary()))
    return written


@pytest.fixture(params=NAMES)
def checkpoint(request: pytest.FixtureRequest, fixtures: Path) -> Path:
    """Each of WeNet's checkpoints with reference outputs."""
    return fixtures / request.param


@pytest.fixture
def copy(fixtures: Path, tmp_path: Path) -> Path:
    """A copy of WeNet's smallest checkpoint, to be changed."""
    return Path(shutil.copytree(fixtures / TINY, tmp_path / "copy"))
