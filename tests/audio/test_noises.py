import numpy as np
import pytest

from unichoir.audio.noises import add_noise, babble, coloured_noise, faint_noise, fast_length, wrap

RATE = 16000


def decibels(ratio):
    return 10 * np.log10(ratio)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 20.0])
def test_noise_is_mixed_at_the_wanted_ratio(snr_db):
    rng = np.random.default_rng(0)
    signal = 0.1 * coloured_noise("white", RATE, RATE, rng)
    added = add_noise(signal, coloured_noise("pink", RATE, RATE, rng), snr_db) - signal
    assert decibels(np.mean(signal**2) / np.mean(added**2)) == pytest.approx(snr_db, abs=0.01)


def test_noise_under_a_signal_that_pauses_is_as_loud_as_under_one_that_does_not():
    rng = np.random.default_rng(0)
    signal = np.concatenate([np.zeros(RATE, dtype=np.float32), np.full(RATE, 0.1, dtype=np.float32)])
    noise = coloured_noise("white", 2 * RATE, RATE, rng)
    added = add_noise(signal, noise, 10.0, signal_power=0.01) - signal
    assert decibels(0.01 / np.mean(added**2)) == pytest.approx(10.0, abs=0.01)


def test_noise_on_silence_and_silent_noise_change_nothing():
    silence, signal = np.zeros(100, dtype=np.float32), np.ones(100, dtype=np.float32)
    np.testing.assert_array_equal(add_noise(silence, signal, 10), silence)
    np.testing.assert_array_equal(add_noise(signal, silence, 10), signal)


@pytest.mark.parametrize(("colour", "slope"), [("white", 0.0), ("pink", -3.01), ("brown", -6.02)])
def test_colours_of_noise(colour, slope):
    noise = coloured_noise(colour, 1 << 18, RATE, np.random.default_rng(0))
    assert noise.dtype == np.float32
    assert np.mean(noise**2) == pytest.approx(1.0, rel=0.25)
    power = np.abs(np.fft.rfft(noise)) ** 2
    # From 31 Hz on: below 20 Hz it is flat.
    octaves = [decibels(power[low : 2 * low].mean()) for low in 2 ** np.arange(9, 17)]
    assert np.polyfit(np.arange(len(octaves)), octaves, 1)[0] == pytest.approx(slope, abs=0.1)  # dB per octave


@pytest.mark.parametrize("num_samples", [0, 1, 2, 997])
def test_noise_of_any_length(num_samples):
    for colour in ("white", "pink", "brown"):
        noise = coloured_noise(colour, num_samples, RATE, np.random.default_rng(0))
        assert noise.shape == (num_samples,)
        assert np.isfinite(noise).all()
    assert faint_noise(num_samples, RATE, -60.0, np.random.default_rng(0)).shape == (num_samples,)


@pytest.mark.parametrize("level_db", [-90.0, -50.0])
def test_faint_noise_has_the_wanted_level(level_db):
    for seed in range(4):
        noise = faint_noise(3 * RATE, RATE, level_db, np.random.default_rng(seed))
        assert decibels(np.mean(noise.astype(np.float64) ** 2)) == pytest.approx(level_db, abs=0.01)


def test_babble_is_the_sum_of_equally_loud_voices():
    time = np.arange(RATE) / RATE
    loud, faint = (
        level * np.sin(2 * np.pi * hertz * time).astype(np.float32) for level, hertz in ((0.9, 300), (0.01, 700))
    )
    mixed = babble([loud, faint, np.zeros(10, dtype=np.float32)], 3 * RATE, np.random.default_rng(0))
    power = np.abs(np.fft.rfft(mixed)) ** 2
    assert sorted(np.argsort(power)[-2:]) == [900, 2100]  # bins of a third of a hertz
    assert power[900] == pytest.approx(power[2100], rel=1e-3)
    assert not babble([], 10, np.random.default_rng(0)).any()


def test_short_noises_repeat_from_a_random_place():
    noise = np.arange(7, dtype=np.float32)
    begins = set()
    for seed in range(50):
        long = wrap(noise, 30, np.random.default_rng(seed))
        np.testing.assert_array_equal(long, (long[0] + np.arange(30)) % 7)
        begins.add(int(long[0]))
    assert begins == set(range(7))


def test_fast_lengths_have_small_factors_and_are_hardly_longer():
    for length in (1, 2, 31, 97, 997, 160_001, 479_999):
        fast = fast_length(length)
        assert length <= fast <= length * 17 / 16 + 1
        for factor in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31):
            while fast % factor == 0:
                fast //= factor
        assert fast == 1


@pytest.mark.parametrize("colour", ["white", "pink", "brown"])
def test_the_same_generator_gives_the_same_noise(colour):
    first, second = (coloured_noise(colour, 1000, RATE, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
