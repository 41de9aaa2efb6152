import subprocess
import sys

import numpy as np
import pytest

from unichoir.audio.augment import RoomConfig
from unichoir.audio.rooms import Response, draw_responses, reverberate
from unichoir.errors import UnichoirError

RATE = 16000
SMALL = RoomConfig(probability=1.0, num_responses=4, min_rt60=0.2, max_rt60=0.3, min_side=4.0, max_side=6.0)


@pytest.fixture(scope="module")
def responses():
    return draw_responses(SMALL, RATE, seed=3)


def schroeder_rt60(taps, rate):
    """The reverberation time to -60 dB in s, from Schroeder's (1965) backward integration between -5 and -25 dB."""
    energy = np.cumsum(taps[::-1].astype(np.float64) ** 2)[::-1]
    decay = 10 * np.log10(energy / energy[0])
    begin, end = np.argmax(decay < -5), np.argmax(decay < -25)
    slope = np.polyfit(np.arange(begin, end) / rate, decay[begin:end], 1)[0]
    return -60 / slope


def test_rooms_reverberate_as_long_as_they_should(responses):
    times = [schroeder_rt60(response.taps[response.direct :], RATE) for response in responses]
    # Sabine's formula is an estimate, by a third where walls absorb much.
    assert all(0.2 * 0.7 < time < 0.3 * 1.4 for time in times)
    longer = RoomConfig(num_responses=1, min_rt60=0.5, max_rt60=0.5, min_side=5.0, max_side=5.0)
    (response,) = draw_responses(longer, RATE, seed=0)
    assert schroeder_rt60(response.taps[response.direct :], RATE) == pytest.approx(0.5, rel=0.3)


def test_nothing_arrives_before_the_direct_path_and_rooms_differ(responses):
    for response in responses:
        # 0.3 to 3 m at 343 m/s, after the delay of the library's filter
        assert 40 + 0.3 / 343 * RATE - 1 < response.direct < 40 + 3 / 343 * RATE + 1
        energy = np.cumsum(response.taps.astype(np.float64) ** 2)
        assert energy[response.direct - 4] < 0.02 * energy[-1]
        assert abs(response.taps[response.direct]) > 5 * np.abs(response.taps[: response.direct - 10]).max()
    assert len({len(response.taps) for response in responses}) == 4


def test_the_seed_alone_decides_about_the_rooms(responses):
    for first, second in zip(responses, draw_responses(SMALL, RATE, seed=3), strict=True):
        assert first.direct == second.direct
        np.testing.assert_array_equal(first.taps, second.taps)
    other = draw_responses(SMALL, RATE, seed=4)
    assert [len(response.taps) for response in responses] != [len(response.taps) for response in other]


def test_reverberation_is_the_convolution_without_its_delay_and_keeps_the_level():
    rng = np.random.default_rng(0)
    samples = (0.1 * rng.standard_normal(5000)).astype(np.float32)
    taps = (rng.standard_normal(700) * np.exp(-np.arange(700) / 100)).astype(np.float32)
    heard = reverberate(samples, Response(taps=taps, direct=12))
    assert heard.dtype == np.float32
    expected = np.convolve(samples.astype(np.float64), taps)[12 : 12 + 5000]
    expected *= np.sqrt(np.mean(samples**2) / np.mean(expected**2))
    np.testing.assert_allclose(heard, expected, atol=1e-5)
    assert np.mean(heard**2) == pytest.approx(np.mean(samples**2), rel=1e-4)


def test_speech_stays_where_it_was(responses):
    samples = np.zeros(8000, dtype=np.float32)
    samples[2000] = 1.0
    for response in responses:
        heard = reverberate(samples, response)
        assert np.argmax(np.abs(heard) > 0.3 * np.abs(heard).max()) == pytest.approx(2000, abs=2)


def test_silence_stays_silence(responses):
    assert not reverberate(np.zeros(1000, dtype=np.float32), responses[0]).any()


def test_the_package_is_imported_only_where_rooms_are_drawn_and_named_where_it_lacks(monkeypatch):
    code = "import sys, unichoir.data.dataset; print({'scipy', 'pyroomacoustics'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
    monkeypatch.setitem(sys.modules, "pyroomacoustics", None)
    with pytest.raises(UnichoirError, match=r"augment.rooms needs an extra.*unichoir\[train\]"):
        draw_responses(SMALL, RATE, seed=3)
