"""The minimum time of a measurement at the machine's measured limits; called by `tables` and `report`."""

from dataclasses import dataclass

from unichoir.benchmark.plan import Cell, Variant
from unichoir.benchmark.results import Results
from unichoir.network.counts import Work, encoder_work


@dataclass(frozen=True, kw_only=True)
class Ideal:
    """The seconds that the machine needs at least for a measurement: it can't be faster than the larger of the two."""

    operations: float
    """For the multiply-accumulates at the measured rates."""
    reading: float
    """For reading each needed weight once, at the measured bandwidth."""

    @property
    def limit(self) -> str:
        """Which of the two is larger."""
        return "operations" if self.operations >= self.reading else "reading"

    @property
    def seconds(self) -> float:
        """The larger of the two."""
        return max(self.operations, self.reading)


def encoder_load(results: Results, variant: Variant) -> list[float]:
    """Return the share of the frames that each expert processes: (E,), the busiest first."""
    experts = results.candidates[variant.config].model.encoder.feed_forward.num_experts
    even = variant.load == "uniform" or not experts
    return [1 / experts] * experts if even and experts else results.mean_shares(variant.config)


def work_of(results: Results, variant: Variant, cell: Cell) -> Work:
    """Return the work of the encoder for all rows of a cell: utterances with CTC, or chunks."""
    candidate, options, shares = results.candidates[variant.config], results.options, encoder_load(results, variant)
    if cell.kind == "chunk":
        past = options.chunk_size * options.left_chunks
        return encoder_work(candidate.model, options.chunk_size, past, shares, ctc=False, rows=cell.rows)
    feature_frames = candidate.fbank.num_frames(round(cell.seconds * candidate.fbank.sample_rate))
    frames = candidate.model.encoder.num_frames(feature_frames)
    return encoder_work(candidate.model, frames, 0, shares, ctc=True, rows=cell.rows)


def weight_bytes(variant: Variant) -> int:
    """Return the bytes per weight."""
    return 1 if variant.precision == "int8" else 4


def ideal_of(results: Results, variant: Variant, work: Work) -> Ideal:
    """Return the time of the work at the machine's limits."""
    ceilings = results.ceilings
    products = work.products / ceilings.product(variant.precision).per_second
    return Ideal(
        operations=products + work.attention / ceilings.product("fp32").per_second,
        reading=work.weights * weight_bytes(variant) / ceilings.bandwidth,
    )
