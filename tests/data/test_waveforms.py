import dataclasses

import numpy as np
import pytest
import soundfile
from tests.data.examples import Letters, reader_of

from unichoir.audio.augment import (
    NO_AUGMENTATION,
    AugmentConfig,
    ConcatConfig,
    NoiseConfig,
    PaddingConfig,
    RoomConfig,
    TelephoneConfig,
)
from unichoir.audio.fbank import FbankConfig, compute_fbank
from unichoir.audio.io import load_audio
from unichoir.data.dataset import DataConfig, Example, ExampleReader, Skipped
from unichoir.data.features import FeatureReader
from unichoir.data.manifest import Utterance
from unichoir.data.waveforms import Silence, WaveformChanger, draw_silence
from unichoir.errors import ConfigError

RATE = 16000
ROOM = RoomConfig(probability=1.0, num_responses=1, min_rt60=0.2, max_rt60=0.2, min_side=4.0, max_side=4.0)
ALWAYS = {
    "rooms": ROOM,
    "noise": NoiseConfig(probability=1.0, min_snr_db=10.0, max_snr_db=10.0),
    "telephone": TelephoneConfig(probability=1.0),
    "padding": PaddingConfig(probability=1.0, max_seconds=1.0),
    "concat": ConcatConfig(probability=0.7, max_seconds=6.0, max_gap_seconds=1.0),
}
EVERYTHING = AugmentConfig(dither=1.0, gain_db=6.0, spec_trim_frames=5, **ALWAYS)
CONSTANT_GAPS = [Silence(seconds=0.5), Silence(seconds=0.25, level_db=-60.0), Silence(seconds=0.75)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    utterances = []
    for number, word in enumerate(["zero", "one", "two", "three", "four"]):
        path = folder / f"{word}.wav"
        # A tone of its own, by which each can be told from the others.
        time = np.arange(8000 + 1600 * number) / RATE
        soundfile.write(path, 0.1 * np.sin(2 * np.pi * 500 * (number + 1) * time), RATE)
        utterances.append(Utterance(key=word, wav=str(path), txt=word, duration=len(time) / RATE))
    return utterances


def only(**changes):
    return dataclasses.replace(NO_AUGMENTATION, **changes)


def changer_of(utterances=(), seed=0, **changes):
    return WaveformChanger(only(**changes), sample_rate=RATE, utterances=utterances, seed=seed)


def speech(num_samples=16000, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)


def decibels(samples):
    return 10 * np.log10(np.mean(samples.astype(np.float64) ** 2))


def rng_of(seed=0):
    return np.random.default_rng(seed)


def test_silences_stand_around_and_between_and_are_what_they_should_be():
    first, second = speech(8000), speech(4000, seed=1)
    samples = changer_of(padding=PaddingConfig(probability=1.0)).change([first, second], CONSTANT_GAPS, rng_of())
    assert samples.dtype == np.float32
    before, begin, gap, end, after = np.split(samples, np.cumsum([8000, 8000, 4000, 4000]))
    assert not before.any()
    np.testing.assert_array_equal(begin, first)
    assert decibels(gap) == pytest.approx(-60, abs=0.01)
    np.testing.assert_array_equal(end, second)
    assert len(after) == 12000
    assert not after.any()


def test_digital_silence_stays_so_under_everything_but_dither():
    augment = {name: ALWAYS[name] for name in ("rooms", "noise", "telephone")}
    for seed in range(4):
        samples = changer_of(gain_db=6.0, **augment).change([speech(8000), speech(4000)], CONSTANT_GAPS, rng_of(seed))
        before, _, gap, _, after = np.split(samples, np.cumsum([8000, 8000, 4000, 4000]))
        assert not before.any()
        assert decibels(gap) > -50  # noise and echoes are where a microphone is open
        assert not after.any()
    samples = changer_of(dither=1.0).change([speech(8000)], [Silence(seconds=1.0), Silence()], rng_of())
    assert samples[:RATE].std() * 32768 == pytest.approx(1.0, rel=0.05)


def test_parts_are_not_changed_in_place():
    part = speech()
    part.flags.writeable = False
    for changes in (*({name: value} for name, value in ALWAYS.items()), {"gain_db": 6.0}, {"dither": 1.0}):
        changer_of(**changes).change([part], [], rng_of())
        changer_of(**changes).change([part], [Silence(), Silence()], rng_of())


def test_the_ratio_to_noise_is_that_of_the_speech_alone():
    part = speech()
    noise = NoiseConfig(probability=1.0, min_snr_db=10.0, max_snr_db=10.0, colours=("white",))
    silences = [Silence(seconds=3.0, level_db=-90.0), Silence()]
    samples = changer_of(noise=noise).change([part], silences, rng_of())
    assert decibels(part) - decibels(samples[: 3 * RATE]) == pytest.approx(10, abs=0.2)
    assert decibels(part) - decibels(samples[3 * RATE :] - part) == pytest.approx(10, abs=0.2)


def test_ratios_are_drawn_from_the_whole_range():
    part = speech()
    changer = changer_of(noise=NoiseConfig(probability=1.0, min_snr_db=0.0, max_snr_db=25.0, colours=("brown",)))
    drawn = [decibels(part) - decibels(changer.change([part], [], rng_of(seed)) - part) for seed in range(60)]
    assert -0.1 < min(drawn) < 3
    assert 22 < max(drawn) < 25.1


def test_a_room_and_a_line_are_heard_as_often_as_they_should_be():
    part = speech()
    for changes in (
        {"rooms": dataclasses.replace(ROOM, probability=0.3)},
        {"telephone": TelephoneConfig(probability=0.3)},
    ):
        changer = changer_of(**changes)
        heard = [changer.change([part], [], rng_of(seed)) for seed in range(100)]
        assert 15 <= sum(not np.array_equal(samples, part) for samples in heard) <= 45
        assert all(decibels(samples) == pytest.approx(decibels(part), abs=5) for samples in heard)


def test_echoes_go_on_into_open_silence():
    part = speech(8000)
    samples = changer_of(rooms=ROOM).change([part], [Silence(), Silence(seconds=0.3, level_db=-90.0)], rng_of())
    assert decibels(samples[8000:8400]) > -50
    assert decibels(samples[-800:]) < decibels(samples[8000:8400]) - 20


def spectrum_peaks(samples):
    """Return the corpus' tones in the audio that have at least a twentieth of the loudest one's level."""
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    tones = [power[round(500 * number * len(samples) / RATE) - 2 :][:5].max() for number in range(1, 6)]
    return {number for number, tone in enumerate(tones) if tone > max(tones) / 20}


def test_babble_is_made_of_other_utterances(corpus):
    noise = NoiseConfig(probability=1.0, babble=1.0, min_voices=2, max_voices=3, min_snr_db=0.0, max_snr_db=0.0)
    changer = changer_of(corpus, noise=noise)
    part = speech()
    counts, heard = set(), set()
    for seed in range(30):
        added = changer.change([part], [], rng_of(seed), keys=["one"]) - part
        assert decibels(added) == pytest.approx(decibels(part), abs=0.01)
        tones = spectrum_peaks(added)
        counts.add(len(tones))
        heard |= tones
    assert counts == {2, 3}
    assert heard == {0, 2, 3, 4}  # not the utterance itself


def test_babble_may_come_from_a_source_and_may_be_but_a_part_of_the_noise(corpus, tmp_path):
    soundfile.write(tmp_path / "voice.wav", 0.5 * np.sin(2 * np.pi * 2500 * np.arange(4000) / RATE), RATE)
    noise = NoiseConfig(probability=1.0, babble=0.5, babble_source=str(tmp_path), min_voices=1, max_voices=1)
    changer = changer_of(corpus, noise=noise)
    part = speech()
    tones = [spectrum_peaks(changer.change([part], [], rng_of(seed)) - part) == {4} for seed in range(40)]
    assert 10 <= sum(tones) <= 30


def test_babble_without_voices_is_an_error_and_unreadable_ones_are_left_out(corpus):
    noise = NoiseConfig(probability=1.0, babble=1.0, min_voices=3)
    with pytest.raises(
        ConfigError, match=r"noise babble: min_voices is 3, but there are only 0 utterances.*babble_source"
    ):
        changer_of((), noise=noise)
    gone = [dataclasses.replace(utterance, wav="nowhere.wav") for utterance in corpus]
    part = speech()
    np.testing.assert_array_equal(changer_of(gone, noise=noise).change([part], [], rng_of()), part)


def test_silences_are_drawn_from_their_whole_range():
    config = PaddingConfig(digital=0.5, min_level_db=-90.0, max_level_db=-50.0)
    rng = rng_of()
    drawn = [draw_silence(3.0, config, rng) for _ in range(400)]
    seconds = [silence.seconds for silence in drawn]
    levels = [silence.level_db for silence in drawn if silence.level_db is not None]
    assert 0 <= min(seconds) < 0.1
    assert 2.9 < max(seconds) <= 3.0
    assert 150 <= len(levels) <= 250
    assert -90 <= min(levels) < -85
    assert -55 < max(levels) <= -50
    assert draw_silence(-1.0, config, rng).seconds == 0


def test_an_example_is_what_its_plan_says_to_the_bit(corpus):
    augment = only(
        padding=PaddingConfig(probability=1.0, max_seconds=1.0, digital=1.0),
        concat=ConcatConfig(probability=0.6, max_seconds=6.0, max_gap_seconds=1.0),
    )
    reader = reader_of(corpus, augment)
    joined = 0
    for epoch in range(10):
        plan = reader.plan(corpus[0], epoch)
        expected = []
        for number, silence in enumerate(plan.silences):
            expected.append(np.zeros(round(silence.seconds * RATE), dtype=np.float32))
            expected += [load_audio(part.wav) for part, _ in plan.parts[number : number + 1]]
        example = reader.read(corpus[0], epoch)
        np.testing.assert_array_equal(example.feats, compute_fbank(np.concatenate(expected), FbankConfig()))
        assert len(example.feats) == reader.planned_frames(corpus[0], epoch)
        assert example.tokens.tolist() == Letters().encode(" ".join(part.txt for part, _ in plan.parts))
        joined += len(plan.parts) > 1
    assert joined


def test_gaps_count_for_the_length_and_do_not_change_what_is_joined(corpus):
    concat = ConcatConfig(probability=0.9, max_seconds=3.0)
    plain = reader_of(corpus, only(concat=concat))
    gaps = reader_of(corpus, only(concat=dataclasses.replace(concat, max_gap_seconds=0.5)))
    longest = 0.0
    for epoch in range(30):
        plan, without = gaps.plan(corpus[0], epoch), plain.plan(corpus[0], epoch)
        assert plan.parts == without.parts[: len(plan.parts)]
        assert plan.seconds <= 3.0
        if plan.silences:
            assert plan.silences[0].seconds == plan.silences[-1].seconds == 0
            longest = max(longest, *(silence.seconds for silence in plan.silences))
    assert 0.4 < longest <= 0.5


def test_padding_never_makes_an_utterance_too_long(corpus):
    augment = only(speeds=(0.9, 1.0, 1.1), padding=PaddingConfig(probability=1.0, max_seconds=3.0))
    reader = reader_of(corpus, augment, max_seconds=2.0)
    lengths, firsts = [], []
    for epoch in range(20):
        for utterance in corpus:
            example = reader.read(utterance, epoch)
            assert isinstance(example, Example)
            assert abs(len(example.feats) - reader.planned_frames(utterance, epoch)) <= 1
            lengths.append(len(example.feats))
            plan = reader.plan(utterance, epoch)
            firsts.append(plan.silences[0].seconds > plan.silences[-1].seconds)
    assert 150 < max(lengths) <= 200
    assert 30 < sum(firsts) < 70  # neither side gets what the other leaves
    full = dataclasses.replace(corpus[0], end=0.5, duration=1.99)
    assert not reader_of(corpus, only(padding=PaddingConfig(probability=1.0)), max_seconds=2.0).plan(full, 0).silences


def test_utterances_are_padded_as_often_as_they_should_be(corpus):
    reader = reader_of(corpus, only(padding=PaddingConfig(probability=0.3)))
    assert 15 <= sum(bool(reader.plan(corpus[0], epoch).silences) for epoch in range(100)) <= 45
    unknown = dataclasses.replace(corpus[0], duration=None)
    assert not any(reader.plan(unknown, epoch).silences for epoch in range(30))


def test_silence_does_not_make_a_bad_utterance_good(corpus):
    reader = reader_of(corpus, only(padding=PaddingConfig(probability=1.0)))
    dense = reader.read(dataclasses.replace(corpus[0], txt="abcdefghijklm"), 0)
    assert isinstance(dense, Skipped)
    assert dense.reason.startswith("13 tokens do not fit in 11 encoder frames (0.48 s)")
    short = reader.read(dataclasses.replace(corpus[0], end=0.05, duration=0.05), 0)
    assert isinstance(short, Skipped)
    assert short.reason.startswith("shorter than 0.1 s (0.03 s)")


def test_the_gap_of_a_partner_that_cannot_be_read_is_left_out(corpus):
    broken = dataclasses.replace(corpus[1], key="broken", wav="nowhere.wav")
    augment = only(concat=ConcatConfig(probability=1.0, max_seconds=3.0, max_gap_seconds=1.0))
    reader = reader_of([broken], augment)
    assert reader.plan(corpus[0], 0).silences
    np.testing.assert_array_equal(reader.read(corpus[0], 0).feats, reader_of(corpus).read(corpus[0], 0).feats)


def test_gain_changes_speech_but_not_digital_silence(corpus):
    silent = PaddingConfig(probability=1.0, digital=1.0)
    reader, plain = (reader_of(corpus, only(padding=silent, gain_db=gain)) for gain in (6.0, 0.0))
    shifts = []
    for epoch in range(12):
        shift = reader.read(corpus[0], epoch).feats - plain.read(corpus[0], epoch).feats
        assert not shift[:5].any() or not shift[-5:].any()
        shifts.append(shift[:, 15].max() + shift[:, 15].min())
    assert min(shifts) < -0.5
    assert 0.5 < max(shifts) <= 6 * np.log(10) / 10 + 1e-3


@pytest.mark.parametrize("name", sorted(ALWAYS))
def test_what_is_random_is_repeated_by_another_reader_and_differs_between_epochs(corpus, name):
    augment = AugmentConfig(**{name: ALWAYS[name]})
    first, second = reader_of(corpus, augment), reader_of(corpus, augment)
    second.read(corpus[3], 7)
    once, again = first.read(corpus[0], 1), second.read(corpus[0], 1)
    np.testing.assert_array_equal(once.feats, again.feats)
    np.testing.assert_array_equal(once.tokens, again.tokens)
    other = first.read(corpus[0], 2)
    assert once.feats.shape != other.feats.shape or not np.array_equal(once.feats, other.feats)


def test_everything_together_depends_on_seed_epoch_and_key_alone(corpus):
    noise = dataclasses.replace(ALWAYS["noise"], babble=0.5)
    augment = dataclasses.replace(EVERYTHING, noise=noise)
    forward = [reader_of(corpus, augment).read(utterance, 3) for utterance in corpus[:2]]
    reader = reader_of(corpus, augment)
    for utterance, expected in reversed(list(zip(corpus, forward, strict=False))):
        example = reader.read(utterance, 3)
        assert np.isfinite(example.feats).all()
        np.testing.assert_array_equal(example.feats, expected.feats)
        assert example.tokens.tolist() == expected.tokens.tolist()


@pytest.mark.parametrize("name", sorted(ALWAYS))
def test_what_differs_in_every_epoch_is_never_cached(corpus, tmp_path, name):
    named = {"concat": "concat.max_gap_seconds"}.get(name, name)
    with pytest.raises(ConfigError, match=rf"augment\.{named}: .*cannot be cached"):
        reader_of(corpus, only(**{name: ALWAYS[name]}), tmp_path)
    # What does nothing is no reason.
    reader_of(corpus, only(concat=ConcatConfig(max_gap_seconds=1.0), padding=PaddingConfig(max_seconds=1.0)), tmp_path)


def test_a_telephone_needs_the_rate_of_one(corpus):
    features = FeatureReader(fbank=FbankConfig(sample_rate=6000))
    with pytest.raises(ConfigError, match="telephone needs 8000 Hz"):
        ExampleReader(
            corpus,
            tokenizer=Letters(),
            features=features,
            data=DataConfig(),
            augment=only(telephone=ALWAYS["telephone"]),
        )
