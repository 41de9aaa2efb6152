import numpy as np
import pytest

from unichoir.audio.augment import (
    AugmentConfig,
    ConcatConfig,
    NoiseConfig,
    SpecAugmentConfig,
    SpecSubConfig,
    add_dither,
    add_noise,
    change_gain,
    narrow_band,
    perturb_speed,
    pink_noise,
    spec_augment,
    spec_substitute,
    spec_trim,
    white_noise,
)
from unichoir.audio.fbank import FbankConfig, compute_fbank
from unichoir.errors import ConfigError


def random_feats(frames, seed=0):
    return np.random.default_rng(seed).normal(5.0, 3.0, (frames, 80)).astype(np.float32)


@pytest.mark.parametrize("speed", [0.9, 1.0, 1.1])
def test_speed_scales_length_and_frequency(speed):
    tone = np.sin(2 * np.pi * 400 * np.arange(32000) / 16000).astype(np.float32)
    fast = perturb_speed(tone, speed)
    assert abs(len(fast) - 32000 / speed) <= 1
    spectrum = np.abs(np.fft.rfft(fast[:16000] * np.hanning(16000)))
    assert spectrum.argmax() == pytest.approx(400 * speed, abs=1)


def test_narrow_band_keeps_what_a_telephone_carries_and_nothing_above():
    time = np.arange(16000) / 16000
    low, high = (np.sin(2 * np.pi * frequency * time).astype(np.float32) for frequency in (1000, 6000))
    heard = narrow_band(low + high, 16000)
    assert heard.shape == low.shape
    np.testing.assert_allclose(heard[800:-800], low[800:-800], atol=0.01)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 20.0])
def test_noise_is_mixed_at_the_wanted_ratio(snr_db):
    rng = np.random.default_rng(0)
    signal = 0.1 * white_noise(16000, rng)
    added = add_noise(signal, pink_noise(16000, rng), snr_db) - signal
    assert 10 * np.log10(np.mean(signal**2) / np.mean(added**2)) == pytest.approx(snr_db, abs=0.01)


def test_noise_on_silence_and_silent_noise_change_nothing():
    silence, signal = np.zeros(100, dtype=np.float32), np.ones(100, dtype=np.float32)
    np.testing.assert_array_equal(add_noise(silence, signal, 10), silence)
    np.testing.assert_array_equal(add_noise(signal, silence, 10), signal)


def test_colours_of_noise():
    rng = np.random.default_rng(0)
    for make, expected in ((white_noise, 0.0), (pink_noise, -3.01)):
        power = np.abs(np.fft.rfft(make(1 << 18, rng))) ** 2
        octaves = [10 * np.log10(power[low : 2 * low].mean()) for low in 2 ** np.arange(8, 17)]
        slope = np.polyfit(np.arange(len(octaves)), octaves, 1)[0]
        assert slope == pytest.approx(expected, abs=0.1)  # dB per octave


def test_dither_has_the_wanted_spread_on_the_int16_scale():
    dithered = add_dither(np.zeros(100_000, dtype=np.float32), 2.0, np.random.default_rng(0))
    assert dithered.dtype == np.float32
    assert dithered.std() * 32768 == pytest.approx(2.0, rel=0.02)


@pytest.mark.parametrize("config", [FbankConfig(), FbankConfig(kind="whisper")])
@pytest.mark.parametrize("decibels", [6.0, -6.0])
def test_gain_on_features_equals_gain_on_samples(config, decibels):
    samples = (0.05 * np.random.default_rng(0).standard_normal(4000)).astype(np.float32)
    louder = compute_fbank(samples * np.float32(10 ** (decibels / 20)), config)
    np.testing.assert_allclose(change_gain(compute_fbank(samples, config), decibels, config), louder, atol=1e-3)


@pytest.mark.parametrize("decibels", [6.0, -6.0])
def test_no_gain_lifts_whispers_silence_nor_sinks_below_it(decibels):
    config = FbankConfig(kind="whisper")
    samples = (2e-4 * np.random.default_rng(0).standard_normal(4000)).astype(np.float32)
    samples[2000:] = 0
    feats = compute_fbank(samples, config)
    changed = change_gain(feats, decibels, config)
    assert changed.min() == feats.min() == -0.5
    assert (changed[-8:] == -0.5).all()


