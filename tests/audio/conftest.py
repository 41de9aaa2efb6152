"""Recordings made by ffmpeg, and the two installs that read them."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.audio.ffmpeg import RATE, Ffmpeg
from tests.samples import CLIPS


@pytest.fixture
def ffmpeg(tmp_path: Path) -> Ffmpeg:
    """Runs ffmpeg with these arguments; the last is the name of the output file."""

    def ffmpeg(*arguments: object) -> Path:
        path = tmp_path / str(arguments[-1])
        words = [str(each) for each in arguments[:-1]]
        subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-y", *words, str(path)], check=True)
        return path

    return ffmpeg


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Four clips, 7.7 s."""
    path = tmp_path / "speech.flac"
    soundfile.write(path, np.concatenate([soundfile.read(clip, dtype="int16")[0] for clip in CLIPS[:4]]), RATE)
    return path


@pytest.fixture(params=["av", "plain"])
def install(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the extra `av` installed, and without it."""
    if request.param == "plain":
        monkeypatch.setattr("unichoir.audio.decoders.has", lambda library: library != "av")
    return request.param
