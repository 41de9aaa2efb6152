"""Edges of words in audio with known loud and quiet parts."""

import warnings

import numpy as np
import pytest

from unichoir.engine.backend import ModelInfo
from unichoir.transcript.word_edges import (
    MAX_REACH,
    WIDENING,
    Loudness,
    join_loudness,
    measure_loudness,
    word_edges,
)

INFO = ModelInfo(vocab_size=6, encoder_dim=8, sos_id=2, eos_id=2)
RATE = INFO.subsampling_rate


def sound(length: int, *loud: tuple[int, int], dips: dict[int, float] | None = None) -> Loudness:
    """Frame levels: 0 dB in the given ranges, otherwise -50 dB and quiet. dips: levels of single loud frames in dB."""
    quiet = np.ones(length, dtype=np.bool_)
    for start, end in loud:
        quiet[start:end] = False
    levels = np.where(quiet, np.float32(-50), np.float32(0))
    for frame, level in (dips or {}).items():
        levels[frame] = level
    return Loudness(levels, quiet, RATE)


def test_words_reach_to_the_pauses_around_them() -> None:
    loudness = sound(200, (30, 60), (90, 130))
    assert word_edges([(40, 45), (100, 120)], loudness) == [(30, 60), (90, 130)]


def test_the_last_pause_before_the_first_word_and_the_first_after_the_last_one_count() -> None:
    # Clicks in the silence, 20 frames from the word, are none of it.
    loudness = sound(200, (17, 20), (40, 80), (100, 103))
    assert word_edges([(50, 70)], loudness) == [(40, 80)]


def test_between_words_the_sound_between_two_pauses_belongs_to_neither() -> None:
    loudness = sound(200, (20, 50), (70, 73), (90, 130))
    assert word_edges([(30, 40), (95, 120)], loudness) == [(20, 50), (90, 130)]


def test_a_short_quiet_stretch_is_a_closure_inside_a_word() -> None:
    loudness = sound(120, (20, 40), (45, 60), (90, 110))
    assert word_edges([(30, 52), (95, 100)], loudness) == [(20, 60), (90, 110)]
    # Between two words as well: they meet in it.
    (_, end), (start, _) = word_edges([(30, 32), (50, 52)], loudness)
    assert end == start
    assert 40 <= end < 45


def test_of_stretches_too_short_for_a_pause_the_longest_parts_the_words() -> None:
    loudness = sound(120, (10, 30), (37, 45), (55, 100))
    assert word_edges([(20, 25), (60, 90)], loudness) == [(10, 45), (55, 100)]
    shortest = sound(120, (10, 30), (36, 41), (46, 100))
    assert word_edges([(20, 25), (60, 90)], shortest) == [(10, 30), (36, 100)]


def test_a_word_that_ctc_is_certain_of_in_the_pause_after_it_ends_where_the_pause_begins() -> None:
    assert word_edges([(15, 40), (75, 90)], sound(120, (10, 25), (70, 100))) == [(10, 25), (70, 100)]


def test_words_that_touch_meet_where_it_is_least_loud() -> None:
    loudness = sound(100, (10, 90), dips={20: -12.0, 47: -9.0, 52: -11.0, 80: -13.0})
    assert word_edges([(30, 40), (60, 70)], loudness) == [(10, 52), (52, 90)]


def test_what_is_far_from_where_a_word_is_certain_is_not_believed() -> None:
    loudness = sound(400, (100, 300))
    far = 100 + MAX_REACH + 1
    assert word_edges([(far, 300 - MAX_REACH - 2)], loudness) == [(far - WIDENING, 300 - MAX_REACH - 2 + WIDENING)]
    assert word_edges([(100 + MAX_REACH, 300 - MAX_REACH)], loudness) == [(100, 300)]
    found = word_edges([(100, 100), (320 + MAX_REACH, 320 + MAX_REACH)], sound(400, (90, 200), (310, 390)))
    assert found == [(90, 100 + WIDENING), (320 + MAX_REACH - WIDENING, 390)]


def test_all_loud_and_all_quiet_have_no_edges_of_their_own() -> None:
    certain = [(30, 40), (60, 70)]
    (start, end), (after, last) = word_edges(certain, sound(100, (0, 100), dips={50: -1.0}))
    assert (start, end, after, last) == (-np.inf, 50, 50, np.inf)
    # Farther from both ends than a word reaches.
    (start, end), (after, last) = word_edges([(60, 60), (140, 140)], sound(200, (0, 200)))
    assert (start, last) == (60 - WIDENING, 140 + WIDENING)
    assert end == after
    # All quiet: nothing is believed but the places where the words are certain.
    edges = np.array(word_edges(certain, sound(100)))
    assert not np.isnan(edges).any()


