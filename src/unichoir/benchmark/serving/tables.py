"""The tables of a report on a server as text; called by `report`."""

import math
from collections.abc import Callable, Mapping, Sequence

from unichoir.benchmark.serving.metrics import largest_bound
from unichoir.benchmark.serving.outcomes import Outcomes
from unichoir.benchmark.serving.results import MAX_FINAL_SECONDS, Load, Quantiles, ServingResults
from unichoir.benchmark.serving.soak import AT_A_TIME
from unichoir.benchmark.tables import Table

MAX_EXAMPLES = 5
"""The most wrong texts, and lines of the server's log, to show."""
BATCH_SIZE = "unichoir_batch_size"


def head(results: ServingResults) -> Sequence[tuple[str, str]]:
    """Return where and how the benchmark was run: names and values."""
    end = "not stopped" if results.exit_code is None else f"exit code {results.exit_code} after SIGTERM"
    errors = f", {len(results.server_errors)} errors in its log" if results.server_errors else ""
    return [
        *results.machine.items(),
        ("model", results.model),
        ("server", results.server),
        ("server's end", end + errors),
        ("audio", results.audio),
        ("duration", f"{results.seconds:.0f} s in total"),
    ]


def tables(results: ServingResults) -> list[Table]:
    """Return all tables that have at least one row."""
    made = [_clients(results), _server(results), _trouble(results), _soak(results)]
    return [table for table in made if table.rows]


def _by_load(title: str, rows: Mapping[str, Callable[[Load], str]], results: ServingResults, note: str) -> Table:
    """Make a table with one column for each number of clients."""
    columns = ("clients", *(str(load.clients) for load in results.loads))
    filled = tuple((name, *(show(load) for load in results.loads)) for name, show in rows.items())
    return Table(title=title, columns=columns, rows=filled if results.loads else (), note=note)


def _clients(results: ServingResults) -> Table:
    rows: dict[str, Callable[[Load], str]] = {
        "real time": lambda load: "no" if load.objections() else "yes",
        "sessions completed": lambda load: str(load.count("completed")),
        "refused, failed": lambda load: f"{load.count('refused')}, {load.count('failed')}",
        "words correct": lambda load: f"{load.count('completed') - len(load.wrong)} of {load.count('completed')}",
        "WER %": lambda load: "-" if load.word_errors is None else f"{100 * load.word_errors.rate:.1f}",
        "final, ms: p50, p95, p99, max": lambda load: _milliseconds(load.final_latency, "p50", "p95", "p99", "max"),
        "first partial, ms: p50, p95, p99": lambda load: _milliseconds(load.first_partial, "p50", "p95", "p99"),
        "interval, ms: p50, p95, max": lambda load: _milliseconds(load.partial_intervals, "p50", "p95", "max"),
        "sent late, ms: p50, p99, max": lambda load: _milliseconds(load.lateness, "p50", "p99", "max"),
        "minutes of audio": lambda load: f"{load.audio_seconds / 60:.1f}",
        "cores busy": lambda load: f"{load.clients_cpu:.2f}",
    }
    chunk = next((f" ({1000 * load.chunk_seconds:g} ms)" for load in results.loads), "")
    note = (
        f"Clients send audio without pauses for {results.options.play_seconds:g} s, one session after another, in real "
        "time, in blocks of 100 ms. Real time: no session refused or failed, all words correct, final p95 under "
        f"{1000 * MAX_FINAL_SECONDS:g} ms and the server's partial lag p99 under one chunk{chunk}. Words correct: the "
        "text equals that of the same model with a single stream in another process. Final: from sending the end to "
        "the last final result. First partial: from sending the last audio of the first word to the first result with "
        "words; negative if the word was recognised before its end. Interval: from one result to the next while audio "
        "is sent. Sent late: from when a block was due to when it was sent; if this is long, the clients or a server "
        "that does not read are too slow, and the other figures are affected. Quantiles are measured values (nearest "
        "rank)."
    )
    return _by_load("Clients", rows, results, note)


