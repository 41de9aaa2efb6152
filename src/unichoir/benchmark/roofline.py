"""The minimum time of a measurement at the machine's measured limits; called by `tables` and `report`."""

from unichoir.benchmark.plan import Cell, Variant
from unichoir.benchmark.results import Results
from unichoir.network.counts import Work, encoder_work


def encoder_load(results: Results, variant: Variant) -> list[float]:
    """Return the share of the frames that each expert processes: (E,), the busiest first."""
    experts = results.candidates[variant.config].model.encoder.feed_forward.num_experts
    even = variant.load == "uniform" or not experts
    return [1 / experts] * experts if even and experts else results.mean_shares(variant.config)


def work_of(results: Results, variant: Variant, cell: Cell) -> Work:
    """Return the work of the encoder for one row of a cell: an utterance with CTC, or a chunk."""
    candidate, options, shares = results.candidates[variant.config], results.options, encoder_load(results, variant)
    if cell.kind == "chunk":
        past = options.chunk_size * options.left_chunks
        return encoder_work(candidate.model, options.chunk_size, past, shares, ctc=False)
    feature_frames = candidate.fbank.num_frames(round(cell.seconds * candidate.fbank.sample_rate))
    frames = candidate.model.encoder.num_frames(feature_frames)
    return encoder_work(candidate.model, frames, 0, shares, ctc=True)


def weight_bytes(variant: Variant) -> int:
    """Return the bytes per weight."""
    return 1 if variant.precision == "int8" else 4


def ideal_seconds(results: Results, variant: Variant, work: Work) -> tuple[float, float]:
    """Return the seconds for the operations at the measured rates, and for reading the weights at the bandwidth."""
    ceilings = results.ceilings
    operations = work.products / ceilings.products[variant.precision] + work.attention / ceilings.products["fp32"]
    return operations, work.weights * weight_bytes(variant) / ceilings.bandwidth
