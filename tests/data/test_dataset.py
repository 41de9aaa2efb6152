import dataclasses
import multiprocessing
import shutil

import numpy as np
import pytest
import soundfile

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

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven"]
NOISY = AugmentConfig(
    noise=NoiseConfig(probability=0.7, colours=("white", "pink", "brown"), babble=0.3),
    rooms=RoomConfig(probability=0.5, num_responses=1, max_rt60=0.2, min_side=5.0),
    telephone=TelephoneConfig(probability=0.5),
    padding=PaddingConfig(probability=0.5, max_seconds=0.5),
    dither=1.0,
    gain_db=6.0,
    spec_trim_frames=10,
)


class Letters:
    """A tokenizer with one token for each character, from 3 on."""

    def encode(self, text):
        return [3 + ord(character) % 64 for character in text]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    utterances = []
    for number, word in enumerate(WORDS):
        path = folder / f"{word}.wav"
        samples = 0.1 * rng.standard_normal(8000 + 1600 * number)
        soundfile.write(path, samples, 16000)
        utterances.append(
            Utterance(key=word, wav=str(path), txt=word, duration=len(samples) / 16000, speaker=f"s{number % 2}")
        )
    return utterances


def reader_of(utterances, augment=None, cache_dir=None, seed=0, **data):
    features = FeatureReader(cache_dir=cache_dir)
    return ExampleReader(
        utterances, tokenizer=Letters(), features=features, data=DataConfig(**data), augment=augment, seed=seed
    )


def assert_same(first, second):
    assert first.key == second.key
    np.testing.assert_array_equal(first.feats, second.feats)
    np.testing.assert_array_equal(first.tokens, second.tokens)


def test_without_augmentation_features_and_tokens_are_those_of_the_utterance(corpus):
    example = reader_of(corpus).read(corpus[1], epoch=5)
    np.testing.assert_array_equal(example.feats, compute_fbank(load_audio(corpus[1].wav), FbankConfig()))
    assert example.tokens.dtype == np.int64
    assert example.tokens.tolist() == Letters().encode("one")


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


@pytest.mark.parametrize("kind", ["kaldi", "whisper"])
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


def test_trimming_leaves_enough_for_the_transcript(corpus):
    augment = dataclasses.replace(NO_AUGMENTATION, spec_trim_frames=1000)
    utterance = dataclasses.replace(corpus[0], txt="abcdefghij")
    for epoch in range(50):
        example = reader_of(corpus, augment).read(utterance, epoch)
        assert FrameRate().encoder_frames(len(example.feats)) >= 10


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


def test_substitution_and_masks_are_applied(corpus):
    plain = reader_of(corpus).read(corpus[5], 0).feats
    for augment in (
        dataclasses.replace(NO_AUGMENTATION, spec_augment=SpecAugmentConfig()),
        dataclasses.replace(NO_AUGMENTATION, spec_sub=SpecSubConfig()),
    ):
        changed = [(reader_of(corpus, augment).read(corpus[5], epoch).feats != plain).mean() for epoch in range(10)]
        assert 0.05 < np.mean(changed) < 0.6


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
