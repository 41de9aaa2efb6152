import numpy as np
import pytest

from unichoir.audio.fbank import FbankConfig, OnlineFbank, compute_fbank
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
def test_blocks_of_any_size_give_the_frames_of_the_whole(snip_edges):
    config = FbankConfig(snip_edges=snip_edges)
    rng = np.random.default_rng(3)
    for trial in range(20):
        samples = noise(int(rng.integers(0, 9000)), seed=trial)
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


@pytest.mark.parametrize("snip_edges", [True, False])
@pytest.mark.parametrize("num_samples", [0, 1, 79, 80, 81, 240, 399, 400, 401, 559, 560, 800, 16000])
def test_the_number_of_frames_is_as_told(snip_edges, num_samples):
    config = FbankConfig(snip_edges=snip_edges)
    feats = compute_fbank(noise(num_samples), config)
    assert feats.shape == (config.num_frames(num_samples), 80)
    assert np.isfinite(feats).all()


def test_frames_come_as_soon_as_their_window_is_complete():
    fbank = OnlineFbank(FbankConfig())
    fbank.accept_waveform(noise(399))
    assert len(fbank.pop()) == 0
    fbank.accept_waveform(noise(1))
    assert len(fbank.pop()) == 1


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
    ],
)
def test_settings_without_sense_are_errors(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        FbankConfig(**options)
