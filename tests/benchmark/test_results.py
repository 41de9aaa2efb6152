"""Medians, ratios and reports of hand-made samples."""

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from unichoir.benchmark.ceilings import Ceilings, Rate
from unichoir.benchmark.plan import BenchmarkOptions, Candidate, Cell, Variant, make_plan
from unichoir.benchmark.report import to_json, to_markdown, to_terminal, write_report
from unichoir.benchmark.results import ModelFacts, Results, Sample, Spread, entropy
from unichoir.benchmark.tables import tables
from unichoir.benchmark.worker import PARTS, Loaded
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
        ceilings=Ceilings(
            bandwidth=1e10,
            rates={
                "fp32": [Rate(way="ours", per_second=1e11, exact=True)],
                "int8": [
                    Rate(way="a slow one", per_second=2e11, exact=True),
                    Rate(way="a fast one", per_second=4e11, exact=True),
                    Rate(way="a wrong one", per_second=9e11, exact=False),
                ],
            },
        ),
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
    limits = {row[:2]: row[2:] for row in by_title["The machine's ceiling"].rows}
    assert limits["products in int8", "a slow one"] == ("200 GMAC/s", "no")
    assert limits["products in int8", "a fast one"] == ("400 GMAC/s", "yes")
    assert limits["products in int8", "a wrong one"] == ("900 GMAC/s", "no, inexact")
    assert limits["reading from memory", "numpy"] == ("10.0 GB/s", "yes")
    parts = {row[::2][:2]: row[3:] for row in by_title["Parts of whole utterances"].rows}
    # The median repetition of moe-1b takes 0.1 + 1.4 + 0.1 s with greedy search, and 0.1 + 1.4 + 0.2 + 0.2 s with
    # rescoring.
    assert parts["moe-1b onnx int8", "whole greedy"] == ("6.2", "87.5", "6.2", "-", "-", "6.2")
    assert parts["moe-1b onnx int8", "whole rescoring"] == ("5.3", "73.7", "-", "10.5", "10.5", "21.1")
    streams = next(row for row in by_title["Streaming"].rows if row[:2] == ("moe-1b onnx int8", "16"))
    assert streams[2:5] == ("1200 (1000 to 1400)", "75.0", "0.1172")


# Times in ms of a model whose multiplications are counted by hand, and what the first table makes of them: the share,
# the limit, the share of operations, and that of reading.
#
# Two convolutions of 8 channels halve 80 bands to 39 and 19, with 2 x 39 and 19 places in each frame: 9 x 8 x 78 and
# 72 x 8 x 19 multiplications, then 152 x 32. The block has 2 x (2 x 32 x 48), 4 x 32 x 32, 32 x 64, 7 x 32 and 32 x 32.
# That is 34,960 for a frame, with 19,048 weights, and CTC adds 32 x 50 to both.
#
# 10 s are 998 windows and 248 frames: 248 x 36,560 multiplications, and 2 x 32 x 248 x 248 of attention. A chunk has
# 16 x 34,960 and 2 x 32 x 16 x 80.
#
# At 1 GMAC/s in int8, 0.5 in fp32 and 9.524 MB/s: 16.94 ms for operations in 10 s, and 2.17 for reading; for a chunk
# 0.723 and 2. In fp32: 26.0 and 8.67; 1.28 and 8.
BY_HAND = {
    ("int8", "10 s"): (33.9, ("50", "operations", "50", "6")),
    ("int8", "encoder, 10 s x 2"): (50, ("68", "operations", "68", "4")),
    ("int8", "chunk of 0.64 s"): (4, ("50", "reading", "18", "50")),
    ("int8", "chunk of 0.64 s, 16 streams"): (15, ("77", "operations", "77", "13")),
    ("fp32", "10 s"): (52, ("50", "operations", "50", "17")),
    ("fp32", "encoder, 10 s x 2"): (100, ("52", "operations", "52", "9")),
    ("fp32", "chunk of 0.64 s"): (10, ("80", "reading", "13", "80")),
    ("fp32", "chunk of 0.64 s, 16 streams"): (40, ("51", "operations", "51", "20")),
}


def test_share_of_the_ceiling(tiny: Callable[..., Candidate], results: Results) -> None:
    candidate = tiny(experts=0)
    options = BenchmarkOptions(engines=("onnx",), seconds=(10.0,), batch=(1, 2), full=True)
    plan = make_plan([candidate], options)
    rates = {name: [Rate(way="one", per_second=each, exact=True)] for name, each in (("fp32", 5e8), ("int8", 1e9))}
    others = dict.fromkeys(PARTS, 1.0)
    samples = {
        (variant, cell): [
            Sample(round=1, parts={**others, "encoder": BY_HAND[variant.precision, cell.name][0] / 1000}),
        ]
        for variant in plan.cells
        for cell in plan.cells[variant]
    }
    made = dataclasses.replace(
        results,
        candidates={"tiny": candidate},
        options=options,
        plan=plan,
        samples=samples,
        facts={},
        shares={},
        ceilings=Ceilings(bandwidth=9.524e6, rates=rates),
    )
    first = tables(made)[0]
    assert first.title == "Share of the machine's ceiling"
    assert "100 %" in first.note
    assert {(row[0].split()[-1], row[1]): row[2:6] for row in first.rows} == {
        place: expected for place, (_, expected) in BY_HAND.items()
    }
    chunk = next(each for each in to_json(made)["measurements"] if each["cell"]["rows"] == 16)["roofline"]
    assert (chunk["limit"], chunk["macs"], chunk["attention_macs"]) == ("operations", 16 * 559_360, 16 * 81_920)


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
