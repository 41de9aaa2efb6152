"""Hotwords with a small model and a clip in which it misrecognises two words."""

import pytest
import soundfile
from tests.samples import CLIPS, SMALL_MODEL

import unichoir
from unichoir.errors import DecodingError
from unichoir.search.hotwords import Hotword

CLIP = CLIPS[4]
PHRASES = ["October", ("TWENTY", 2.0)]


@pytest.fixture(scope="module")
def model() -> unichoir.Model:
    return unichoir.load_model(SMALL_MODEL)


def test_a_recording(model: unichoir.Model) -> None:
    plain = model.transcribe(CLIP).text
    assert plain.startswith("ACTOBER P TWENT")
    assert model.transcribe(CLIP, hotwords=PHRASES).text == "OCTOBER TWENTY FOUR"
    options = unichoir.DecodingOptions(hotwords=(Hotword("OCTOBER"), Hotword("TWENTY", 2.0)))
    assert model.transcribe(CLIP, options=options).text == "OCTOBER TWENTY FOUR"
    assert model.transcribe(CLIP, options=options, hotwords=[]).text == plain


def test_a_stream(model: unichoir.Model) -> None:
    samples, rate = soundfile.read(CLIP, dtype="int16")
    results = list(
        model.stream(
            [samples[start : start + 1600] for start in range(0, len(samples), 1600)],
            sample_rate=rate,
            hotwords=PHRASES,
        )
    )
    assert results[-1].is_final
    assert results[-1].text.startswith("OCTOBER")
    assert results[-1].text.endswith("TWENTY FOUR")
    assert any(result.text.startswith("OCTOBER") for result in results if not result.is_final)
    stream = model.create_stream(hotwords=PHRASES)
    stream.accept_waveform(samples, rate)
    stream.input_finished()
    assert list(stream.results())[-1] == results[-1]


def test_what_is_refused(model: unichoir.Model) -> None:
    with pytest.raises(DecodingError, match="'Zürich': this model's vocabulary cannot write 'ü'"):
        model.transcribe(CLIP, hotwords=["Zürich"])
    with pytest.raises(DecodingError, match="mode: ctc_greedy_search doesn't use hotwords"):
        model.transcribe(CLIP, hotwords=PHRASES, decoding="ctc_greedy_search")
    with pytest.raises(DecodingError, match=r"a list of phrases .* found 'October'"):
        model.create_stream(hotwords="October")
