"""The server accepts recordings in the formats of browsers and cameras."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from openai import BadRequestError
from tests.audio.test_containers import Pipe, write
from tests.samples import CLIPS
from tests.serving.forms import MODEL, client_of
from tests.serving.harness import Running

from unichoir.audio.io import load_audio

CLIP = CLIPS[0]


def test_a_browsers_recording_and_a_film_are_transcribed(server: Running) -> None:
    sound = load_audio(CLIP, sample_rate=48000)
    files = {
        "recording.webm": write("webm", "libopus", sound, 48000, to=Pipe(), options={"live": "1"}),
        "film.mp4": write("mp4", "alac", sound, 48000, "mpeg4"),
    }
    with client_of(server) as client:
        for name, content in files.items():
            create = client.audio.transcriptions.create
            found = create(model=MODEL, file=(name, content), response_format="verbose_json")
            assert found.text == "SIX OH FOUR FIVE NINE ONE TWO"
            assert found.duration == pytest.approx(len(sound) / 48000, abs=0.05)


def test_playlists_are_refused_and_films_cut_short_go_as_far_as_they_do(server: Running, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "secret.wav", np.zeros(16000), 16000)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n"
    film = write("matroska", "libopus", load_audio(CLIP, sample_rate=48000), 48000)
    with client_of(server) as client:
        create = client.audio.transcriptions.create
        with pytest.raises(BadRequestError, match=r"list\.m3u8: "):
            create(model=MODEL, file=("list.m3u8", playlist.encode()))
        found = create(model=MODEL, file=("film.mkv", film[: len(film) // 2]))
        assert "SIX OH FOUR FIVE NINE ONE TWO".startswith(found.text[:6])
        assert found.model_extra is not None
        assert found.model_extra["warnings"][0].startswith("film.mkv: truncated: the audio ends at ")
        *_, last = create(model=MODEL, file=("film.mkv", film[: len(film) // 2]), stream=True)
        assert last.model_extra is not None
        assert len(last.model_extra["warnings"]) == 1
