import dataclasses

import numpy as np
import pytest
import soundfile
from tests.audio.kaldi import kaldi_mfcc
from tests.samples import CLIPS

from unichoir.audio.fbank import FbankConfig, OnlineFbank, compute_fbank
from unichoir.configuration import from_mapping, to_mapping
from unichoir.errors import AudioError, ConfigError


def naive_fbank(samples, config):
    """Kaldi's filterbank, written from its definition: one frame, one filter at a time, in float64."""
    rate, bins = config.sample_rate, config.num_mel_bins
    length, shift = rate * 25 // 1000, rate * 10 // 1000
    scaled = samples.astype(np.float64) * 32768
    if config.snip_edges:
        starts = range(0, len(scaled) - length + 1, shift)
    else:
        starts = [shift * t + shift // 2 - length // 2 for t in range((len(scaled) + shift // 2) // shift)]
    size = 1 << (length - 1).bit_length()
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / (length - 1))) ** 0.85

    def mel(frequency):
        return 1127 * np.log(1 + frequency / 700)

    top = config.high_freq if config.high_freq > 0 else rate / 2 + config.high_freq
    edges = np.linspace(mel(config.low_freq), mel(top), bins + 2)
    feats = np.zeros((len(starts), bins))
    for t, start in enumerate(starts):
        index = np.arange(start, start + length)
        while index.min() < 0 or index.max() >= len(scaled):  # mirrored at both ends, the edge sample repeated
            index = np.where(index < 0, -1 - index, index)
            index = np.where(index >= len(scaled), 2 * len(scaled) - 1 - index, index)
        frame = scaled[index] - scaled[index].mean()
        frame = frame - 0.97 * np.concatenate([frame[:1], frame[:-1]])
        power = np.abs(np.fft.rfft(frame * window, size)) ** 2
        for m in range(bins):
            left, centre, right = edges[m : m + 3]
            energy = 0.0
            for k in range(size // 2):
                position = mel(k * rate / size)
                if left < position <= centre:
                    energy += power[k] * (position - left) / (centre - left)
                elif centre < position < right:
                    energy += power[k] * (right - position) / (right - centre)
            feats[t, m] = np.log(max(energy, np.finfo(np.float32).eps))
    return feats


def slaney_filters(bins):
    """(bins, 201): one triangle at a time. Slaney's mel scale (Auditory Toolbox, 1998) is linear, 200 / 3 Hz to a mel,
    up to 1 kHz, then 27 mels to a factor of 6.4; filters have one area."""

    def hertz(mel):
        return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    top = 15 + 27 * np.log(8) / np.log(6.4)  # 8 kHz
    edges = [hertz(mel) for mel in np.linspace(0, top, bins + 2)]
    filters = np.zeros((bins, 201))
    for m, (left, centre, right) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        for k in range(201):
            height = min((40 * k - left) / (centre - left), (right - 40 * k) / (right - centre))
            filters[m, k] = max(height, 0) * 2 / (right - left)
    return filters


def naive_whisper(samples, bins):
    """Whisper's features without its clamp, in float64; padding that cannot be reflected is zero."""
    samples = samples.astype(np.float64)
    before, after = samples[1:201][::-1], samples[::-1][1:201]
    padded = np.concatenate([np.zeros(200 - len(before)), before, samples, after, np.zeros(200 - len(after))])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = [np.abs(np.fft.rfft(padded[start : start + 400] * window)) ** 2 for start in range(0, len(samples), 160)]
    energies = np.reshape(frames, (-1, 201))[: len(samples) // 160] @ slaney_filters(bins).T
    return (np.log10(np.maximum(energies, 1e-10)) + 4) / 4


def noise(num_samples, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(num_samples) * 0.1 * np.linspace(0.1, 1, num_samples)).astype(np.float32)


def test_equals_the_reference_of_wenet(fixtures):
    reference = np.load(fixtures / "wenet_moe_tiny" / "reference.npz")
    feats = compute_fbank(reference["waveform_int16"].astype(np.float32) / 32768, FbankConfig())
    assert feats.dtype == np.float32
    np.testing.assert_allclose(feats, reference["fbank"], atol=1e-3)


@pytest.mark.parametrize(
    "config",
    [
        FbankConfig(),
        FbankConfig(snip_edges=False),
        FbankConfig(snip_edges=False, high_freq=-400.0),
        FbankConfig(num_mel_bins=40, low_freq=64.0, high_freq=7000.0),
        FbankConfig(sample_rate=8000, num_mel_bins=40),
    ],
)
def test_equals_the_definition(config):
    samples = noise(config.sample_rate // 4 + 77)
    np.testing.assert_allclose(compute_fbank(samples, config), naive_fbank(samples, config), atol=2e-3)


@pytest.mark.parametrize("snip_edges", [True, False])
@pytest.mark.parametrize("high_freq", [0.0, -400.0])
@pytest.mark.parametrize("bins", [23, 40, 80])
def test_cepstra_equal_those_of_kaldi(bins, high_freq, snip_edges):
    config = FbankConfig(kind="mfcc", num_mel_bins=bins, high_freq=high_freq, snip_edges=snip_edges)
    assert config.low_freq == 20
    for clip in CLIPS[:2]:
        samples = soundfile.read(clip, dtype="float32")[0]
        feats = compute_fbank(samples, config)
        assert feats.dtype == np.float32
        np.testing.assert_allclose(feats, kaldi_mfcc(samples, bins, high_freq, snip_edges), atol=1e-2)


def test_cepstra_are_sums_of_cosines():
    """Kaldi's definition in float64: the last of 40 is turned over by the lifter."""
    samples, order = noise(4000), np.arange(40)
    logs = naive_fbank(samples, FbankConfig(num_mel_bins=40))
    cosines = np.cos(np.pi / 40 * np.outer(np.arange(40) + 0.5, order)) * np.sqrt(np.where(order > 0, 2, 1) / 40)
    lifter = 1 + 22 / 2 * np.sin(np.pi * order / 22)
    assert lifter[39] < -5
    feats = compute_fbank(samples, FbankConfig(kind="mfcc", num_mel_bins=40))
    np.testing.assert_allclose(feats, logs @ cosines * lifter, atol=5e-3)


@pytest.mark.parametrize("bins", [80, 128])
@pytest.mark.parametrize("num_samples", [160, 199, 200, 201, 399, 400, 401, 8077])
def test_equals_whispers_definition(num_samples, bins):
    samples = noise(num_samples, seed=num_samples) * np.float32(10)
    expected = naive_whisper(samples, bins)
    feats = compute_fbank(samples, FbankConfig(kind="whisper", num_mel_bins=bins))
    assert feats.dtype == np.float32
    np.testing.assert_allclose(feats, expected, atol=1e-4)
    assert expected.min() > -0.5  # so that nothing was clamped


def test_whispers_features_are_floored_where_it_clamps():
    samples = noise(8000)
    samples[:4000] *= 1e-4
    feats = compute_fbank(samples, FbankConfig(kind="whisper"))
    np.testing.assert_allclose(feats, np.maximum(naive_whisper(samples, 80), -0.5), atol=1e-3)
    assert (feats[:20] == -0.5).all()


@pytest.mark.parametrize(
    "config",
    [
        FbankConfig(),
        FbankConfig(snip_edges=False),
        FbankConfig(lead_frames=3),
        FbankConfig(kind="mfcc"),
        FbankConfig(kind="mfcc", snip_edges=False, lead_frames=2, trail_frames=5),
        FbankConfig(kind="whisper"),
        FbankConfig(kind="whisper", lead_frames=2),
    ],
)
def test_blocks_of_any_size_give_the_frames_of_the_whole(config):
    rng = np.random.default_rng(3)
    for trial in range(20):
        samples = noise(int(rng.integers(0, 9000 if trial % 2 else 600)), seed=trial)
        fbank, pieces, position = OnlineFbank(config), [], 0
        while position < len(samples):
            size = int(rng.choice([0, 1, 159, 160, 400, int(rng.integers(1, 3000))]))
            fbank.accept_waveform(samples[position : position + size])
            position += size
            if rng.random() < 0.7:
                pieces.append(fbank.pop())
        fbank.input_finished()
        pieces.append(fbank.pop())
        np.testing.assert_array_equal(np.concatenate(pieces), compute_fbank(samples, config))
        assert fbank.pop().shape == (0, 80)


@pytest.mark.parametrize(("lead_frames", "trail_frames"), [(0, 0), (2, 0), (0, 3), (2, 20)])
@pytest.mark.parametrize("kind", [{}, {"snip_edges": False}, {"kind": "mfcc"}, {"kind": "whisper"}])
def test_the_number_of_frames_is_as_told_whatever_stands_around_them(kind, lead_frames, trail_frames):
    silence = compute_fbank(np.zeros(16000, np.float32), FbankConfig(**kind))[50]
    lengths = {0, 1, 79, 80, 81, 159, 160, 161, 199, 200, 201, 240, 319, 399, 400, 401, 559, 560, 800, 16000}
    for num_samples in lengths:
        config = FbankConfig(lead_frames=lead_frames, trail_frames=trail_frames, **kind)
        feats = compute_fbank(noise(num_samples), config)
        assert feats.shape == (config.num_frames(num_samples), 80)
        assert np.isfinite(feats).all()
        without = compute_fbank(noise(num_samples), FbankConfig(**kind))
        np.testing.assert_array_equal(config.drop_edges(feats), without)
        np.testing.assert_array_equal(config.add_edges(without), feats)
        if len(feats):
            assert (feats[:lead_frames] == 0).all()
            assert len(without) == len(feats) - lead_frames - trail_frames > 0
            np.testing.assert_array_equal(feats[len(feats) - trail_frames :], np.tile(silence, (trail_frames, 1)))


def test_whispers_features_have_a_frame_for_every_whole_shift():
    assert [FbankConfig(kind="whisper").num_frames(length) for length in (159, 160, 1600)] == [0, 1, 10]
    assert FbankConfig(kind="whisper", lead_frames=2).num_frames(1600) == 12


@pytest.mark.parametrize("kind", ["kaldi", "mfcc", "whisper"])
def test_levels_are_in_decibels_and_the_lead_is_as_loud_as_what_follows(kind):
    config = FbankConfig(kind=kind, lead_frames=2)
    samples = np.sign(noise(8000))
    levels, feats = config.levels(compute_fbank(samples, config)), compute_fbank(samples / 10, config)
    np.testing.assert_allclose(levels - config.levels(feats), 20, atol=1e-2)
    assert levels[0] == levels[1] == levels[2]
    np.testing.assert_array_equal(config.levels(feats[7:], from_start=False), config.levels(feats)[7:])
    trailing = dataclasses.replace(config, trail_frames=20)
    longer = compute_fbank(samples / 10, trailing)
    np.testing.assert_array_equal(trailing.levels(longer), config.levels(feats))
    np.testing.assert_array_equal(trailing.levels(longer[:40], to_end=False), config.levels(feats)[:40])


def test_levels_are_the_same_from_cepstra_as_from_log_energies():
    samples = soundfile.read(CLIPS[0], dtype="float32")[0]
    energies, cepstra = (FbankConfig(kind=kind, num_mel_bins=40, lead_frames=2) for kind in ("kaldi", "mfcc"))
    expected = energies.levels(compute_fbank(samples, energies))
    assert expected.max() - expected.min() > 20
    np.testing.assert_allclose(cepstra.levels(compute_fbank(samples, cepstra)), expected, atol=1e-3)
    assert cepstra.first_centre_ms == energies.first_centre_ms


def test_frames_come_as_soon_as_their_window_is_complete():
    fbank = OnlineFbank(FbankConfig())
    fbank.accept_waveform(noise(399))
    assert len(fbank.pop()) == 0
    fbank.accept_waveform(noise(1))
    assert len(fbank.pop()) == 1


def test_whispers_frames_come_as_soon_as_their_window_is_complete():
    fbank = OnlineFbank(FbankConfig(kind="whisper", lead_frames=2))
    for block, expected in ((200, 0), (1, 3), (158, 0), (1, 1), (160, 1)):
        fbank.accept_waveform(noise(block))
        assert len(fbank.pop()) == expected
    fbank.input_finished()
    assert len(fbank.pop()) == 0


def test_silence_is_floored():
    np.testing.assert_allclose(
        compute_fbank(np.zeros(800, dtype=np.float32), FbankConfig()), np.log(2.0**-23), atol=1e-4
    )


def test_samples_after_the_end_are_an_error():
    fbank = OnlineFbank(FbankConfig())
    fbank.input_finished()
    with pytest.raises(AudioError, match="after the end"):
        fbank.accept_waveform(noise(10))


@pytest.mark.parametrize(
    "options",
    [
        {"num_mel_bins": 0},
        {"frame_shift_ms": 0.0},
        {"frame_shift_ms": 30.0},
        {"low_freq": 9000.0},
        {"high_freq": 8001.0},
        {"high_freq": -8000.0},
        {"num_mel_bins": 3, "kind": "mfcc"},
        {"low_freq": 9000.0, "kind": "mfcc"},
        {"lead_frames": -1},
        {"num_mel_bins": 40, "kind": "whisper"},
        {"sample_rate": 8000, "kind": "whisper"},
        {"frame_length_ms": 32.0, "kind": "whisper"},
        {"frame_shift_ms": 20.0, "kind": "whisper"},
        {"low_freq": 20.0, "kind": "whisper"},
        {"high_freq": -400.0, "kind": "whisper"},
        {"snip_edges": True, "kind": "whisper"},
    ],
)
def test_settings_without_sense_are_errors(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        FbankConfig(**options)


@pytest.mark.parametrize(
    ("given", "low_freq", "snip_edges"),
    [
        ({}, 20.0, True),
        ({"kind": "mfcc", "num_mel_bins": 40}, 20.0, True),
        ({"kind": "whisper", "lead_frames": 2}, 0.0, False),
        ({"snip_edges": False}, 20.0, False),
    ],
)
def test_what_is_written_says_all_and_is_read_back(given, low_freq, snip_edges):
    config = from_mapping(FbankConfig, given, "config.yaml")
    written = to_mapping(config)
    assert (written["low_freq"], written["snip_edges"]) == (low_freq, snip_edges)
    assert from_mapping(FbankConfig, written, "config.yaml") == config


def test_a_kind_that_is_none_is_an_error():
    with pytest.raises(ConfigError, match=r"config.yaml: kind: 'nemo' is not one of 'kaldi', 'mfcc', 'whisper'"):
        from_mapping(FbankConfig, {"kind": "nemo"}, "config.yaml")
