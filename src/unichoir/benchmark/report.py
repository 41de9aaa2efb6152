"""Reports of a benchmark for terminals, in Markdown and in JSON; called by the command."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group

from unichoir.benchmark.plan import Cell, Variant
from unichoir.benchmark.rendering import as_markdown, for_terminal, write_files
from unichoir.benchmark.results import Results, Spread, entropy
from unichoir.benchmark.roofline import ideal_of, weight_bytes, work_of
from unichoir.benchmark.tables import head, tables
from unichoir.configuration import to_mapping


def to_markdown(results: Results) -> str:
    """Return the report in Markdown: where and how it was measured, and all tables."""
    return as_markdown("Benchmark", head(results), tables(results))


def to_terminal(results: Results) -> Group:
    """Return the same report for a terminal."""
    return for_terminal(head(results), tables(results))


def to_json(results: Results) -> dict[str, Any]:
    """Return all results, including every repetition; times in seconds, sizes in bytes."""
    return {
        "machine": dict(results.machine),
        "audio": results.audio,
        "seconds": round(results.seconds, 1),
        "options": to_mapping(results.options),
        "configs": {name: to_mapping(candidate.model) for name, candidate in results.candidates.items()},
        "left_out": list(results.plan.left_out),
        "ceilings": asdict(results.ceilings),
        "models": [
            {**to_mapping(variant), **asdict(facts.loaded), "memory_at_most": facts.memory}
            for variant, facts in results.facts.items()
        ],
        "measurements": [_measurement(results, variant, cell) for variant, cell in results.samples],
        "ratios": [
            {
                "title": comparison.title,
                "numerator": _side(*comparison.numerator),
                "denominator": _side(*comparison.denominator),
                **{
                    part.replace(" ", "_"): _spread(results.ratio(comparison, part))
                    for part in ("whole greedy", "whole rescoring", "encoder")
                },
            }
            for comparison in results.plan.comparisons
        ],
        "expert_load": {
            config: {
                "mean_sorted_shares": results.mean_shares(config),
                "layers": {
                    name: {"shares": list(shares), "entropy": entropy(shares)} for name, shares in layers.items()
                },
            }
            for config, layers in results.shares.items()
        },
    }


def _side(variant: Variant, cell: Cell) -> dict[str, Any]:
    return {**to_mapping(variant), "cell": to_mapping(cell)}


def _measurement(results: Results, variant: Variant, cell: Cell) -> dict[str, Any]:
    samples = results.samples[variant, cell]
    content = {
        **_side(variant, cell),
        "parts": {part: _spread(results.spread(variant, cell, part)) for part in samples[0].parts},
        "samples": [{"round": sample.round, **sample.parts} for sample in samples],
    }
    work = work_of(results, variant, cell)
    ideal = ideal_of(results, variant, work)
    content["roofline"] = {
        "macs": work.products,
        "attention_macs": work.attention,
        "weight_bytes": work.weights * weight_bytes(variant),
        "operations_seconds": ideal.operations,
        "reading_seconds": ideal.reading,
        "limit": ideal.limit,
        "share": ideal.seconds / results.spread(variant, cell, "encoder").median,
    }
    return content


def _spread(spread: Spread | None) -> dict[str, Any] | None:
    return None if spread is None else asdict(spread)


def write_report(results: Results, directory: Path) -> None:
    """Write results.json and results.md."""
    write_files(to_json(results), to_markdown(results), directory)
