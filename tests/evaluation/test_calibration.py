"""Calibration against numbers worked out by hand and against samples of a known calibration."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from unichoir.evaluation.calibration import Calibration, correct_words, measure_calibration, plot_calibration
from unichoir.transcript.results import Word


def word(text: str, confidence: float) -> Word:
    return Word(text=text, start_ms=0, end_ms=1, confidence=confidence)


def found_of(judged: Sequence[tuple[float, bool]]) -> Calibration:
    found = measure_calibration(judged)
    assert found is not None
    return found


def test_figures_worked_out_by_hand() -> None:
    found = found_of([(0.92, True), (0.98, False), (0.25, False), (0.25, True), (1.0, True)])
    # Bins: 0.2 to 0.3 with mean 0.25 and half right; 0.9 to 1 with mean 0.9667 and two of three right.
    assert [(one.count, round(one.confidence, 4), round(one.accuracy, 4)) for one in found.bins] == [
        (2, 0.25, 0.5),
        (3, 0.9667, 0.6667),
    ]
    assert found.ece == pytest.approx((2 * 0.25 + 3 * 0.3) / 5)
    prior = -(3 * math.log2(0.6) + 2 * math.log2(0.4))
    loss = -(math.log2(0.92) + math.log2(0.02) + math.log2(0.75) + math.log2(0.25) + math.log2(0.9999))
    assert found.nce == pytest.approx((prior - loss) / prior)


def test_what_is_calibrated_has_no_error_and_what_is_shifted_has_the_shift() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.2, 0.8, 100_000)
    right = (rng.uniform(size=len(truth)) < truth).tolist()
    assert found_of(list(zip(truth.tolist(), right, strict=True))).ece < 0.01
    shifted = found_of(list(zip((truth + 0.15).tolist(), right, strict=True)))
    assert shifted.ece == pytest.approx(0.15, abs=0.01)


def test_who_says_the_share_of_right_words_of_each_tells_nothing() -> None:
    assert found_of([(0.75, place % 4 > 0) for place in range(100)]).nce == pytest.approx(0)
    assert found_of([(0.5, True)]).nce is None
    assert measure_calibration([]) is None


def test_figures_survive_json() -> None:
    for judged in ([(0.9, True), (0.3, False)], [(0.5, True)]):
        found = found_of(judged)
        assert Calibration.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found


def test_words_are_judged_as_the_word_error_rate_counts_them() -> None:
    words = [word("Six,", 0.9), word("rock-n-roll", 0.8), word("-", 0.1), word("four", 0.7)]
    expected = [(0.9, True), (0.8, True), (0.8, True), (0.8, False), (0.7, True)]
    assert correct_words("six rock n rule five four", words) == expected
    assert correct_words("six", []) == []


def test_the_picture_is_the_same_each_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = found_of([(0.9, True), (0.3, False)])
    for name in ("a.svg", "b.svg"):
        plot_calibration({"dev": found, "other": found}, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")
