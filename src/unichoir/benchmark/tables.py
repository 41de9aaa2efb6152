"""The tables of a report as text; called by `report`. `serving.tables` uses the same `Table`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from unichoir.benchmark.plan import Cell, Variant
from unichoir.benchmark.results import SUMS, Results, Spread, entropy
from unichoir.benchmark.roofline import ideal_of, weight_bytes, work_of
from unichoir.benchmark.worker import PARTS


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table. Its first column is aligned to the left, and the others, mostly numbers, to the right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def tables(results: Results) -> list[Table]:
    """Return all tables that have at least one row."""
    makers: list[Callable[[Results], Table]] = [
        _shares_of_the_ceiling,
        _ceilings,
        _ratios,
        _utterances,
        _parts,
        _batches,
        _streams,
        _models,
        _load,
    ]
    return [table for table in (make(results) for make in makers) if table.rows]


def _cells(results: Results, kind: str) -> Iterator[tuple[Variant, Cell]]:
    for variant, cells in results.plan.cells.items():
        for cell in cells:
            if cell.kind == kind:
                yield variant, cell


def _shares_of_the_ceiling(results: Results) -> Table:
    rows = []
    for variant, cells in results.plan.cells.items():
        for cell in cells:
            if cell.kind == "encoder" and cell.rows == 1 and variant.load == "trained":
                continue  # the utterance's encoder is measured already
            seconds = results.spread(variant, cell, "encoder").median
            work = work_of(results, variant, cell)
            ideal = ideal_of(results, variant, work)
            rows.append(
                (
                    variant.name,
                    cell.name,
                    f"{100 * ideal.seconds / seconds:.0f}",
                    ideal.limit,
                    f"{100 * ideal.operations / seconds:.0f}",
                    f"{100 * ideal.reading / seconds:.0f}",
                    _ms(seconds),
                    f"{work.products / 1e9:.1f}",
                    f"{work.attention / 1e9:.2f}",
                    f"{work.weights * weight_bytes(variant) / 1e6:.0f}",
                )
            )
    columns = (
        *("encoder of", "input", "share %", "limit", "operations %", "reading %"),
        *("ms", "GMAC", "GMAC attention", "MB weights"),
    )
    note = (
        "At 100 %, the encoder is as fast as the machine's limits allow; at 50 %, it takes twice that time. The limits "
        "are the time for all multiply-accumulates at the machine's rate for the precision (operations; attention is "
        "in fp32), and the time for reading each needed weight once from memory (reading), in % of the measured time. "
        "The larger one is the limit that counts, and the share. It can exceed 100 % if weights stay in the "
        "processor's cache. Times, operations and weights are those of the whole batch."
    )
    return Table(title="Share of the machine's ceiling", columns=columns, rows=tuple(rows), note=note)


def _ceilings(results: Results) -> Table:
    ceilings = results.ceilings
    rows = [("reading from memory", "numpy", f"{ceilings.bandwidth / 1e9:.1f} GB/s", "yes")]
    for precision, rates in ceilings.rates.items():
        for rate in rates:
            counts = "yes" if rate == ceilings.product(precision) else "no" if rate.exact else "no, inexact"
            rows.append((f"products in {precision}", rate.way, f"{rate.per_second / 1e9:.0f} GMAC/s", counts))
    note = "Measured in this run. In each precision, the fastest exact way to multiply counts as the machine's rate."
    return Table(title="The machine's ceiling", columns=("limit", "way", "rate", "counts"), rows=tuple(rows), note=note)


def _ratios(results: Results) -> Table:
    rows = []
    for comparison in results.plan.comparisons:
        found = [results.ratio(comparison, part) for part in ("whole greedy", "encoder")]
        rows.append((comparison.title, *(_ratio(each) for each in found)))
    note = "Medians of the ratios within each round, with quartiles. Whole: features, encoder, greedy search."
    return Table(title="Ratios", columns=("ratio of times", "whole", "encoder"), rows=tuple(rows), note=note)


def _utterances(results: Results) -> Table:
    rows = []
    for variant, cell in _cells(results, "utterance"):
        greedy = results.spread(variant, cell, "whole greedy")
        rescoring = results.spread(variant, cell, "whole rescoring")
        rows.append(
            (
                variant.name,
                f"{cell.seconds:g}",
                *(_ms(results.spread(variant, cell, part).median) for part in PARTS),
                _ms_spread(greedy),
                f"{greedy.median / cell.seconds:.4f}",
                _ms_spread(rescoring),
                f"{rescoring.median / cell.seconds:.4f}",
                str(greedy.count),
            )
        )
    columns = ("model", "s", *PARTS, "whole greedy", "RTF", "whole rescoring", "RTF", "repeats")
    note = (
        "Times in ms: medians, and for the whole also quartiles. Whole greedy: features, encoder, greedy search; "
        "whole rescoring: features, encoder, prefix beam search, rescoring by the decoders."
    )
    return Table(title="Whole utterances", columns=columns, rows=tuple(rows), note=note)


def _parts(results: Results) -> Table:
    rows = []
    for variant, cell in _cells(results, "utterance"):
        for whole, search in (("whole greedy", "greedy"), ("whole rescoring", "search")):
            shares = [
                f"{100 * results.share(variant, cell, part, whole):.1f}" if part in SUMS[whole] else "-"
                for part in PARTS
            ]
            total = f"{100 * results.share(variant, cell, search, whole):.1f}"
            rows.append((variant.name, f"{cell.seconds:g}", whole, *shares, total))
    columns = ("model", "s", "of", *(f"{part} %" for part in PARTS), "search %")
    note = "Medians of the shares within each repetition. Search: everything after the encoder."
    return Table(title="Parts of whole utterances", columns=columns, rows=tuple(rows), note=note)


def _batches(results: Results) -> Table:
    rows = []
    for variant, cell in _cells(results, "encoder"):
        each = results.spread(variant, cell, "encoder").scaled(1 / cell.rows)
        rows.append((variant.name, f"{cell.seconds:g}", str(cell.rows), _ms_spread(each), str(each.count)))
    columns = ("model", "s", "utterances", "ms per utterance", "repeats")
    return Table(title="Batches of utterances, encoder only", columns=columns, rows=tuple(rows))


def _streams(results: Results) -> Table:
    rows = []
    for variant, cell in _cells(results, "chunk"):
        chunk = results.spread(variant, cell, "encoder")
        rows.append(
            (
                variant.name,
                str(cell.rows),
                _ms_spread(chunk),
                _ms(chunk.median / cell.rows),
                f"{chunk.median / cell.rows / cell.seconds:.4f}",
                str(chunk.count),
            )
        )
    options = results.options
    lengths = sorted({f"{1000 * cell.seconds:g} ms" for _, cell in _cells(results, "chunk")})
    note = (
        f"Chunks of {options.chunk_size} encoder frames ({', '.join(lengths)}) with {options.left_chunks} left chunks. "
        "The encoder only."
    )
    columns = ("model", "streams", "ms per batch of chunks", "ms per stream", "RTF per stream", "repeats")
    return Table(title="Streaming", columns=columns, rows=tuple(rows), note=note)


def _models(results: Results) -> Table:
    rows = []
    for variant, facts in results.facts.items():
        loaded = facts.loaded
        rows.append(
            (
                variant.name,
                f"{loaded.parameters / 1e6:.0f}",
                "-" if loaded.bytes_on_disk is None else f"{loaded.bytes_on_disk / 1e6:.0f}",
                "-" if loaded.seconds is None else f"{loaded.seconds:.2f}",
                f"{loaded.memory / 1e6:.0f}",
                f"{facts.memory / 1e6:.0f}",
                str(loaded.tokens),
            )
        )
    columns = ("model", "parameters (M)", "MB on disk", "s to load", "MB loaded", "MB peak", "tokens found")
    note = (
        "Loading: in a new process, with the files in the system's cache; torch models are generated, not loaded. "
        f"Tokens: by greedy search in the first {results.options.seconds[0]:g} s."
    )
    return Table(title="Models", columns=columns, rows=tuple(rows), note=note)


def _load(results: Results) -> Table:
    rows = []
    for config, layers in results.shares.items():
        mean = results.mean_shares(config)
        entropies = [entropy(shares) for shares in layers.values()]
        shares = " ".join(f"{100 * share:.0f}" for share in mean)
        rows.append((config, str(len(layers)), shares, f"{sum(entropies) / len(entropies):.3f}"))
    note = "The share of a layer's frames that each expert processes, in %, the busiest first; mean over the layers."
    columns = ("model", "layers", "shares", "entropy")
    return Table(title="Expert load", columns=columns, rows=tuple(rows), note=note)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}" if seconds < 0.1 else f"{1000 * seconds:.0f}"


def _ms_spread(spread: Spread) -> str:
    return f"{_ms(spread.median)} ({_ms(spread.low)} to {_ms(spread.high)})"


def _ratio(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})"


def head(results: Results) -> Sequence[tuple[str, str]]:
    """Return where and how the benchmark was run: names and values."""
    return [
        *results.machine.items(),
        ("audio", results.audio),
        ("duration", f"{results.seconds:.0f} s in total"),
        *(("skipped", reason) for reason in results.plan.left_out),
    ]
