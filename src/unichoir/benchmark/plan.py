"""What is measured: the models, what each is asked to compute, what is compared, and the memory it takes."""

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from unichoir.audio.fbank import FbankConfig
from unichoir.errors import ConfigError
from unichoir.network.config import ModelConfig
from unichoir.network.counts import count_weights

ENGINES = ("torch", "onnx")
PRECISIONS = ("fp32", "int8")
LARGE = 500_000_000
"""Weights from which a model in fp32 takes more time and memory to export than it has been worth so far."""
GB = 1e9
PARENT_MEMORY = 0.4 * GB

Load = Literal["trained", "uniform"]
"""How frames are spread over experts: as in a trained model, or evenly."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """What to measure, and on what; configurations are given beside it. Raises ConfigError for what makes no sense."""

    engines: tuple[str, ...] = ENGINES
    precisions: tuple[str, ...] = PRECISIONS
    threads: int = 2
    seconds: tuple[float, ...] = (10.0, 60.0)
    """Lengths of the utterances that are recognised as a whole; the first also in batches."""
    batch: tuple[int, ...] = (1, 8)
    chunk_size: int = 16
    """Encoder frames of a chunk of streaming; 0: no streaming."""
    left_chunks: int = 4
    streams: tuple[int, ...] = (1, 16)
    """Streams that are computed together."""
    repeats: int | None = None
    """Of every measurement; None: as many as its time allows, 3 at least."""
    memory_gb: float = 12.0
    """Of all processes together."""
    full: bool = False
    """Measure also what takes more time than it tells: see `plan_variants` and `plan_cells`."""

    def __post_init__(self) -> None:
        for kind, given, known in (
            ("engine", self.engines, ENGINES),
            ("precision", self.precisions, PRECISIONS),
        ):
            unknown = [name for name in given if name not in known]
            if unknown or not given:
                raise ConfigError(f"unknown {kind} '{''.join(unknown[:1])}' (there are: {', '.join(known)})")
        if self.engines == ("torch",) and "fp32" not in self.precisions:
            raise ConfigError("the torch engine is the fp32 reference: for int8 the engine must be onnx")
        if not self.seconds or min(self.seconds) < 1:
            raise ConfigError("seconds: utterances of at least 1 s are needed")
        for name in ("batch", "streams"):
            if any(value < 1 for value in getattr(self, name)):
                raise ConfigError(f"{name}: numbers from 1 on are needed")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A configuration by the name that reports give it."""

    name: str
    model: ModelConfig
    fbank: FbankConfig = field(default_factory=FbankConfig)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A configuration on an engine: what one worker process measures."""

    config: str
    engine: str
    precision: str
    load: Load = "trained"

    @property
    def name(self) -> str:
        """As reports call it."""
        load = ", uniform load" if self.load == "uniform" else ""
        return f"{self.config} {self.engine} {self.precision}{load}"

    @property
    def exported(self) -> bool:
        """Whether it needs a model directory; the torch engine needs the calibration alone."""
        return self.engine == "onnx"

    @property
    def folder(self) -> str:
        """Name of its model directory among those of its configuration."""
        return f"{self.precision}-uniform" if self.load == "uniform" else self.precision


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One thing to measure.

    utterance: features, encoder, searches, rescoring of one; encoder: that alone on `rows` utterances at once;
    chunk: one chunk of each of `rows` streams.
    """

    kind: Literal["utterance", "encoder", "chunk"]
    seconds: float
    """Of audio in each row."""
    rows: int = 1

    @property
    def name(self) -> str:
        """As reports call it."""
        if self.kind == "chunk":
            return f"chunk of {self.seconds:g} s" + (f", {self.rows} streams" if self.rows > 1 else "")
        kind = "encoder, " if self.kind == "encoder" else ""
        return f"{kind}{self.seconds:g} s" + (f" x {self.rows}" if self.rows > 1 else "")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two measurements whose ratio of times, for each row, is reported."""

    numerator: tuple[Variant, Cell]
    denominator: tuple[Variant, Cell]

    @property
    def title(self) -> str:
        """What is divided by what."""
        (over, cell), (under, other) = self.numerator, self.denominator
        if over == under:
            return f"{over.name}: each of {cell.rows} streams / {other.rows} stream"
        return f"{over.name} / {under.name}: {cell.name}"


@dataclass(frozen=True, kw_only=True)
class Session:
    """What is measured in turn, in this order; workers start in their first session and end after their last."""

    work: tuple[tuple[Variant, Cell], ...]
    ends: tuple[Variant, ...]
    """Those that no later session needs."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that is measured."""

    cells: Mapping[Variant, tuple[Cell, ...]]
    comparisons: tuple[Comparison, ...]
    left_out: tuple[str, ...]
    """What was asked for and is not measured, with the reason."""

    def sessions(self) -> list[Session]:
        """What is measured in turn, so that few models are in memory at a time.

        First all trained int8 variants measure everything. Then each of the others does, beside those that it is
        compared with, which repeat what is compared.
        """
        main = [variant for variant in self.cells if variant.precision == "int8" and variant.load == "trained"]
        work = [_by_cell({variant: self.cells[variant] for variant in main})] if main else []
        for guest in self.cells:
            if guest in main:
                continue
            together = {guest: self.cells[guest]}
            for comparison in self.comparisons:
                sides = dict([comparison.numerator, comparison.denominator])
                if guest in sides:
                    for variant, cell in sides.items():
                        if variant != guest:
                            together[variant] = (*together.get(variant, ()), cell)
            work.append(_by_cell(together))
        last = {variant: place for place, session in enumerate(work) for variant, _ in session}
        return [
            Session(work=tuple(session), ends=tuple(variant for variant in last if last[variant] == place))
            for place, session in enumerate(work)
        ]


