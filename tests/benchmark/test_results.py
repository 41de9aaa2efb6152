"""Medians, ratios and reports of hand-made samples."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from unichoir.benchmark.ceilings import Ceilings
from unichoir.benchmark.plan import BenchmarkOptions, Candidate, Cell, Variant, make_plan
from unichoir.benchmark.report import to_json, to_markdown, to_terminal, write_report
from unichoir.benchmark.results import ModelFacts, Results, Sample, Spread, entropy
from unichoir.benchmark.tables import tables
from unichoir.benchmark.worker import Loaded
from unichoir.network.config import NAMED_CONFIGS

MOE = Variant(config="moe-1b", engine="onnx", precision="int8")
DENSE = Variant(config="dense-225m", engine="onnx", precision="int8")
SHORT = Cell(kind="utterance", seconds=10.0)
CHUNK, CHUNKS = Cell(kind="chunk", seconds=0.64), Cell(kind="chunk", seconds=0.64, rows=16)


def utterance(number: int, encoder: float) -> Sample:
    parts = {"features": 0.1, "encoder": encoder, "greedy": 0.1, "beam": 0.2, "rescoring": 0.2}
    return Sample(round=number, parts=parts)


@pytest.fixture
def results() -> Results:
    """The machine is twice as slow in round 2, and a sample of round 3 has no partner."""
    options = BenchmarkOptions(engines=("onnx",), precisions=("int8",), seconds=(10.0,))
    candidates = {name: Candidate(name=name, model=NAMED_CONFIGS[name]) for name in ("moe-1b", "dense-225m")}
    plan = make_plan(list(candidates.values()), options)
    samples = {
        (variant, cell): [Sample(round=1, parts={"encoder": 0.5})]
        for variant in plan.cells
        for cell in plan.cells[variant]
    }
    samples[MOE, SHORT] = [utterance(1, 0.6), utterance(2, 1.4), utterance(3, 9.8)]
    samples[DENSE, SHORT] = [utterance(1, 0.3), utterance(2, 0.6), utterance(4, 0.1)]
    samples[MOE, CHUNK] = [Sample(round=number, parts={"encoder": 0.2}) for number in (5, 6)]
    samples[MOE, CHUNKS] = [Sample(round=5, parts={"encoder": 0.8}), Sample(round=6, parts={"encoder": 1.6})]
    loaded = Loaded(seconds=1.5, bytes_on_disk=10**9, parameters=10**9, memory=2 * 10**9, tokens=45)
    return Results(
        machine={"processor": "a fast one"},
        audio="noise",
        candidates=candidates,
        options=options,
        plan=plan,
        facts={variant: ModelFacts(loaded=loaded, memory=3 * 10**9) for variant in plan.cells},
        samples=samples,
        shares={"moe-1b": {"encoder.a": (0.1, 0.2, 0.3, 0.4, 0, 0, 0, 0), "encoder.b": (0.5, 0.5, 0, 0, 0, 0, 0, 0)}},
        ceilings=Ceilings(bandwidth=1e10, products={"fp32": 1e11, "int8": 4e11}),
        seconds=60.0,
    )


def test_spread() -> None:
    assert Spread.of([4.0, 1.0, 3.0, 2.0, 5.0]) == Spread(median=3.0, low=2.0, high=4.0, count=5)
    assert Spread.of([1.0, 2.0]) == Spread(median=1.5, low=1.25, high=1.75, count=2)


def test_sums(results: Results) -> None:
    assert results.spread(MOE, SHORT, "whole greedy").median == pytest.approx(0.1 + 1.4 + 0.1)
    assert results.spread(MOE, SHORT, "whole rescoring").median == pytest.approx(0.1 + 1.4 + 0.2 + 0.2)
    assert results.spread(MOE, SHORT, "search").median == pytest.approx(0.4)


def test_ratios_are_of_the_same_rounds(results: Results) -> None:
    by_title = {each.title: each for each in results.plan.comparisons}
    comparison = by_title["moe-1b onnx int8 / dense-225m onnx int8: 10 s"]
    encoder, whole = results.ratio(comparison, "encoder"), results.ratio(comparison, "whole greedy")
    assert encoder is not None
    assert whole is not None
    assert encoder.count == 2
    assert encoder.median == pytest.approx((0.6 / 0.3 + 1.4 / 0.6) / 2)
    assert whole.median == pytest.approx((0.8 / 0.5 + 1.6 / 0.8) / 2)
    streams = by_title["moe-1b onnx int8: each of 16 streams / 1 stream"]
    each = results.ratio(streams, "encoder")
    assert each is not None
    assert each.median == pytest.approx((0.8 / 16 / 0.2 + 1.6 / 16 / 0.2) / 2)
    assert results.ratio(streams, "whole greedy") is None


def test_entropy() -> None:
    assert entropy([0.25] * 4) == pytest.approx(1)
    assert entropy([1.0, 0.0]) == 0
    assert entropy([0.5, 0.5, 0.0, 0.0]) == pytest.approx(0.5)


def test_mean_shares(results: Results) -> None:
    assert results.mean_shares("moe-1b")[:4] == pytest.approx([0.45, 0.4, 0.1, 0.05])
    assert results.mean_shares("dense-225m") == []


def test_tables(results: Results) -> None:
    by_title = {table.title: table for table in tables(results)}
    for table in by_title.values():
        assert {len(row) for row in table.rows} == {len(table.columns)}
    whole = {
        row[0]: dict(zip(by_title["Whole utterances"].columns[:8], row, strict=False))
        for row in by_title["Whole utterances"].rows
    }
    assert whole["moe-1b onnx int8"]["encoder"] == "1400"
    assert whole["moe-1b onnx int8"]["whole greedy"] == "1600 (1200 to 5800)"
    roofline = by_title["Roofline"]
    row = next(row for row in roofline.rows if row[:2] == ("dense-225m onnx int8", "chunk of 0.64 s"))
    assert row[5] == "500"
    streams = next(row for row in by_title["Streaming"].rows if row[:2] == ("moe-1b onnx int8", "16"))
    assert streams[2:5] == ("1200 (1000 to 1400)", "75.0", "0.1172")


def test_markdown_and_terminal_say_the_same(results: Results) -> None:
    markdown = to_markdown(results)
    console = Console(file=io.StringIO(), width=240)
    console.print(to_terminal(results))
    shown = console.file.getvalue()
    for text in ("a fast one", "1600 (1200 to 5800)", "45", "0.1172"):
        assert text in markdown
        assert text in shown


def test_json(results: Results, tmp_path: Path) -> None:
    write_report(results, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert content == json.loads(json.dumps(to_json(results)))
    assert (tmp_path / "out" / "results.md").read_text(encoding="utf-8") == to_markdown(results)
    (ratio,) = [each for each in content["ratios"] if each["title"].endswith("int8 / dense-225m onnx int8: 10 s")]
    assert ratio["whole_greedy"]["median"] == pytest.approx(1.8)
    assert ratio["numerator"]["cell"] == {"kind": "utterance", "seconds": 10.0, "rows": 1}
    (measured,) = [
        each
        for each in content["measurements"]
        if (each["config"], each["load"], each["cell"]) == ("dense-225m", "trained", ratio["denominator"]["cell"])
    ]
    assert [sample["round"] for sample in measured["samples"]] == [1, 2, 4]
    roofline = measured["roofline"]
    expected = roofline["macs"] / 4e11 + roofline["attention_macs"] / 1e11
    assert roofline["operations_seconds"] == pytest.approx(expected)
    assert roofline["reading_seconds"] == pytest.approx(roofline["weight_bytes"] / 1e10)
    assert content["expert_load"]["moe-1b"]["layers"]["encoder.b"]["entropy"] == pytest.approx(1 / 3)
