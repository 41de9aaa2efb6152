"""Verdicts and quantiles of invented measurements."""

import json
import math
import random
from dataclasses import replace
from typing import Any

import pytest

from unichoir.benchmark.serving.client import SessionResult
from unichoir.benchmark.serving.metrics import Metrics
from unichoir.benchmark.serving.probe import Snapshot
from unichoir.benchmark.serving.report import to_json, to_markdown
from unichoir.benchmark.serving.results import Load, Quantiles, ServingOptions, ServingResults
from unichoir.benchmark.serving.soak import Soak

LAG = "unichoir_partial_lag_seconds_bucket"


def snapshot(lags: dict[str, float] | None = None, **gauges: float) -> Snapshot:
    samples = {(LAG, (("le", bound),)): count for bound, count in (lags or {}).items()}
    return Snapshot(metrics=Metrics({**samples, **{(name, ()): value for name, value in gauges.items()}}))


def session(**changes: Any) -> SessionResult:
    good = SessionResult(
        key="a",
        outcome="completed",
        reference="one two",
        expected="ONE TWO",
        text="ONE TWO",
        audio_seconds=2.0,
        first_partial=0.3,
        final_latency=0.1,
        partial_intervals=(0.64, 0.65),
        lateness=(0.001, 0.002),
    )
    return replace(good, **changes)


def load(*sessions: SessionResult, lags: dict[str, float] | None = None) -> Load:
    before = {"0.5": 3.0, "0.75": 3.0, "+Inf": 3.0}
    grown = {"0.5": 103.0, "0.75": 103.0, "+Inf": 103.0} if lags is None else lags
    return Load(
        clients=4,
        chunk_seconds=0.64,
        seconds=10.0,
        sessions=sessions or (session(),) * 100,
        before=snapshot(before, process_cpu_seconds_total=5),
        after=snapshot(grown, process_cpu_seconds_total=9, process_resident_memory_bytes=2e8),
        clients_cpu_seconds=1.0,
    )


def test_all_is_well() -> None:
    good = load()
    assert good.objections() == []
    assert good.server_cpu == pytest.approx(0.4)
    assert good.clients_cpu == pytest.approx(0.1)
    assert good.word_errors is not None
    assert (good.word_errors.errors, good.word_errors.reference) == (0, 200)


@pytest.mark.parametrize(
    ("bad", "objection"),
    [
        (session(text="ONE"), "1 with wrong words"),
        (session(expected="ONE TWO THREE"), "1 with wrong words"),
        (session(text=""), "1 with wrong words"),
        (session(outcome="refused", reason="HTTP 503", text="", final_latency=None), "1 refused"),
        (session(outcome="failed", reason="closed", final_latency=None), "1 failed"),
    ],
)
def test_a_single_session_decides(bad: SessionResult, objection: str) -> None:
    assert load(*[session()] * 99, bad).objections() == [objection]


def test_latency_decides() -> None:
    """At the 95th percentile: 5 of 100 may be slow, 6 not."""
    slow = session(final_latency=0.5)
    assert load(*[session()] * 95, *[slow] * 5).objections() == []
    assert load(*[session()] * 94, *[slow] * 6).objections() == ["final p95 0.50 s"]
    assert load(*[session(final_latency=0.499)] * 100).objections() == []


@pytest.mark.parametrize(
    ("lags", "objection"),
    [
        ({"0.5": 103.0, "0.75": 103.0, "+Inf": 103.0}, None),
        ({"0.5": 101.0, "0.75": 103.0, "+Inf": 103.0}, None),  # half of the bucket: 0.625 s
        ({"0.5": 100.0, "0.75": 103.0, "+Inf": 103.0}, "partial lag p99 0.67 s"),
        ({"0.5": 101.0, "0.75": 101.0, "+Inf": 103.0}, "partial lag p99 above the largest bucket"),
        ({}, "the server does not report its partial lag"),
    ],
)
def test_partial_lag_decides(lags: dict[str, float], objection: str | None) -> None:
    """Of the 100 results since the first reading."""
    assert load(lags=lags).objections() == ([objection] if objection else [])