def _by_cell(work: Mapping[Variant, Sequence[Cell]]) -> list[tuple[Variant, Cell]]:
    """The same cell of all variants one after the other: what is compared is measured at neighbouring moments."""
    cells = dict.fromkeys(itertools.chain.from_iterable(work.values()))
    return [(variant, cell) for cell in cells for variant in work if cell in work[variant]]


def make_plan(candidates: Sequence[Candidate], options: BenchmarkOptions) -> Plan:
    """Raises ConfigError when it would take more memory than there may be, or nothing is left to measure."""
    variants, left_out = plan_variants(candidates, options)
    by_name = {candidate.name: candidate for candidate in candidates}
    if not options.full and any(variant.precision == "fp32" for variant in variants):
        more = [f"utterances of {seconds:g} s" for seconds in options.seconds[1:]]
        more += [f"batches of {rows}" for rows in options.batch if rows > 1]
        if more:
            left_out.append(f"fp32: {' and '.join(more)}, to save time (--full measures them)")
    cells = {variant: plan_cells(variant, by_name[variant.config].model, options) for variant in variants}
    plan = Plan(cells=cells, comparisons=tuple(compare(cells, options)), left_out=tuple(left_out))
    check_memory(plan, by_name, options)
    return plan


def plan_variants(candidates: Sequence[Candidate], options: BenchmarkOptions) -> tuple[list[Variant], list[str]]:
    """The variants of the configurations, and what is left out and why."""
    variants, left_out = [], []
    for candidate in candidates:
        large = count_weights(candidate.model) > LARGE
        for engine in options.engines:
            for precision in options.precisions:
                variant = Variant(config=candidate.name, engine=engine, precision=precision)
                if engine == "torch" and precision != "fp32":
                    continue
                if engine == "onnx" and precision == "fp32" and large and not options.full:
                    left_out.append(f"{variant.name}: exporting it takes long and much memory (--full measures it)")
                    continue
                variants.append(variant)
                if precision == "int8" and candidate.model.encoder.feed_forward.num_experts:
                    variants.append(Variant(config=candidate.name, engine=engine, precision=precision, load="uniform"))
    if "torch" in options.engines and "fp32" not in options.precisions:
        left_out.append("torch: it is the fp32 reference, and fp32 was not asked for")
    return variants, left_out


