"""Pieces have no gaps between them, respect the limits and are cut at pauses, in whatever blocks audio arrives."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.samples import CLIPS

from unichoir.audio.io import load_audio
from unichoir.errors import DecodingError
from unichoir.recognition.segmentation import Piece, Segmenter
from unichoir.recognition.vad_options import VadOptions

RATE = 16000
HOP = 0.02


class Said:
    """A scripted detector: returns the given probability of each hop, `late` samples late."""

    hop_seconds = HOP

    def __init__(self, probabilities: Sequence[float], rate: int, late: int = 0) -> None:
        self.probabilities, self.hop, self.late = probabilities, round(HOP * rate), late
        self.heard = self.told = 0

    def process(self, samples: np.ndarray, last: bool = False) -> np.ndarray:
        self.heard += len(samples)
        known = len(self.probabilities) if last else max(self.heard - self.late, 0) // self.hop
        found = self.probabilities[self.told : known]
        self.told = max(known, self.told)
        return np.array(found, dtype=np.float32)


def pieces_of(samples, rate, limit, detector=None, options=None, sizes=()) -> list[Piece]:
    segmenter, found = Segmenter(rate, options or VadOptions(), limit, detector), []
    for block in np.split(samples, np.unique(np.clip(np.cumsum(sizes, dtype=int), 0, len(samples)))):
        found += segmenter.process(block)
    return [*found, *segmenter.process(samples[:0], last=True)]


def check_tiling(pieces: Sequence[Piece], samples: np.ndarray) -> None:
    assert [piece.start for piece in pieces] == [0, *(piece.end for piece in pieces[:-1])]
    assert pieces[-1].end == len(samples)
    for piece in pieces:
        assert piece.end > piece.start
        if piece.samples is not None:
            np.testing.assert_array_equal(piece.samples, samples[piece.start : piece.end])


def cut_as_a_whole(samples: np.ndarray, rate: int, limit: int) -> Iterator[tuple[int, int]]:
    """Cut at the quietest places, from the complete recording: the sum of squares around each hop."""
    start, hop = 0, rate // 100
    while (left := len(samples) - start) > limit:
        earliest = min(max(left - limit, limit // 4), limit // 2)
        latest = min(limit, left - limit // 4)
        window = samples[start : start + limit].astype(np.float64)
        energy = [float((window[at * hop : (at + 1) * hop] ** 2).sum()) for at in range(limit // hop)]
        around = {}
        for at in range(-(-earliest // hop), latest // hop):
            near = range(at - 10, at + 11)
            around[at] = sum(energy[place] if 0 <= place < len(energy) else max(energy) for place in near)
        quietest = [at for at, value in around.items() if np.isclose(value, min(around.values()), rtol=1e-9, atol=0)]
        end = start + quietest[len(quietest) // 2] * hop + hop // 2
        yield start, end
        start = end
    yield start, len(samples)


@settings(max_examples=60, deadline=None)
@given(
    num_samples=st.integers(1, 60_000),
    rate=st.sampled_from([1000, 4000, 11025]),
    limit=st.floats(1.0, 8.0),
    seed=st.integers(0, 3),
    sizes=st.lists(st.integers(0, 9000), max_size=8),
)
def test_without_a_detector_cuts_are_those_of_somebody_who_has_it_all(num_samples, rate, limit, seed, sizes) -> None:
    samples = np.random.default_rng(seed).normal(0, 0.1, num_samples).astype(np.float32) * (seed > 0)
    pieces = pieces_of(samples, rate, limit, sizes=sizes)
    check_tiling(pieces, samples)
    lengths = [piece.end - piece.start for piece in pieces]
    assert max(lengths) <= limit * rate
    assert len(pieces) == 1 or min(lengths) >= int(limit * rate) // 4 - 1
    assert [(piece.start, piece.end) for piece in pieces] == list(cut_as_a_whole(samples, rate, int(limit * rate)))


def test_short_audio_and_no_limit_are_one_piece() -> None:
    samples = np.zeros(RATE * 30, dtype=np.float32)
    for length, limit in ((20, 20.0), (30, None)):
        (piece,) = pieces_of(samples[: RATE * length], RATE, limit)
        assert (piece.start, piece.end) == (0, RATE * length)


def test_cuts_are_in_the_pauses() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(0, 0.1, 60 * RATE).astype(np.float32)
    pauses = [(11.0, 11.4), (18.0, 18.25), (29.5, 30.0), (44.0, 44.3)]
    for first, last in pauses:
        samples[int(first * RATE) : int(last * RATE)] *= 0.01
    cuts = [piece.end / RATE for piece in pieces_of(samples, RATE, 20.0)][:-1]
    assert len(cuts) == 3
    for cut in cuts:
        assert any(first + 0.05 < cut < last - 0.05 for first, last in pauses)


def test_in_silence_the_cut_is_far_from_what_surrounds_it() -> None:
    samples = np.full(30 * RATE, 0.1, dtype=np.float32)
    samples[14 * RATE : 16 * RATE] = 0.0
    first, _ = pieces_of(samples, RATE, 20.0)
    assert first.end / RATE == pytest.approx(15.0, abs=0.05)


def test_speech_is_cut_between_utterances() -> None:
    pause = np.zeros(RATE // 2, dtype=np.float32)
    parts, pauses, length = [], [], 0
    for path in CLIPS * 5:
        speech = load_audio(path, sample_rate=RATE)
        pauses.append((length + len(speech), length + len(speech) + len(pause)))
        parts += [speech, pause]
        length += len(speech) + len(pause)
    cuts = [piece.end for piece in pieces_of(np.concatenate(parts), RATE, 20.0)][:-1]
    assert len(cuts) >= 2
    for cut in cuts:
        assert any(first <= cut <= last for first, last in pauses)


def spoken(pieces: Sequence[Piece], rate: int = 1000) -> list[tuple[float, float]]:
    return [(piece.start / rate, piece.end / rate) for piece in pieces if piece.samples is not None]


def probabilities(seconds: float, *speech: tuple[float, float], value: float = 0.9) -> list[float]:
    """Return 0.05, but `value` within speech."""
    found = np.full(round(seconds / HOP), 0.05)
    for begin, end in speech:
        found[round(begin / HOP) : round(end / HOP)] = value
    return found.tolist()


@pytest.mark.parametrize("late", [0, 170])
def test_speech_is_padded_and_short_pauses_belong_to_it(late: int) -> None:
    options = VadOptions(min_silence_seconds=0.5, speech_pad_seconds=0.2, min_speech_seconds=0.06)
    samples = np.arange(10_000, dtype=np.float32)
    told = probabilities(10.0, (0.1, 1.0), (1.4, 2.0), (2.5, 3.0), (5.0, 5.04), (6.0, 6.06), (9.9, 10.0))
    pieces = pieces_of(samples, 1000, 20.0, Said(told, 1000, late), options, [7] * 1500)
    check_tiling(pieces, samples)
    # The pause of half a second is one; padding ends with the audio; 40 ms are a click, 60 ms are not.
    assert spoken(pieces) == [(0.0, 2.2), (2.3, 3.2), (5.8, 6.26), (9.7, 10.0)]


def test_what_has_begun_goes_on_while_it_is_half_likely() -> None:
    options = VadOptions(threshold=0.5, hysteresis=0.2, speech_pad_seconds=0.0)
    samples = np.zeros(6000, np.float32)
    told = probabilities(6.0, (1.0, 3.0), value=0.4)
    assert spoken(pieces_of(samples, 1000, 20.0, Said(told, 1000), options)) == []
    told[50] = 0.5
    assert spoken(pieces_of(samples, 1000, 20.0, Said(told, 1000), VadOptions(min_speech_seconds=0.0))) == [(0.8, 3.2)]
    strict = VadOptions(threshold=0.5, hysteresis=0.05, speech_pad_seconds=0.0, min_speech_seconds=0.0)
    assert spoken(pieces_of(samples, 1000, 20.0, Said(told, 1000), strict)) == [(1.0, 1.02)]


def test_long_speech_is_cut_in_the_longest_pause_and_without_any_where_it_is_quietest() -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 40_000).astype(np.float32)
    samples[15_000:15_300] *= 0.01  # quieter than the pauses, but louder ones are known to be pauses
    told = np.array(probabilities(40.0, (0.0, 40.0)))
    for begin, end in ((12.0, 12.2), (13.0, 13.4), (16.0, 16.1)):
        told[round(begin / HOP) : round(end / HOP)] = 0.1
    pieces = pieces_of(samples, 1000, 20.0, Said(told.tolist(), 1000))
    assert pieces[0].end == 13_200
    check_tiling(pieces, samples)
    pieces = pieces_of(samples, 1000, 20.0, Said(probabilities(40.0, (0.0, 40.0)), 1000))
    assert 15_100 < pieces[0].end < 15_200


@settings(max_examples=100, deadline=None)
@given(
    runs=st.lists(st.tuples(st.integers(1, 150), st.sampled_from([0.1, 0.4, 0.9])), min_size=1, max_size=30),
    sizes=st.lists(st.integers(0, 3000), max_size=20),
    limit=st.floats(1.0, 5.0),
    late=st.integers(0, 100),
    silence=st.sampled_from([0.1, 0.5, 3.0]),
)
def test_whatever_is_said_nothing_of_it_is_lost_and_blocks_change_nothing(runs, sizes, limit, late, silence) -> None:
    told = [value for length, value in runs for _ in range(length)]
    samples = np.random.default_rng(len(told)).normal(0, 0.1, len(told) * 20 - 7).astype(np.float32)
    options = VadOptions(min_silence_seconds=silence, speech_pad_seconds=min(0.2, silence / 2), min_speech_seconds=0.0)
    pieces = pieces_of(samples, 1000, limit, Said(told, 1000, late), options, sizes)
    check_tiling(pieces, samples)
    assert all(piece.end - piece.start <= limit * 1000 for piece in pieces if piece.samples is not None)
    heard = np.zeros(len(samples), dtype=bool)
    for piece in pieces:
        heard[piece.start : piece.end] = piece.samples is not None
    loud = np.repeat(np.array(told) >= 0.5, 20)[: len(samples)]
    pad = round(options.speech_pad_seconds * 1000)
    for place in np.flatnonzero(loud):
        assert heard[max(place - pad, 0) : place + pad + 1].all()
    # And nothing else is heard: a pause ends with the silence that makes it one.
    near = np.repeat(np.array(told) >= 0.35, 20)[: len(samples)]
    reach = round(silence * 1000)
    for place in np.flatnonzero(heard):
        assert near[max(place - reach, 0) : place + reach + 1].any()
    again = pieces_of(samples, 1000, limit, Said(told, 1000), options, [1700] * 60)
    assert spoken(again) == spoken(pieces)


@pytest.mark.parametrize(
    "fields",
    [
        {"threshold": 1.5},
        {"threshold": float("nan")},
        {"threshold": "high"},
        {"hysteresis": 0.6},
        {"min_silence_seconds": 0},
        {"min_silence_seconds": True},
        {"min_speech_seconds": -1},
        {"speech_pad_seconds": 0.3},
    ],
)
def test_options_that_make_no_sense(fields) -> None:
    with pytest.raises(DecodingError, match=f"^vad_options: {next(iter(fields))}: "):
        VadOptions(**fields)
