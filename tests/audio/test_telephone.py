import numpy as np
import pytest

from unichoir.audio.telephone import compand, telephone

RATE = 16000


def tone(hertz, amplitude=0.5, rate=RATE):
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(rate) / rate)).astype(np.float32)


@pytest.mark.parametrize(
    ("hertz", "lowest_db", "highest_db"),
    [
        (60, -200, -45),
        (100, -200, -35),
        (300, -3.3, -2.7),
        (500, -0.3, 0.1),
        (1000, -0.1, 0.1),
        (2500, -0.5, 0.1),
        (3400, -3.3, -2.7),
        (5000, -200, -50),
    ],
)
def test_the_band_of_a_telephone(hertz, lowest_db, highest_db):
    sent = tone(hertz)
    heard = telephone(sent, RATE, "none")
    assert heard.shape == sent.shape
    assert heard.dtype == np.float32
    inner = slice(3000, -3000)
    gain = 10 * np.log10(max(float(np.mean(heard[inner] ** 2)), 1e-20) / np.mean(sent[inner] ** 2))
    assert lowest_db < gain < highest_db


def test_nothing_is_delayed():
    sent = np.zeros(RATE, dtype=np.float32)
    sent[5000] = 0.5
    heard = telephone(sent, RATE, "none")
    assert np.abs(heard).argmax() == pytest.approx(5000, abs=1)


def test_mu_law_follows_its_formula():
    magnitudes = np.geomspace(1e-4, 1, 2000)
    samples = np.concatenate([-magnitudes, magnitudes]).astype(np.float32)
    heard = compand(samples, "mu-law")
    # G.711 approximates y = ln(1 + 255 x) / ln(256) by pieces and rounds it to 127 steps on either side.
    curve = np.log1p(255 * np.abs(samples)) / np.log(256)
    curve_heard = np.log1p(255 * np.abs(heard)) / np.log(256)
    assert np.abs(curve - curve_heard).max() < 1 / 127
    assert len(np.unique(heard)) > 240
    assert (np.sign(heard[np.abs(samples) > 0.01]) == np.sign(samples[np.abs(samples) > 0.01])).all()


def test_a_law_keeps_the_ratio_to_its_own_noise_over_a_wide_range():
    for amplitude in (0.01, 0.1, 0.9):
        sent = tone(997, amplitude, rate=8000)
        noise = compand(sent, "a-law") - sent
        assert 28 < 10 * np.log10(np.mean(sent**2) / np.mean(noise**2)) < 45  # ITU-T G.712 asks for 33 dB and less


@pytest.mark.parametrize("companding", ["mu-law", "a-law"])
def test_samples_beyond_full_scale_are_not_clipped(companding):
    sent = tone(1000, amplitude=3.0)
    heard = telephone(sent, RATE, companding)
    inner = slice(3000, -3000)
    assert np.abs(heard[inner]).max() == pytest.approx(3.0, rel=0.06)
    noise = heard[inner] - sent[inner]
    assert 10 * np.log10(np.mean(sent[inner] ** 2) / np.mean(noise**2)) > 30


def test_any_length_comes_back_as_it_was():
    for length in (1, 2, 159, 1001):
        assert telephone(np.ones(length, dtype=np.float32), RATE, "mu-law").shape == (length,)