def plan_cells(variant: Variant, config: ModelConfig, options: BenchmarkOptions) -> tuple[Cell, ...]:
    """What one variant measures. Unless all is wanted, fp32 leaves long utterances and batches to int8."""
    first, everything = options.seconds[0], options.full or variant.precision == "int8"
    encoder = Cell(kind="encoder", seconds=first)
    if variant.load == "uniform":
        return (encoder,)
    cells = [Cell(kind="utterance", seconds=seconds) for seconds in (options.seconds if everything else (first,))]
    if variant.precision == "int8" and config.encoder.feed_forward.num_experts:
        cells.append(encoder)
    if everything:
        cells += [Cell(kind="encoder", seconds=first, rows=rows) for rows in options.batch if rows > 1]
    if options.chunk_size and config.encoder.conv_causal:
        cells += [Cell(kind="chunk", seconds=options.chunk_size * 0.04, rows=rows) for rows in options.streams]
    return tuple(cells)


def compare(cells: Mapping[Variant, Sequence[Cell]], options: BenchmarkOptions) -> Iterator[Comparison]:
    """The comparisons this benchmark is for, of those whose two sides are measured."""
    moe, fine, same_cost, same_size = "moe-1b", "moe-1b-fine", "dense-225m", "dense-1b"
    short = Cell(kind="utterance", seconds=options.seconds[0])
    long = Cell(kind="utterance", seconds=options.seconds[-1])
    encoder = Cell(kind="encoder", seconds=options.seconds[0])
    chunk = Cell(kind="chunk", seconds=options.chunk_size * 0.04)
    many = Cell(kind="chunk", seconds=chunk.seconds, rows=max(options.streams, default=1))

    def onnx(config: str, load: Load = "trained") -> Variant:
        return Variant(config=config, engine="onnx", precision="int8", load=load)

    def torch(config: str) -> Variant:
        return Variant(config=config, engine="torch", precision="fp32")

    wanted = [
        ((onnx(moe), short), (torch(same_cost), short)),
        ((onnx(moe), short), (onnx(same_cost), short)),
        ((onnx(moe), long), (onnx(same_cost), long)),
        ((onnx(fine), long), (onnx(same_cost), long)),
        ((onnx(moe), short), (onnx(same_size), short)),
        ((onnx(moe), chunk), (torch(moe), chunk)),
        ((onnx(moe), many), (onnx(moe), chunk)),
        *(((variant, encoder), (onnx(variant.config, "uniform"), encoder)) for variant in cells),
    ]
    for sides in dict.fromkeys(wanted):
        if sides[0] != sides[1] and all(cell in cells.get(variant, ()) for variant, cell in sides):
            yield Comparison(numerator=sides[0], denominator=sides[1])


def check_memory(plan: Plan, candidates: Mapping[str, Candidate], options: BenchmarkOptions) -> None:
    """Raises ConfigError naming what does not fit."""
    limit = options.memory_gb * GB

    def refuse(what: str, needed: float) -> None:
        if needed > limit:
            sizes = f"about {needed / GB:.1f} GB, more than the {options.memory_gb:g} GB of --memory"
            raise ConfigError(f"{what} needs {sizes}: measure fewer configurations at once")

    if not plan.cells:
        raise ConfigError("nothing is left to measure (--full leaves nothing out)")
    for name, candidate in candidates.items():
        folders = {variant.folder for variant in plan.cells if variant.config == name and variant.exported}
        refuse(f"preparing {name}", preparation_memory(candidate, folders))
    together: dict[Variant, float] = {}
    for session in plan.sessions():
        for variant, _ in session.work:
            together[variant] = worker_memory(candidates[variant.config], variant, plan.cells[variant])
        names = ", ".join(variant.name for variant in together)
        refuse(f"measuring {names} side by side", PARENT_MEMORY + sum(together.values()))
        for variant in session.ends:
            del together[variant]


def worker_memory(candidate: Candidate, variant: Variant, cells: Sequence[Cell]) -> float:
    """Bytes that a worker takes, estimated: its libraries, weights, and what the longest call computes."""
    weights = count_weights(candidate.model) * (1.4 if variant.precision == "int8" else 4.4)
    libraries = 0.3 * GB if variant.engine == "torch" else 0.1 * GB
    audio = max(cell.seconds * cell.rows for cell in cells)
    return libraries + weights + audio * 27e6 * candidate.model.encoder.dim / 640


def preparation_memory(candidate: Candidate, folders: Collection[str]) -> float:
    """Bytes that preparing a configuration takes, estimated; an export in fp32 holds the weights several times."""
    return 0.5 * GB + (15 if "fp32" in folders else 5) * count_weights(candidate.model)
