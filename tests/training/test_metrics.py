import pytest

from unichoir.training.metrics import RunningMeans, Stopwatch, clock_time


def test_running_means_are_weighted_and_start_afresh() -> None:
    means = RunningMeans()
    means.add({"loss": 1.0, "rate": 5.0}, weight=1)
    means.add({"loss": 4.0}, weight=2)
    assert means.take() == {"loss": 3.0, "rate": 5.0}
    assert means.take() == {}


def test_stopwatch() -> None:
    now = 100.0
    watch = Stopwatch(done=0.2, spent=50.0, clock=lambda: now)
    assert watch.remaining(0.2) is None
    watch.add_audio(10)
    watch.add_audio(20, stalled=2.5)
    now = 110.0
    assert watch.spent() == 60
    assert watch.take_speed() == (3, 0.25)
    assert watch.remaining(0.4) == pytest.approx(30)
    now = 120.0
    assert watch.take_speed() == (0, 0)


def test_clock_time() -> None:
    assert [clock_time(seconds) for seconds in (None, 0.4, 59.6, 3725)] == ["-:--:--", "0:00:00", "0:01:00", "1:02:05"]