def runs(flags):
    """Lengths of the stretches of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    return (edges[1::2] - edges[::2]).tolist()


def test_masks_hold_the_mean_and_stay_within_their_limits():
    feats = random_feats(400)
    original, mean = feats.copy(), feats.mean(axis=0)
    widest_time = widest_freq = 0
    for seed in range(300):
        masked = spec_augment(feats, SpecAugmentConfig(), np.random.default_rng(seed))
        changed = masked != feats
        np.testing.assert_array_equal(masked[changed], np.broadcast_to(mean, feats.shape)[changed])
        times, freqs = runs(changed.all(axis=1)), runs(changed.all(axis=0))
        assert len(times) <= 2
        assert sum(times) <= 100
        assert len(freqs) <= 2
        assert sum(freqs) <= 20
        widest_time, widest_freq = max([widest_time, *times]), max([widest_freq, *freqs])
    assert 50 <= widest_time <= 100  # two masks may touch
    assert 10 <= widest_freq <= 20
    np.testing.assert_array_equal(feats, original)


@pytest.mark.parametrize("frames", [0, 1, 3, 15])
def test_short_utterances_are_hardly_masked(frames):
    feats = random_feats(frames)
    for seed in range(50):
        masked = spec_augment(feats, SpecAugmentConfig(num_freq_masks=0), np.random.default_rng(seed))
        assert (masked != feats).any(axis=1).sum() <= 2 * int(0.2 * frames)
        assert spec_substitute(feats, SpecSubConfig(), np.random.default_rng(seed)).shape == feats.shape


def test_substituted_frames_come_from_earlier_ones():
    feats = np.arange(200, dtype=np.float32)[:, None] * np.ones((1, 4), dtype=np.float32)
    most = 0
    for seed in range(200):
        changed = spec_substitute(feats, SpecSubConfig(), np.random.default_rng(seed))[:, 0]
        assert (changed <= feats[:, 0]).all()
        assert (changed == np.round(changed)).all()
        different = int((changed != feats[:, 0]).sum())
        assert different <= 90
        most = max(most, different)
    assert most > 40


@pytest.mark.parametrize(("frames", "min_left"), [(100, 7), (100, 95), (10, 7), (7, 7), (5, 7), (0, 7)])
def test_trimming_keeps_half_and_what_is_needed(frames, min_left):
    feats = random_feats(frames)
    lengths = set()
    for seed in range(200):
        trimmed = spec_trim(feats, 20, min_left, np.random.default_rng(seed))
        np.testing.assert_array_equal(trimmed, feats[: len(trimmed)])
        lengths.add(len(trimmed))
    assert max(lengths) == frames
    assert min(lengths) == min(frames, max(frames - 20, frames - frames // 2, min_left))


def test_the_same_generator_gives_the_same_result():
    feats = random_feats(100)
    for change in (
        lambda rng: spec_augment(feats, SpecAugmentConfig(), rng),
        lambda rng: spec_substitute(feats, SpecSubConfig(), rng),
        lambda rng: pink_noise(1000, rng),
    ):
        np.testing.assert_array_equal(change(np.random.default_rng(7)), change(np.random.default_rng(7)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AugmentConfig(speeds=()), "speeds"),
        (lambda: AugmentConfig(speeds=(1.0, 0.0)), "speeds"),
        (lambda: AugmentConfig(dither=-1.0), "dither"),
        (lambda: NoiseConfig(probability=1.5), "noise probability"),
        (lambda: NoiseConfig(min_snr_db=20.0, max_snr_db=10.0), "min_snr_db"),
        (lambda: ConcatConfig(probability=-0.1), "concat probability"),
        (lambda: SpecAugmentConfig(max_time_fraction=1.5), "max_time_fraction"),
        (lambda: SpecAugmentConfig(num_freq_masks=-1), "num_freq_masks"),
        (lambda: SpecSubConfig(max_fraction=-1.0), "max_fraction"),
        (lambda: SpecSubConfig(max_frames=-1), "max_frames"),
    ],
)
def test_settings_without_sense_are_errors(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
