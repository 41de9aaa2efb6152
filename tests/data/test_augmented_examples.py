"""Augmentation of examples, drawn from seed, epoch and key: joined utterances, noise, speeds and masks."""

import dataclasses
import multiprocessing

import numpy as np
import pytest
import soundfile
from tests.data.examples import Letters, assert_same, reader_of

from unichoir.audio.augment import (
    NO_AUGMENTATION,
    AugmentConfig,
    ConcatConfig,
    NoiseConfig,
    PaddingConfig,
    RoomConfig,
    SpecAugmentConfig,
    SpecSubConfig,
    TelephoneConfig,
)
from unichoir.audio.fbank import FbankConfig
from unichoir.data.dataset import DataConfig, ExampleReader, FrameRate
from unichoir.data.features import FeatureReader
from unichoir.errors import ConfigError

NOISY = AugmentConfig(
    noise=NoiseConfig(probability=0.7, colours=("white", "pink", "brown"), babble=0.3),
    rooms=RoomConfig(probability=0.5, num_responses=1, max_rt60=0.2, min_side=5.0),
    telephone=TelephoneConfig(probability=0.5),
    padding=PaddingConfig(probability=0.5, max_seconds=0.5),
    dither=1.0,
    gain_db=6.0,
    spec_trim_frames=10,
)


@pytest.mark.parametrize("augment", [AugmentConfig(concat=ConcatConfig(probability=0.7)), NOISY])
def test_an_example_depends_on_seed_epoch_and_key_alone(corpus, augment):
    forward = [reader_of(corpus, augment).read(utterance, epoch=3) for utterance in corpus]
    reader = reader_of(corpus, augment)
    for utterance in corpus:
        reader.read(utterance, epoch=2)
    for utterance, expected in reversed(list(zip(corpus, forward, strict=True))):
        assert_same(reader.read(utterance, epoch=3), expected)
    moved = reader_of(corpus, augment, seed=1)
    for other in ([reader.read(u, epoch=4) for u in corpus], [moved.read(u, epoch=3) for u in corpus]):
        differ = [
            a.feats.shape != b.feats.shape or (a.feats != b.feats).any() for a, b in zip(other, forward, strict=True)
        ]
        assert all(differ)


def test_another_process_gives_the_same(corpus):
    reader = reader_of(corpus, NOISY)
    # A fresh interpreter has another hash seed for strings.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        example = pool.apply(ExampleReader.read, (reader, corpus[0], 1))
    assert_same(example, reader.read(corpus[0], 1))


