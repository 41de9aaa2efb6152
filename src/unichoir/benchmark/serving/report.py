"""Reports of a server's benchmark for terminals, in Markdown and in JSON; called by the command."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from rich.console import Group

from unichoir.benchmark.rendering import as_markdown, for_terminal, write_files
from unichoir.benchmark.serving.client import Outcome, SessionResult
from unichoir.benchmark.serving.probe import Snapshot
from unichoir.benchmark.serving.results import Load, Quantiles, ServingResults
from unichoir.benchmark.serving.soak import Soak
from unichoir.benchmark.serving.tables import head, tables
from unichoir.configuration import to_mapping

HISTOGRAMS = ("batch_size", "step_seconds", "first_partial_seconds", "partial_lag_seconds", "final_latency_seconds")


def to_markdown(results: ServingResults) -> str:
    """Return the report in Markdown: where and how it was measured, and all tables."""
    return as_markdown("Benchmark of the server", head(results), tables(results))


def to_terminal(results: ServingResults) -> Group:
    """Return the same report for a terminal."""
    return for_terminal(head(results), tables(results))


def to_json(results: ServingResults) -> dict[str, Any]:
    """Return all results, including every session; times in seconds, sizes in bytes."""
    return {
        "machine": dict(results.machine),
        "model": results.model,
        "server": results.server,
        "exit_code": results.exit_code,
        "server_errors": list(results.server_errors),
        "audio": results.audio,
        "seconds": round(results.seconds, 1),
        "options": to_mapping(results.options),
        "loads": [_load(load) for load in results.loads],
        "soak": None if results.soak is None else _soak(results.soak),
    }


def _load(load: Load) -> dict[str, Any]:
    errors = load.word_errors
    return {
        "clients": load.clients,
        "seconds": load.seconds,
        "real_time": not load.objections(),
        "objections": load.objections(),
        **{outcome: load.count(outcome) for outcome in ("completed", "refused", "failed")},
        "wrong_words": len(load.wrong),
        "word_error_rate": None if errors is None else errors.rate,
        "reference_words": None if errors is None else errors.reference,
        "final_latency": _quantiles(load.final_latency),
        "first_partial": _quantiles(load.first_partial),
        "partial_intervals": _quantiles(load.partial_intervals),
        "lateness": _quantiles(load.lateness),
        "audio_seconds": load.audio_seconds,
        "real_time_factor": load.real_time_factor,
        "partial_lag": {f"p{round(100 * each)}": _finite(load.partial_lag(each)) for each in (0.5, 0.95, 0.99)},
        "mean_batch": load.counted.mean("unichoir_batch_size"),
        "refusals": load.refusals,
        "server_cpu": load.server_cpu,
        "clients_cpu": load.clients_cpu,
        "before": _snapshot(load.before),
        "after": _snapshot(load.after),
        "histograms": {
            name: {str(bound): count for bound, count in load.counted.buckets(f"unichoir_{name}").items()}
            for name in HISTOGRAMS
        },
        "sessions": [_session(session) for session in load.sessions],
    }


def _soak(soak: Soak) -> dict[str, Any]:
    return {
        "objections": soak.objections(),
        **{outcome: soak.count(outcome) for outcome in get_args(Outcome)},
        "wrong_words": len(soak.wrong),
        "warm_sessions": soak.warm_sessions,
        "warm": _snapshot(soak.warm),
        "end": _snapshot(soak.end),
        "reasons": dict(soak.reasons),
    }


def _session(session: SessionResult) -> dict[str, Any]:
    """Return the session as a dict that keeps only the largest lateness of its blocks."""
    content = asdict(session)
    lateness = content.pop("lateness")
    return {**content, "max_lateness": max(lateness, default=None)}


def _snapshot(snapshot: Snapshot) -> dict[str, Any]:
    names = ("memory", "cpu_seconds", "threads", "files", "tasks", "open_sessions")
    return {name: getattr(snapshot, name) for name in names}


def _quantiles(quantiles: Quantiles | None) -> dict[str, Any] | None:
    return None if quantiles is None else asdict(quantiles)


def _finite(value: float | None) -> float | str | None:
    # JSON has no infinity.
    return "inf" if value == math.inf else value


def write_report(results: ServingResults, directory: Path) -> None:
    """Write results.json and results.md."""
    write_files(to_json(results), to_markdown(results), directory)