def test_no_words_and_one_frame() -> None:
    assert word_edges([], sound(10)) == []
    assert word_edges([(0, 0)], sound(1, (0, 1))) == [(-np.inf, np.inf)]


@pytest.mark.parametrize("seed", range(20))
def test_edges_are_in_order_and_around_what_is_certain_in_any_sound(seed: int) -> None:
    """Also in one without any relation to the words: no edge passes a frame that is certain and loud."""
    rng = np.random.default_rng(seed)
    length = int(rng.integers(1, 300))
    levels = np.repeat(rng.normal(0, 10, length // 8 + 1), 8)[:length].astype(np.float32)
    loudness = Loudness(levels, levels < rng.normal(0, 5), RATE)
    places = np.sort(rng.integers(0, length, 2 * int(rng.integers(1, 6)))).tolist()
    certain = list(zip(places[::2], places[1::2], strict=True))
    edges = word_edges(certain, loudness)
    assert len(edges) == len(certain)
    assert not np.isnan(np.array(edges)).any()
    for (first, last), (start, end) in zip(certain, edges, strict=True):
        if not loudness.quiet[first]:
            assert start <= first
        if not loudness.quiet[last]:
            assert end >= last


def measured(levels_db: np.ndarray, num_frames: int) -> Loudness:
    """Run without allowing warnings, for example about a division by zero."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return measure_loudness(levels_db.astype(np.float32), INFO, num_frames)


def test_loudness_finds_the_speech_and_tells_its_level_in_dB() -> None:
    rng = np.random.default_rng(0)
    levels = rng.normal(-60, 1, 403)
    levels[100:300] = rng.normal(-20, 1, 200)
    found = measured(levels, 100)
    assert (len(found.levels), found.rate) == (400, RATE)
    assert np.median(found.levels[~found.quiet]) == pytest.approx(-20, abs=0.5)
    assert np.median(found.levels[found.quiet]) == pytest.approx(-60, abs=0.5)
    # Encoder frame i is around feature frame 4 i + 3, its first of four the feature frame 4 i + 2.
    changes = np.flatnonzero(np.diff(found.quiet))
    assert changes.tolist() == pytest.approx([97, 297], abs=1)


@pytest.mark.parametrize("share", [0.02, 0.9])
def test_what_is_quiet_does_not_depend_on_how_much_of_it_there_is_nor_on_the_volume(share: float) -> None:
    levels = np.full(1000, -20.0)
    levels[: int(1000 * share)] = -55
    levels[950:970] = -35  # a weak consonant
    for volume in (0, -30):
        found = measured(levels + volume, 249)
        assert found.quiet[: int(1000 * share) - 4].all()
        assert not found.quiet[int(1000 * share) :].any()


def test_silence_that_was_cut_to_zeros_does_not_make_quiet_speech_loud() -> None:
    levels = np.full(400, -20.0)
    levels[:100] = -300
    levels[100:200] = -60  # room noise
    assert measured(levels, 99).quiet[:190].all()


@pytest.mark.parametrize("level", [0.0, -160.0])
def test_a_sound_of_one_level_is_loud_everywhere(level: float) -> None:
    assert not measured(np.full(50, level), 10).quiet.any()
    rise = np.linspace(-6, 0, 400)
    assert not measured(rise + level, 99).quiet.any()


@pytest.mark.parametrize(("length", "num_frames"), [(0, 0), (3, 0), (7, 1), (1, 1)])
def test_hardly_any_sound(length: int, num_frames: int) -> None:
    found = measured(np.full(length, -30.0), num_frames)
    assert len(found.levels) == len(found.quiet) == RATE * num_frames
    assert np.isfinite(found.levels).all()


def test_parts_are_judged_by_their_own_speech() -> None:
    loud, soft = np.full(83, -20.0), np.full(83, -50.0)
    loud[:40] = -60
    soft[40:] = -90
    joined = join_loudness([measured(loud, 20), measured(soft, 20)])
    assert len(joined.quiet) == 160
    assert joined.quiet[:36].all()
    assert not joined.quiet[40:118].any()
    assert joined.quiet[122:].all()


@pytest.mark.parametrize("length", [1, 2, 3, 50, 997])
def test_background_and_speech_are_percentiles(length: int) -> None:
    """As numpy gives them."""
    rng = np.random.default_rng(length)
    levels = rng.normal(-30, 15, 4 * length).astype(np.float32)
    found = measure_loudness(levels, INFO, length)
    background, speech = np.percentile(found.levels.astype(np.float64), [1, 95])
    background = min(max(background, speech - 45), speech - 20)
    assert found.quiet.tolist() == (found.levels < background + 0.4 * (speech - background)).tolist()