def _server(results: ServingResults) -> Table:
    rows: dict[str, Callable[[Load], str]] = {
        "RTF": lambda load: _number(load.real_time_factor, ".4f"),
        "streams per batch: mean, max": lambda load: ", ".join(
            (_number(load.counted.mean(BATCH_SIZE), ".1f"), _bound(largest_bound(load.counted.buckets(BATCH_SIZE))))
        ),
        "partial lag, ms: p50, p95, p99": lambda load: ", ".join(
            _bound(load.partial_lag(quantile), 1000) for quantile in (0.5, 0.95, 0.99)
        ),
        "refusals": lambda load: _number(load.refusals, ".0f"),
        "MB: before, after": lambda load: ", ".join(
            _number(_mega(snapshot.memory), ".0f") for snapshot in (load.before, load.after)
        ),
        "cores busy": lambda load: _number(load.server_cpu, ".2f"),
    }
    note = (
        "From the server's own metrics. RTF: seconds of computation per second of audio. Batch: streams in one encoder "
        "call; the maximum is rounded up to a bucket of the histogram. Partial lag: the delay of results behind the "
        "received audio; quantiles of a histogram, interpolated within its buckets."
    )
    return _by_load("The server", rows, results, note)


def _trouble(results: ServingResults) -> Table:
    measured: list[tuple[str, Outcomes]] = [(f"{load.clients} clients", load) for load in results.loads]
    if results.soak:
        measured.append(("soak", results.soak))
    rows = []
    for where, outcomes in measured:
        rows += [(where, f"problem: {objection}") for objection in outcomes.objections()]
        rows += [(where, f"{count} x {reason}") for reason, count in outcomes.reasons.most_common()]
        wrong = [f"{each.key}: '{each.text}' instead of '{each.expected}'" for each in outcomes.wrong]
        rows += [(where, text) for text in wrong[:MAX_EXAMPLES]]
    rows += [("the server's log", line) for line in results.server_errors[:MAX_EXAMPLES]]
    safe = tuple((where, " ".join(what.replace("|", "\\|").split())) for where, what in rows)
    return Table(title="Problems", columns=("where", "what"), rows=safe)


def _soak(results: ServingResults) -> Table:
    soak = results.soak
    if soak is None:
        return Table(title="Soak", columns=(), rows=())
    rows = [
        (name, _number(warm, form), _number(end, form), _growth(warm, end))
        for name, form, warm, end in (
            ("MB in memory", ".1f", _mega(soak.warm.memory), _mega(soak.end.memory)),
            ("threads", ".0f", soak.warm.threads, soak.end.threads),
            ("open files", ".0f", soak.warm.files, soak.end.files),
            ("tasks", ".0f", soak.warm.tasks, soak.end.tasks),
            ("open sessions", ".0f", soak.warm.open_sessions, soak.end.open_sessions),
        )
    ]
    completed = soak.count("completed")
    note = (
        f"{len(soak.sessions)} sessions with about a second of audio, sent as fast as possible, {AT_A_TIME} at a time: "
        f"{completed} completed, {completed - len(soak.wrong)} of them with the words of a single stream, "
        f"{soak.count('dropped')} cut off by the client, half of them before any audio, "
        f"{soak.count('repelled')} hostile and refused or cut off as they should be, "
        f"{soak.count('refused')} refused, {soak.count('failed')} failed. The server was read with no session open."
    )
    columns = ("the server", f"after {soak.warm_sessions} sessions", "at the end", "growth %")
    return Table(title="Soak", columns=columns, rows=tuple(rows), note=note)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _bound(value: float | None, factor: float = 1.0) -> str:
    return (
        "above the largest bucket" if value == math.inf else _number(None if value is None else factor * value, ".0f")
    )


def _mega(size: float | None) -> float | None:
    return None if size is None else size / 1e6


def _milliseconds(quantiles: Quantiles | None, *names: str) -> str:
    return "-" if quantiles is None else ", ".join(f"{1000 * getattr(quantiles, name):.0f}" for name in names)


def _growth(before: float | None, after: float | None) -> str:
    return f"{100 * (after - before) / before:+.1f}" if before and after is not None else "-"