def test_nothing_completed_is_no_success() -> None:
    nothing = [session(outcome="refused", reason="HTTP 503", final_latency=None)] * 3
    assert load(*nothing).objections() == ["3 refused", "no session was completed"]


def test_quantiles_by_brute_force() -> None:
    assert Quantiles.of([]) is None
    rng = random.Random(1)
    for count in (1, 2, 3, 19, 20, 21, 99, 100, 101, 1000):
        values = [rng.random() for _ in range(count)]
        found = Quantiles.of(values)
        assert found is not None
        for percent, value in ((50, found.p50), (95, found.p95), (99, found.p99), (100, found.max)):
            enough = [each for each in values if 100 * sum(other <= each for other in values) >= percent * count]
            assert value == min(enough)
        assert found.count == count


def soak(*sessions: SessionResult, still_open: float = 0) -> Soak:
    warm = snapshot(unichoir_sessions=0, process_resident_memory_bytes=1e8)
    end = snapshot(unichoir_sessions=still_open, process_resident_memory_bytes=1.02e8)
    return Soak(sessions=sessions, warm_sessions=2, warm=warm, end=end)


def test_soak() -> None:
    dropped = session(outcome="dropped", text="")
    assert soak(session(), session(), dropped).objections() == []
    assert soak(session(), still_open=2).objections() == ["2 sessions still open at the end"]
    assert soak(session(), session(text="ONE")).objections() == ["1 with wrong words"]
    assert soak(session(), session(outcome="failed", reason="x")).objections() == ["1 failed"]
    blind = Soak(sessions=(session(),), warm_sessions=0, warm=snapshot(), end=snapshot())
    assert blind.objections() == ["the server does not report its open sessions"]


def test_report_tells_everything() -> None:
    wrong = session(key="b", text="NINE | TEN")
    failed = session(outcome="failed", reason="connection\nlost", final_latency=None)
    results = ServingResults(
        machine={"processor": "P"},
        model="m",
        server="unichoir serve",
        audio="some",
        options=ServingOptions(clients=(4,), play_seconds=1, chunk_size=16, left_chunks=4, threads=2, sessions=3),
        loads=(load(session(), wrong, failed, lags={"0.5": 3.0, "+Inf": 4.0}),),
        soak=soak(session(), session(outcome="dropped")),
        exit_code=0,
        server_errors=("{}",),
        seconds=12.0,
    )
    text = to_markdown(results)
    lines = text.splitlines()
    for line in (
        "| clients | 4 |",
        "| real time | no |",
        "| sessions completed | 2 |",
        "| refused, failed | 0, 1 |",
        "| words correct | 1 of 2 |",
        "| WER % | 50.0 |",
        "| final, ms: p50, p95, p99, max | 100, 100, 100, 100 |",
        f"| partial lag, ms: p50, p95, p99 | {', '.join(['above the largest bucket'] * 3)} |",
        "| 4 clients | 1 x failed: connection lost |",
        "| 4 clients | b: 'NINE \\| TEN' instead of 'ONE TWO' |",
        "| MB in memory | 100.0 | 102.0 | +2.0 |",
        "- server's end: exit code 0 after SIGTERM, 1 errors in its log",
    ):
        assert line in lines, line
    content = json.loads(json.dumps(to_json(results), allow_nan=False))
    (found,) = content["loads"]
    assert found["objections"] == ["1 failed", "1 with wrong words", "partial lag p99 above the largest bucket"]
    assert found["real_time"] is False
    assert [each["outcome"] for each in found["sessions"]] == ["completed", "completed", "failed"]
    assert found["partial_lag"]["p99"] == "inf"
    assert not math.isinf(found["final_latency"]["p95"])
    assert (content["soak"]["completed"], content["soak"]["dropped"]) == (1, 1)
