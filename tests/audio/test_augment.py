import numpy as np
import pytest

from unichoir.audio.augment import (
    AugmentConfig,
    ConcatConfig,
    NoiseConfig,
    PaddingConfig,
    RoomConfig,
    SpecAugmentConfig,
    SpecSubConfig,
    TelephoneConfig,
    add_dither,
    change_gain,
    narrow_band,
    perturb_speed,
    spec_augment,
    spec_substitute,
    spec_trim,
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


def test_dither_has_the_wanted_spread_on_the_int16_scale():
    dithered = add_dither(np.zeros(100_000, dtype=np.float32), 2.0, np.random.default_rng(0))
    assert dithered.dtype == np.float32
    assert dithered.std() * 32768 == pytest.approx(2.0, rel=0.02)


@pytest.mark.parametrize("config", [FbankConfig(kind=kind) for kind in ("kaldi", "mfcc", "whisper")])
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


def test_a_gain_beyond_full_scale_does_not_clip():
    samples = (0.3 * np.random.default_rng(0).standard_normal(4000)).astype(np.float32)
    louder = samples * np.float32(10)
    assert np.abs(louder).max() > 3
    np.testing.assert_allclose(
        change_gain(compute_fbank(samples, FbankConfig()), 20.0, FbankConfig()),
        compute_fbank(louder, FbankConfig()),
        atol=1e-3,
    )


def runs(flags):
    """Return the lengths of the runs of True."""
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


def test_a_word_in_silence_is_masked_and_cut_no_more_than_a_word_alone():
    feats = random_feats(400)
    for seed in range(50):
        masked = spec_augment(feats, SpecAugmentConfig(num_freq_masks=0), np.random.default_rng(seed), 50)
        assert max(runs((masked != feats).all(axis=1)), default=0) <= 20  # two masks of a fifth of 50 may touch
        changed = spec_substitute(feats, SpecSubConfig(), np.random.default_rng(seed), 50)
        assert (changed != feats).any(axis=1).sum() <= 3 * 5
        assert len(spec_trim(feats, 100, 7, np.random.default_rng(seed), 50)) >= 375
        assert len(spec_trim(feats, 100, 45, np.random.default_rng(seed), 50)) >= 395


def test_the_same_generator_gives_the_same_result():
    feats = random_feats(100)
    for change in (
        lambda rng: spec_augment(feats, SpecAugmentConfig(), rng),
        lambda rng: spec_substitute(feats, SpecSubConfig(), rng),
    ):
        np.testing.assert_array_equal(change(np.random.default_rng(7)), change(np.random.default_rng(7)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AugmentConfig(speeds=()), "speeds"),
        (lambda: AugmentConfig(speeds=(1.0, 0.0)), "speeds"),
        (lambda: AugmentConfig(dither=-1.0), "dither"),
        (lambda: NoiseConfig(probability=1.5), "probability must"),
        (lambda: NoiseConfig(min_snr_db=20.0, max_snr_db=10.0), "min_snr_db"),
        (lambda: NoiseConfig(colours=()), "noise colours"),
        (lambda: NoiseConfig(babble=2.0), "babble must"),
        (lambda: NoiseConfig(min_voices=0), "min_voices"),
        (lambda: NoiseConfig(min_voices=9), "max_voices"),
        (lambda: RoomConfig(probability=-0.5), "probability must"),
        (lambda: RoomConfig(num_responses=0), "num_responses"),
        (lambda: RoomConfig(min_rt60=0.7), "max_rt60"),
        (lambda: RoomConfig(min_rt60=0.05), "min_rt60"),
        (lambda: RoomConfig(min_side=1.0), "min_side"),
        (lambda: RoomConfig(max_side=2.0), "max_side"),
        (lambda: RoomConfig(min_distance=2.0), "min_distance"),
        (lambda: RoomConfig(max_distance=0.1), "max_distance"),
        (lambda: TelephoneConfig(probability=1.5), "probability must"),
        (lambda: TelephoneConfig(companding=()), "companding"),
        (lambda: PaddingConfig(probability=1.5), "probability must"),
        (lambda: PaddingConfig(max_seconds=-1.0), "max_seconds must"),
        (lambda: PaddingConfig(digital=1.5), "digital must"),
        (lambda: PaddingConfig(min_level_db=-40.0), "min_level_db"),
        (lambda: PaddingConfig(max_level_db=1.0), "max_level_db"),
        (lambda: ConcatConfig(max_gap_seconds=-1.0), "max_gap_seconds"),
        (lambda: ConcatConfig(probability=-0.1), "probability must"),
        (lambda: SpecAugmentConfig(max_time_fraction=1.5), "max_time_fraction"),
        (lambda: SpecAugmentConfig(num_freq_masks=-1), "num_freq_masks"),
        (lambda: SpecSubConfig(max_fraction=-1.0), "max_fraction"),
        (lambda: SpecSubConfig(max_frames=-1), "max_frames"),
    ],
)
def test_settings_without_sense_are_errors(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
