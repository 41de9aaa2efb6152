"""Plan a benchmark: the models, what to measure on each, what to compare, and the memory needed.

`run` makes a plan; `prepare`, `worker`, `results` and `tables` use its types.
"""

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
"""Models with more weights than this are not exported in fp32 by default: it takes much time and memory."""
GB = 1e9
PARENT_MEMORY = 0.4 * GB

Load = Literal["trained", "uniform"]
"""How frames are distributed over experts: as in a trained model, or evenly."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """What to measure, apart from the configurations. Raises ConfigError for invalid or contradictory values."""

    engines: tuple[str, ...] = ENGINES
    precisions: tuple[str, ...] = PRECISIONS
    threads: int = 2
    seconds: tuple[float, ...] = (10.0, 60.0)
    """Lengths of the utterances; the first is also measured in batches."""
    batch: tuple[int, ...] = (1, 8)
    chunk_size: int = 16
    """Encoder frames per streaming chunk; 0: no streaming."""
    left_chunks: int = 4
    streams: tuple[int, ...] = (1, 16)
    """Numbers of streams that are processed together."""
    repeats: int | None = None
    """Repetitions of each measurement; None: as many as fit in `run.CELL_SECONDS`, at least 3."""
    memory_gb: float = 14.0
    """Limit for all processes together."""
    full: bool = False
    """Include the measurements that are skipped to save time: see `plan_variants` and `plan_cells`."""

    def __post_init__(self) -> None:
        for kind, given, known in (
            ("engine", self.engines, ENGINES),
            ("precision", self.precisions, PRECISIONS),
        ):
            unknown = [name for name in given if name not in known]
            if unknown or not given:
                raise ConfigError(f"unknown {kind} '{''.join(unknown[:1])}' (known: {', '.join(known)})")
        if self.engines == ("torch",) and "fp32" not in self.precisions:
            raise ConfigError("the torch engine only computes in fp32: for int8 the engine must be onnx")
        if not self.seconds or min(self.seconds) < 1:
            raise ConfigError("seconds: utterances must have at least 1 s")
        for name in ("batch", "streams"):
            if any(value < 1 for value in getattr(self, name)):
                raise ConfigError(f"{name}: expected numbers of at least 1")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A configuration to measure, with its name in reports."""

    name: str
    model: ModelConfig
    fbank: FbankConfig = field(default_factory=FbankConfig)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A configuration with engine, precision and load; one worker process measures it."""

    config: str
    engine: str
    precision: str
    load: Load = "trained"

    @property
    def name(self) -> str:
        """The name in reports."""
        load = ", uniform load" if self.load == "uniform" else ""
        return f"{self.config} {self.engine} {self.precision}{load}"

    @property
    def exported(self) -> bool:
        """Whether it needs a model directory; the torch engine only needs the calibration."""
        return self.engine == "onnx"

    @property
    def folder(self) -> str:
        """The name of its model directory in the folder of its configuration."""
        return f"{self.precision}-uniform" if self.load == "uniform" else self.precision


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A single measurement.

    utterance: features, encoder, searches and rescoring of one utterance; encoder: the encoder alone, on a batch of
    `rows` utterances; chunk: the encoder on one chunk of each of `rows` streams.
    """

    kind: Literal["utterance", "encoder", "chunk"]
    seconds: float
    """Audio in each row."""
    rows: int = 1

    @property
    def name(self) -> str:
        """The name in reports."""
        if self.kind == "chunk":
            return f"chunk of {self.seconds:g} s" + (f", {self.rows} streams" if self.rows > 1 else "")
        kind = "encoder, " if self.kind == "encoder" else ""
        return f"{kind}{self.seconds:g} s" + (f" x {self.rows}" if self.rows > 1 else "")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two measurements; reports give the ratio of their times per row."""

    numerator: tuple[Variant, Cell]
    denominator: tuple[Variant, Cell]

    @property
    def title(self) -> str:
        """The title in reports: numerator / denominator."""
        (over, cell), (under, other) = self.numerator, self.denominator
        if over == under:
            return f"{over.name}: each of {cell.rows} streams / {other.rows} stream"
        return f"{over.name} / {under.name}: {cell.name}"


@dataclass(frozen=True, kw_only=True)
class Session:
    """Measurements that alternate, in this order. Workers start in their first session and end after their last."""

    work: tuple[tuple[Variant, Cell], ...]
    ends: tuple[Variant, ...]
    """The variants that no later session needs."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All measurements of a benchmark."""

    cells: Mapping[Variant, tuple[Cell, ...]]
    comparisons: tuple[Comparison, ...]
    left_out: tuple[str, ...]
    """The requested measurements that are skipped, with the reasons."""

    def sessions(self) -> list[Session]:
        """Split the measurements into sessions, to keep few models in memory at a time.

        First, all trained int8 variants measure everything. Then each other variant does, together with the variants
        it is compared with, which repeat the compared measurements.
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
    """Group the measurements by cell: measurements to compare are then close together in time."""
    cells = dict.fromkeys(itertools.chain.from_iterable(work.values()))
    return [(variant, cell) for cell in cells for variant in work if cell in work[variant]]


def make_plan(candidates: Sequence[Candidate], options: BenchmarkOptions) -> Plan:
    """Plan the measurements of the candidates.

    Raises ConfigError if they need more memory than `memory_gb`, or if nothing is left to measure.
    """
    variants, left_out = plan_variants(candidates, options)
    by_name = {candidate.name: candidate for candidate in candidates}
    if not options.full and any(variant.precision == "fp32" for variant in variants):
        more = [f"utterances of {seconds:g} s" for seconds in options.seconds[1:]]
        more += [f"batches of {rows}" for rows in options.batch if rows > 1]
        if more:
            left_out.append(f"fp32: {' and '.join(more)}, to save time (--full includes them)")
    cells = {variant: plan_cells(variant, by_name[variant.config], options) for variant in variants}
    plan = Plan(cells=cells, comparisons=tuple(compare(cells, options)), left_out=tuple(left_out))
    check_memory(plan, by_name, options)
    return plan


def plan_variants(candidates: Sequence[Candidate], options: BenchmarkOptions) -> tuple[list[Variant], list[str]]:
    """Return the variants of the configurations, and what is skipped, with the reasons."""
    variants, left_out = [], []
    for candidate in candidates:
        large = count_weights(candidate.model) > LARGE
        for engine in options.engines:
            for precision in options.precisions:
                variant = Variant(config=candidate.name, engine=engine, precision=precision)
                if engine == "torch" and precision != "fp32":
                    continue
                if engine == "onnx" and precision == "fp32" and large and not options.full:
                    left_out.append(f"{variant.name}: exporting it needs much time and memory (--full includes it)")
                    continue
                variants.append(variant)
                if precision == "int8" and candidate.model.encoder.feed_forward.num_experts:
                    variants.append(Variant(config=candidate.name, engine=engine, precision=precision, load="uniform"))
    if "torch" in options.engines and "fp32" not in options.precisions:
        left_out.append("torch: the engine only computes in fp32, which is not among the precisions")
    return variants, left_out


def plan_cells(variant: Variant, candidate: Candidate, options: BenchmarkOptions) -> tuple[Cell, ...]:
    """Return what to measure on one variant. Without `full`, long utterances and batches are measured in int8 only."""
    encoder_config = candidate.model.encoder
    first, everything = options.seconds[0], options.full or variant.precision == "int8"
    encoder = Cell(kind="encoder", seconds=first)
    if variant.load == "uniform":
        return (encoder,)
    cells = [Cell(kind="utterance", seconds=seconds) for seconds in (options.seconds if everything else (first,))]
    if variant.precision == "int8" and encoder_config.feed_forward.num_experts:
        cells.append(encoder)
    if everything:
        cells += [Cell(kind="encoder", seconds=first, rows=rows) for rows in options.batch if rows > 1]
    if options.chunk_size and encoder_config.conv_causal:
        seconds = options.chunk_size * encoder_config.subsampling_rate * candidate.fbank.frame_shift_ms / 1000
        cells += [Cell(kind="chunk", seconds=seconds, rows=rows) for rows in options.streams]
    return tuple(cells)


def compare(cells: Mapping[Variant, Sequence[Cell]], options: BenchmarkOptions) -> Iterator[Comparison]:
    """Yield the comparisons of interest for which both sides are measured."""
    moe, fine, same_cost, same_size = "moe-1b", "moe-1b-fine", "dense-225m", "dense-1b"
    utterances = [Cell(kind="utterance", seconds=seconds) for seconds in options.seconds]
    short = utterances[0]
    encoder = Cell(kind="encoder", seconds=options.seconds[0])

    def onnx(config: str, load: Load = "trained") -> Variant:
        return Variant(config=config, engine="onnx", precision="int8", load=load)

    def torch(config: str) -> Variant:
        return Variant(config=config, engine="torch", precision="fp32")

    chunks = {
        variant: sorted((cell for cell in some if cell.kind == "chunk"), key=lambda cell: cell.rows)
        for variant, some in cells.items()
        if (variant.engine, variant.precision) == ("onnx", "int8")
    }
    single = [cell for cell in chunks.get(onnx(moe), ()) if cell.rows == 1]
    wanted = [
        ((onnx(moe), short), (torch(same_cost), short)),
        *(((onnx(config), each), (onnx(same_cost), each)) for config in (moe, fine) for each in utterances),
        ((onnx(moe), short), (onnx(same_size), short)),
        *(((onnx(moe), one), (torch(moe), one)) for one in single),
        *(((variant, some[-1]), (variant, one)) for variant, some in chunks.items() for one in some if one.rows == 1),
        *(((variant, encoder), (onnx(variant.config, "uniform"), encoder)) for variant in cells),
    ]
    for sides in dict.fromkeys(wanted):
        if sides[0] != sides[1] and all(cell in cells.get(variant, ()) for variant, cell in sides):
            yield Comparison(numerator=sides[0], denominator=sides[1])


def check_memory(plan: Plan, candidates: Mapping[str, Candidate], options: BenchmarkOptions) -> None:
    """Raise ConfigError, naming the step, if the plan needs too much memory."""
    limit = options.memory_gb * GB

    def refuse(what: str, needed: float) -> None:
        if needed > limit:
            sizes = f"about {needed / GB:.1f} GB, more than the {options.memory_gb:g} GB of --memory"
            raise ConfigError(f"{what} needs {sizes}: measure fewer configurations at once")

    if not plan.cells:
        raise ConfigError("nothing is left to measure (--full includes everything)")
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
    """Estimate the memory of a worker in bytes: libraries, weights, and the activations of the longest call."""
    weights = count_weights(candidate.model) * (1.4 if variant.precision == "int8" else 4.4)
    libraries = 0.3 * GB if variant.engine == "torch" else 0.1 * GB
    audio = max(cell.seconds * cell.rows for cell in cells)
    return libraries + weights + audio * 27e6 * candidate.model.encoder.dim / 640


def preparation_memory(candidate: Candidate, folders: Collection[str]) -> float:
    """Estimate the memory for preparing a configuration in bytes; fp32 exports hold several copies of the weights."""
    return 0.5 * GB + (15 if "fp32" in folders else 5) * count_weights(candidate.model)