def test_speeds_are_drawn_evenly_and_change_the_length(corpus):
    reader = reader_of(corpus, AugmentConfig())
    lengths = [len(reader.read(corpus[0], epoch).feats) for epoch in range(90)]
    counts = {length: lengths.count(length) for length in set(lengths)}
    # 8000 samples at 0.9, 1.0, 1.1
    assert set(counts) == {1 + (round(8000 / speed) - 400) // 160 for speed in (0.9, 1.0, 1.1)}
    assert min(counts.values()) > 15


@pytest.mark.parametrize("kind", ["kaldi", "mfcc", "whisper"])
def test_joined_utterances_have_one_lead_which_no_augmentation_changes(corpus, kind):
    concat = ConcatConfig(probability=0.8, max_seconds=3.0)
    masks = SpecAugmentConfig(num_time_masks=10, max_time_fraction=0.5)
    plain = dataclasses.replace(NO_AUGMENTATION, concat=concat)
    augment = dataclasses.replace(plain, gain_db=6.0, spec_augment=masks, spec_sub=SpecSubConfig(num=10))
    for epoch in range(5):
        feats = {}
        for lead_frames in (0, 3):
            features = FeatureReader(fbank=FbankConfig(kind=kind, lead_frames=lead_frames))
            for changes in (plain, augment):
                reader = ExampleReader(
                    corpus, tokenizer=Letters(), features=features, data=DataConfig(), augment=changes
                )
                found = reader.read(corpus[0], epoch).feats
                assert len(found) == reader.planned_frames(corpus[0], epoch)
                assert (found[:lead_frames] == 0).all()
                feats[lead_frames, changes] = found[lead_frames:]
        for changes in (plain, augment):
            np.testing.assert_array_equal(feats[0, changes], feats[3, changes])
        assert (feats[0, plain] != feats[0, augment]).any()


def test_joined_utterances_carry_the_features_and_words_of_all(corpus):
    plain = dataclasses.replace(NO_AUGMENTATION, concat=ConcatConfig(probability=0.8, max_seconds=3.0))
    reader, single = reader_of(corpus, plain), reader_of(corpus)
    most = 0
    for epoch in range(20):
        plan = reader.plan(corpus[0], epoch)
        parts = [part for part, _ in plan.parts]
        assert parts[0] == corpus[0]
        assert plan.seconds <= 3.0
        example = reader.read(corpus[0], epoch)
        np.testing.assert_array_equal(example.feats, np.concatenate([single.read(part, 0).feats for part in parts]))
        assert example.tokens.tolist() == Letters().encode(" ".join(part.txt for part in parts))
        assert len(example.feats) == reader.planned_frames(corpus[0], epoch)
        most = max(most, len(parts))
    assert most >= 3


@pytest.mark.parametrize("cached", [False, True])
def test_narrowband_is_drawn_for_an_utterance_with_all_its_parts(corpus, tmp_path, cached):
    concat = ConcatConfig(probability=0.7, max_seconds=5.0)
    plain = dataclasses.replace(NO_AUGMENTATION, concat=concat)
    wide = reader_of(corpus, plain)
    reader = reader_of(corpus, dataclasses.replace(plain, narrowband=0.5), tmp_path if cached else None)
    count = 0
    for epoch in range(40):
        feats, original = reader.read(corpus[0], epoch).feats, wide.read(corpus[0], epoch).feats
        if not np.array_equal(feats, original):
            count += 1
            quieter = original - feats
            assert quieter[:, 60:].min(axis=1).min() > 1  # white noise loses its upper half in every frame
            assert np.abs(quieter[:, :40]).mean() < 0.5
    assert 8 <= count <= 32


def test_only_fitting_utterances_are_joined(corpus):
    others = [dataclasses.replace(corpus[0], key="de", lang="de"), dataclasses.replace(corpus[1], key="mute", txt="")]
    concat = ConcatConfig(probability=0.9, max_part_seconds=1.0, same_speaker=True, max_seconds=10.0)
    reader = reader_of([*corpus, *others], AugmentConfig(concat=concat))
    partners = set()
    for epoch in range(50):
        parts = reader.plan(corpus[0], epoch).parts
        partners |= {part.key for part, _ in parts[1:]}
        assert len({speed for _, speed in parts}) == 1  # one voice
        assert len(reader.plan(corpus[7], epoch).parts) == 1  # longer than max_part_seconds
    assert partners == {"zero", "two", "four"}  # its speaker, at most one second


def test_a_partner_that_cannot_be_read_is_left_out(corpus):
    broken = dataclasses.replace(corpus[1], key="broken", wav="nowhere.wav")
    plain = dataclasses.replace(NO_AUGMENTATION, concat=ConcatConfig(probability=1.0, max_seconds=2.0))
    example = reader_of([broken], plain).read(corpus[0], 0)
    assert example.tokens.tolist() == Letters().encode("zero")


def test_trimming_leaves_enough_for_the_transcript(corpus):
    augment = dataclasses.replace(NO_AUGMENTATION, spec_trim_frames=1000)
    utterance = dataclasses.replace(corpus[0], txt="abcdefghij")
    for epoch in range(50):
        example = reader_of(corpus, augment).read(utterance, epoch)
        assert FrameRate().encoder_frames(len(example.feats)) >= 10


def test_noise_recordings_are_mixed_in(corpus, tmp_path):
    hum = np.sin(2 * np.pi * 1000 * np.arange(4000) / 16000)
    soundfile.write(tmp_path / "hum.flac", 0.3 * hum, 16000)
    (tmp_path / "list.jsonl").write_text('{"key": "hum", "wav": "hum.flac", "txt": ""}')
    clean = reader_of(corpus).read(corpus[0], 0).feats
    for source in (tmp_path, tmp_path / "list.jsonl"):
        noise = NoiseConfig(probability=1.0, source=str(source), min_snr_db=-10.0, max_snr_db=-10.0)
        noisy = reader_of(corpus, dataclasses.replace(NO_AUGMENTATION, noise=noise)).read(corpus[0], 0).feats
        rise = (noisy - clean).mean(axis=0)
        assert 24 <= rise.argmax() <= 30  # the bins around 1 kHz
        assert rise.max() > 4
        assert abs(np.median(rise)) < 0.5


def test_generated_noise_has_the_wanted_ratio(corpus):
    noise = NoiseConfig(probability=1.0, min_snr_db=0.0, max_snr_db=0.0)
    augment = dataclasses.replace(NO_AUGMENTATION, noise=noise)
    clean = np.exp(reader_of(corpus).read(corpus[0], 0).feats).mean()
    for epoch in range(4):
        noisy = np.exp(reader_of(corpus, augment).read(corpus[0], epoch).feats).mean()
        assert 1.0 < noisy / clean < 2.5


def test_noise_sources_without_audio_are_errors(corpus, tmp_path):
    with pytest.raises(ConfigError, match="no audio files"):
        reader_of(corpus, AugmentConfig(noise=NoiseConfig(probability=0.5, source=str(tmp_path))))


def test_default_augmentation_keeps_very_short_words_recognisable(corpus):
    word = dataclasses.replace(corpus[0], end=0.15, duration=0.15, txt="ab")
    reader, plain = reader_of(corpus, AugmentConfig(speeds=(1.0,))), reader_of(corpus)
    for epoch in range(30):
        example, original = reader.read(word, epoch), plain.read(word, 0)
        untouched = (example.feats == original.feats).any(axis=1).sum()
        assert untouched >= len(original.feats) // 2


def test_substitution_and_masks_are_applied(corpus):
    plain = reader_of(corpus).read(corpus[5], 0).feats
    for augment in (
        dataclasses.replace(NO_AUGMENTATION, spec_augment=SpecAugmentConfig()),
        dataclasses.replace(NO_AUGMENTATION, spec_sub=SpecSubConfig()),
    ):
        changed = [(reader_of(corpus, augment).read(corpus[5], epoch).feats != plain).mean() for epoch in range(10)]
        assert 0.05 < np.mean(changed) < 0.6
