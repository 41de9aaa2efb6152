"""Utterances become examples and batches: features, tokens, lengths, the cache, and what is skipped."""

import dataclasses
import shutil

import numpy as np
import pytest
from tests.data.examples import WORDS, Letters, assert_same, reader_of

from unichoir.audio.augment import NO_AUGMENTATION, AugmentConfig, ConcatConfig, NoiseConfig
from unichoir.audio.fbank import FbankConfig, compute_fbank
from unichoir.audio.io import load_audio
from unichoir.data.dataset import (
    DataConfig,
    Example,
    ExampleReader,
    FrameRate,
    Skipped,
    collate,
    measure_durations,
    padded_frames,
)
from unichoir.data.features import FeatureReader
from unichoir.data.manifest import Utterance
from unichoir.errors import ConfigError


def test_without_augmentation_features_and_tokens_are_those_of_the_utterance(corpus):
    example = reader_of(corpus).read(corpus[1], epoch=5)
    np.testing.assert_array_equal(example.feats, compute_fbank(load_audio(corpus[1].wav), FbankConfig()))
    assert example.tokens.dtype == np.int64
    assert example.tokens.tolist() == Letters().encode("one")


def test_frames_of_the_lead_are_no_time_but_make_encoder_frames(corpus):
    def read(num_tokens, lead_frames, min_seconds=0.1):
        features = FeatureReader(fbank=FbankConfig(lead_frames=lead_frames))
        data = DataConfig(min_seconds=min_seconds)
        reader = ExampleReader(corpus, tokenizer=Letters(), features=features, data=data)
        return reader.read(dataclasses.replace(corpus[0], txt="ab" * (num_tokens // 2)), 0)

    # 48 frames; 51 make 12 encoder frames
    assert len(read(12, 3).feats) == 51
    assert "12 tokens do not fit in 11 encoder frames (0.48 s)" in read(12, 0).reason
    assert "14 tokens do not fit in 12 encoder frames (0.48 s)" in read(14, 3).reason
    assert "shorter than 0.5 s (0.48 s)" in read(4, 3, min_seconds=0.5).reason


@pytest.mark.parametrize("speed", [1.0, 0.9])
def test_planned_frames_are_those_read(corpus, speed):
    reader = reader_of(corpus, dataclasses.replace(NO_AUGMENTATION, speeds=(speed,)))
    for utterance in corpus:
        assert abs(reader.planned_frames(utterance, 0) - len(reader.read(utterance, 0).feats)) <= 1


def test_bad_utterances_are_skipped_and_named(corpus, tmp_path):
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no audio")
    first = corpus[0]
    cases = [
        (dataclasses.replace(first, txt=" "), "empty transcript"),
        (dataclasses.replace(first, wav=str(broken)), f"{broken}: cannot be decoded"),
        (dataclasses.replace(first, wav="nowhere.wav"), "nowhere.wav: No such file"),
        (dataclasses.replace(first, duration=100.0), r"longer than 30.0 s (100.00 s)"),
        (dataclasses.replace(first, end=0.05, duration=0.05), "shorter than 0.1 s (0.03 s)"),
        (dataclasses.replace(first, txt="x" * 500), "500 tokens, not between 1 and 400"),
        (dataclasses.replace(first, txt="abcdefghijklm"), "13 tokens do not fit in 11 encoder frames"),
        (dataclasses.replace(first, txt="aabbccdd"), "8 tokens do not fit in 11 encoder frames"),  # 4 repeats
    ]
    for utterance, reason in cases:
        skipped = reader_of(corpus).read(utterance, 0)
        assert isinstance(skipped, Skipped), reason
        assert skipped.key == "zero"
        assert skipped.reason.startswith(reason)
    assert isinstance(reader_of(corpus, max_seconds=0.4).read(dataclasses.replace(first, duration=None), 0), Skipped)
    assert isinstance(reader_of(corpus).read(dataclasses.replace(first, txt="abcdefghijk"), 0), Example)


@pytest.mark.parametrize(("rate", "context"), [(4, 6), (2, 4), (8, 10)])
def test_the_fewest_frames_for_ctc_by_counting(rate: int, context: int) -> None:
    frame_rate = FrameRate(subsampling_rate=rate, right_context=context)
    for tokens in ([], [3], [3, 4], [3, 3], [3, 3, 3, 4, 4], list(range(50))):
        labels = sum(1 + (i > 0 and tokens[i] == tokens[i - 1]) for i in range(len(tokens)))
        fewest = next(frames for frames in range(1000) if frame_rate.encoder_frames(frames) >= max(labels, 1))
        assert frame_rate.min_frames_for_ctc(tokens) == fewest


def test_features_are_cached_to_the_bit(corpus, tmp_path, monkeypatch):
    augment = AugmentConfig(gain_db=6.0, concat=ConcatConfig(probability=0.5))
    plain = [reader_of(corpus, augment).read(utterance, 0) for utterance in corpus]
    for utterance, expected in zip(corpus, plain, strict=True):
        assert_same(reader_of(corpus, augment, tmp_path).read(utterance, 0), expected)
    assert not list(tmp_path.rglob("*.tmp"))
    monkeypatch.setattr("unichoir.data.features.load_utterance", None)  # a call would raise TypeError
    for utterance, expected in zip(corpus, plain, strict=True):
        assert_same(reader_of(corpus, augment, tmp_path).read(utterance, 0), expected)


def test_the_cache_is_never_stale(corpus, tmp_path):
    wav = tmp_path / "a.wav"
    shutil.copy(corpus[0].wav, wav)
    utterance = dataclasses.replace(corpus[0], wav=str(wav))
    readers = [
        FeatureReader(fbank=fbank, cache_dir=tmp_path / "cache")
        for fbank in (FbankConfig(), FbankConfig(snip_edges=False), FbankConfig(high_freq=-400.0))
    ]
    for reader in readers:
        for speed in (1.0, 0.9):
            for item in (utterance, dataclasses.replace(utterance, start=0.1, end=0.3)):
                for _ in range(2):
                    expected = FeatureReader(fbank=reader.fbank).features(item, speed)
                    np.testing.assert_array_equal(reader.features(item, speed), expected)
    assert len(list(tmp_path.rglob("*.npy"))) == 12
    shutil.copy(corpus[1].wav, wav)
    np.testing.assert_array_equal(readers[0].features(utterance), FeatureReader().features(utterance))


def test_a_damaged_cache_file_is_computed_again(corpus, tmp_path):
    reader = FeatureReader(cache_dir=tmp_path)
    expected = reader.features(corpus[0])
    (path,) = tmp_path.rglob("*.npy")
    for damage in (b"", b"garbage", path.read_bytes()[:-10]):
        path.write_bytes(damage)
        np.testing.assert_array_equal(reader.features(corpus[0]), expected)
        np.testing.assert_array_equal(np.load(path), expected)


@pytest.mark.parametrize("augment", [AugmentConfig(dither=1.0), AugmentConfig(noise=NoiseConfig(probability=0.1))])
def test_what_cannot_be_cached_is_an_error_with_a_cache(corpus, tmp_path, augment):
    with pytest.raises(ConfigError, match="cannot be cached"):
        reader_of(corpus, augment, tmp_path)


@pytest.mark.parametrize("longest", [1, 3, 4, 35, 36, 1000])
def test_batches_are_padded_to_a_multiple_of_eight_encoder_frames(longest):
    padded = padded_frames(longest)
    assert longest <= padded < longest + 35
    assert FrameRate().encoder_frames(padded) % 8 == 0
    assert FrameRate().encoder_frames(padded - 1) < FrameRate().encoder_frames(padded) or padded == 3


def test_collate_pads_in_order():
    rng = np.random.default_rng(0)
    examples = [
        Example(key=f"k{t}", feats=rng.random((t, 4), dtype=np.float32), tokens=np.arange(u, dtype=np.int64) + 3)
        for t, u in ((5, 2), (9, 0), (1, 4))
    ]
    batch = collate(examples)
    assert batch.keys == ["k5", "k9", "k1"]
    assert batch.feats.shape == (3, 35, 4)
    assert batch.tokens.shape == (3, 7)
    assert batch.feats_lengths.tolist() == [5, 9, 1]
    assert batch.token_lengths.tolist() == [2, 0, 4]
    for row, example in enumerate(examples):
        np.testing.assert_array_equal(batch.feats[row, : len(example.feats)], example.feats)
        assert not batch.feats[row, len(example.feats) :].any()
        assert batch.tokens[row].tolist() == example.tokens.tolist() + [-1] * (7 - len(example.tokens))


@pytest.mark.parametrize(("longest", "places"), [(0, 7), (1, 7), (7, 7), (8, 15), (15, 15), (16, 23)])
def test_tokens_and_one_place_more_fill_multiples_of_eight(longest: int, places: int) -> None:
    examples = [
        Example(key=str(length), feats=np.zeros((9, 4), dtype=np.float32), tokens=np.full(length, 5, dtype=np.int64))
        for length in (longest, 0)
    ]
    batch = collate(examples)
    assert batch.tokens.tolist() == [[5] * longest + [-1] * (places - longest), [-1] * places]


def test_durations_are_measured_where_they_are_missing(corpus, tmp_path):
    calls = []
    unknown = [dataclasses.replace(utterance, duration=None) for utterance in corpus]
    bad = Utterance(key="bad", wav=str(tmp_path / "none.wav"), txt="")
    measured, skipped = measure_durations([*unknown, bad], progress=lambda done, total: calls.append((done, total)))
    assert measured == corpus
    assert [item.key for item in skipped] == ["bad"]
    assert "No such file" in skipped[0].reason
    assert calls == [(done, 9) for done in range(1, 10)]


@pytest.mark.parametrize(
    "options",
    [
        {"min_seconds": 2.0, "max_seconds": 1.0},
        {"min_tokens": 5, "max_tokens": 4},
        {"max_frames_in_batch": 0},
        {"length_jitter": 1.0},
    ],
)
def test_settings_without_sense_are_errors(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        DataConfig(**options)


def test_labels_begin_with_the_language_of_the_utterance_even_of_joined_ones(corpus):
    languages = {"en": 9, "ar": 8}
    spoken = [dataclasses.replace(one, lang="ar" if number % 2 else "en") for number, one in enumerate(corpus)]
    reader = ExampleReader(
        spoken,
        tokenizer=Letters(),
        features=FeatureReader(),
        data=DataConfig(),
        augment=AugmentConfig(concat=ConcatConfig(probability=0.8, max_seconds=9.0)),
        languages=languages,
    )
    joined = 0
    for number, utterance in enumerate(spoken):
        parts = [part.txt for part, _ in reader.plan(utterance, 0).parts]
        joined += len(parts) > 1
        expected = [languages[utterance.lang], *Letters().encode(" ".join(parts))]
        assert reader.read(utterance, 0).tokens.tolist() == expected
        assert all(WORDS.index(part) % 2 == number % 2 for part in parts)
    assert joined


def test_an_utterance_of_a_language_without_token_is_skipped_and_says_so(corpus):
    reader = ExampleReader(
        (), tokenizer=Letters(), features=FeatureReader(), data=DataConfig(), languages={"en": 9, "ar": 8}
    )
    for lang, named in (("zh", "language 'zh'"), ("", "no language")):
        example = reader.read(dataclasses.replace(corpus[0], lang=lang), 0)
        assert example == Skipped(key="zero", reason=f"{named}, but the vocabulary has tokens for en, ar")
