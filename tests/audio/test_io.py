"""Audio of every format is read as the samples that were written, whole, in parts and as arrays."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.audio.encoding import FORMATS, encoded, slack, speech_like, tone

from unichoir.audio.io import OnlineResampler, audio_duration, check_samples, load_audio, resample
from unichoir.errors import AudioError

DEMO = Path(__file__).resolve().parents[2] / "demo" / "audio"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_a_tone_keeps_its_frequency_and_level_in_every_format(form, channels, rate):
    if form == "mp3" and channels > 2:
        pytest.skip("MP3 has at most two channels")
    samples = np.repeat(tone(1.0, rate)[:, None], channels, axis=1)
    loaded = load_audio(encoded(samples, rate, form))
    assert loaded.dtype == np.float32
    assert abs(len(loaded) - 16000) <= slack(form)
    middle = loaded[4000:12000].astype(np.float64)
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert spectrum.argmax() == 220  # of 8000 points at 16 kHz: 2 Hz each
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.05)


@pytest.mark.parametrize("rate", [4000, 11025, 22050, 44100, 96000, 192000])
def test_resampling_a_tone_gives_the_tone_at_the_new_rate(rate):
    loaded = load_audio(encoded(tone(1.0, rate), rate, "wav_float"))
    assert len(loaded) == 16000
    np.testing.assert_allclose(loaded[1000:15000], tone(1.0, 16000)[1000:15000], atol=2e-4)


def test_resampling_removes_what_the_new_rate_cannot_hold():
    loaded = load_audio(encoded(tone(1.0, 48000, frequency=12000.0), 48000, "wav_float"))
    assert np.abs(loaded[1000:15000]).max() < 1e-3


def test_long_audio_is_resampled_in_blocks_as_if_in_one():
    samples = speech_like(30.0, 48000)  # more than one block
    loaded = load_audio(encoded(samples, 48000, "wav_float"))
    np.testing.assert_allclose(loaded, resample(samples, 48000, 16000), atol=1e-6)


@pytest.mark.parametrize("form", ["wav24", "flac", "vorbis", "opus", "mp3"])
def test_reading_in_blocks_equals_reading_at_once(form, monkeypatch):
    content = encoded(speech_like(3.0, 16000), 16000, form)
    whole = load_audio(content)
    monkeypatch.setattr("unichoir.audio.ffmpeg.BLOCK_FRAMES", 7001)
    monkeypatch.setattr("unichoir.audio.decoders.BLOCK_FRAMES", 7001)
    np.testing.assert_allclose(load_audio(content), whole, atol=1e-6)


@settings(max_examples=80, deadline=None)
@given(
    rates=st.tuples(
        st.sampled_from([2000, 8000, 11025, 16000, 24000, 44100, 48000, 96000, 768_000]),
        st.sampled_from([16000, 16000, 8000, 24000]),
    ),
    length=st.one_of(st.integers(0, 50), st.integers(0, 60_000)),
    cuts=st.lists(st.floats(0, 1), max_size=12),
    single=st.booleans(),
)
def test_a_stream_is_resampled_as_if_at_once_however_it_is_split(rates, length, cuts, single):
    samples = np.random.default_rng(length).uniform(-0.5, 0.5, length).astype(np.float32)
    places = range(1, min(length, 200)) if single else sorted(int(cut * length) for cut in cuts)
    resampler = OnlineResampler(*rates)
    parts = [resampler.process(block) for block in np.split(samples, places)]
    behind = length * rates[1] / rates[0] - sum(map(len, parts))
    most = 0.16 if rates[1] == 8000 else 0.12  # over all lengths 0.158 s, from 48 to 8 kHz
    assert behind <= 0 if rates[0] == rates[1] else behind <= most * rates[1] or rates[0] < 8000
    parts.append(resampler.process(samples[:0], last=True))
    np.testing.assert_array_equal(np.concatenate(parts), resample(samples, *rates))
    assert all(part.dtype == np.float32 for part in parts)


def test_channels_are_averaged():
    left, right = tone(0.5, 16000), speech_like(0.5, 16000)
    loaded = load_audio(encoded(np.stack([left, right], axis=1), 16000, "wav_float"))
    np.testing.assert_allclose(loaded, (left + right) / 2, atol=1e-6)


def test_int16_samples_are_read_exactly():
    values = np.array([-32768, -1, 0, 1, 32767] * 100, dtype=np.int16)
    loaded = load_audio(encoded(values, 16000, "wav16"))
    np.testing.assert_array_equal(loaded * 32768, values)


@pytest.mark.parametrize("form", FORMATS)
def test_a_part_equals_that_part_of_the_whole(form):
    content = encoded(speech_like(4.0, 16000), 16000, form)
    whole = load_audio(content)
    # Opus comes at 48 kHz, and resampling is not exact at the edges of what it sees.
    inside = slice(400, -400) if form == "opus" else slice(None)
    np.testing.assert_allclose(load_audio(content, start=1.25, end=2.5)[inside], whole[20000:40000][inside], atol=1e-4)
    np.testing.assert_allclose(load_audio(content, end=1.0)[inside], whole[:16000][inside], atol=1e-4)
    np.testing.assert_allclose(load_audio(content, start=3.0)[inside], whole[48000:][inside], atol=1e-4)
    assert abs(len(load_audio(content, start=3.0, end=4.3)) - 16000) <= slack(form)  # an end rounded up


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (2.0, None, "starts at 2.0 s"),
        (-1.0, None, "starts at -1.0"),
        (0.5, 0.5, "ends at 0.5"),
        (None, 5.0, "ends at 5.0"),
    ],
)
def test_a_part_outside_of_the_audio_is_an_error(start, end, message):
    with pytest.raises(AudioError, match=message):
        load_audio(encoded(tone(2.0, 16000), 16000, "wav16"), start=start, end=end)


def test_paths_streams_and_bytes_give_the_same(tmp_path):
    content = encoded(speech_like(0.5, 16000), 16000, "flac")
    path = tmp_path / "näme with spaces.flac"
    path.write_bytes(content)
    expected = load_audio(content)
    with path.open("rb") as stream:
        for source in (path, str(path), stream):
            np.testing.assert_array_equal(load_audio(source), expected)
    assert audio_duration(path) == audio_duration(content) == 0.5


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, r"not a finite number \(at 0.500 s"), (np.inf, "finite"), (3e4, "should lie in")]
)
def test_samples_that_are_not_finite_or_on_another_scale_are_an_error(value, message):
    samples = tone(1.0, 16000)
    samples[8000] = value
    with pytest.raises(AudioError, match=message):
        load_audio(encoded(samples, 16000, "wav_float"))
    with pytest.raises(AudioError, match=message):
        check_samples(samples, 16000)


def test_silence_is_audio():
    for form in FORMATS:
        assert np.abs(load_audio(encoded(np.zeros(16000, dtype=np.float32), 16000, form))).max() < 1e-3


@pytest.mark.parametrize("form", FORMATS)
def test_a_twentieth_of_a_second(form):
    assert abs(len(load_audio(encoded(tone(0.05, 16000), 16000, form))) - 800) <= slack(form)


def test_half_an_hour(tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, np.tile(speech_like(60.0, 8000), 30), 8000, subtype="PCM_16")
    loaded = load_audio(path)
    assert len(loaded) == 16000 * 1800
    np.testing.assert_allclose(loaded[16000 * 60 : 16000 * 90], loaded[16000 * 1200 : 16000 * 1230], atol=1e-5)


def test_missing_files_and_folders_are_errors(tmp_path):
    with pytest.raises(AudioError, match=r"nowhere\.wav: No such file"):
        load_audio(tmp_path / "nowhere.wav")
    with pytest.raises(AudioError, match="Is a directory"):
        load_audio(tmp_path)
    with pytest.raises(AudioError, match="null"):
        load_audio("a\0b")


def test_an_impossible_rate_is_an_error():
    with pytest.raises(AudioError, match="sample rate 100 Hz"):
        load_audio(encoded(tone(1.0, 16000), 100, "wav16"))


def test_arrays_of_users():
    ints = np.array([-32768, 16384, 0], dtype=np.int16)
    np.testing.assert_array_equal(check_samples(ints, 16000), np.array([-1, 0.5, 0], dtype=np.float32))
    stereo = np.array([[0.5, -0.5], [0.25, 0.75]])
    checked = check_samples(stereo, 8000)
    assert checked.dtype == np.float32
    np.testing.assert_array_equal(checked, [0, 0.5])


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros(0), 16000, "no samples"),
        (np.zeros((0, 2)), 16000, "no samples"),
        (np.zeros((2, 3, 4)), 16000, "expected shape"),
        (np.zeros((2, 16000)), 16000, "expected shape"),
        (np.float32(0.5), 16000, "expected shape"),
        (np.zeros(10, dtype=np.int64), 16000, "expected float or int16"),
        (np.array(["a"]), 16000, "expected float or int16"),
        (np.zeros(10, dtype=np.complex64), 16000, "expected float or int16"),
        (np.zeros(10), 0, "sample rate 0 Hz"),
        (np.zeros(10), "16000", "sample rate must be a whole number of Hz, found '16000'"),
        (np.zeros(10), 16000.5, "sample rate must be a whole number of Hz, found 16000.5"),
        (np.zeros(10), None, "sample rate must be a whole number of Hz, found None"),
        (np.array([[np.inf, -np.inf]]), 16000, "not a finite number"),
        (np.full((3, 2), 3e38, np.float32), 16000, "not a finite number"),
    ],
)
def test_arrays_that_are_no_audio(samples, rate, message):
    with pytest.raises(AudioError, match=message):
        check_samples(samples, rate, "mine")


@pytest.mark.parametrize("name", ["digits.flac", "book.ogg"])
def test_real_recordings(name):
    path = DEMO / name
    samples = load_audio(path)
    assert len(samples) / 16000 == pytest.approx(audio_duration(path), abs=1e-3)
    assert 0.001 < samples.std() < 0.5
