"""Counts computed from sizes against torch's own counts of a real model."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from unichoir.benchmark.plan import Candidate
from unichoir.network.asr_model import AsrModel
from unichoir.network.config import NAMED_CONFIGS, DecoderConfig, EncoderConfig, FeedForwardConfig, ModelConfig
from unichoir.network.counts import count_weights, encoder_work

WHISPER = {"front": "conv1d", "block": "transformer", "position": "sinusoidal", "subsampling_channels": None}


@pytest.mark.parametrize(
    ("rows", "experts", "encoder"),
    [(1, 0, {}), (3, 4, {}), (1, 0, WHISPER), (1, 4, {**WHISPER, "num_top_blocks": 2}), (3, 4, {"num_top_blocks": 1})],
)
def test_multiplications(tiny: Callable[..., Candidate], rows: int, experts: int, encoder: dict[str, object]) -> None:
    config = tiny(experts=experts).model
    config = dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, **encoder))
    model, frames = AsrModel(config).eval(), 250
    needed = config.encoder.subsampling_rate * (frames - 1) + config.encoder.right_context + 1
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        encoder_out, _, _ = model.encoder(torch.randn(rows, needed, 80), torch.full((rows,), needed))
        model.ctc.log_probs(encoder_out)
    assert encoder_out.shape[1] == frames
    work = encoder_work(config, frames, 0, [0.25] * 4, ctc=True, rows=rows)
    assert work.products + work.attention == pytest.approx(counter.get_total_flops() / 2, rel=0.01)


def test_a_chunk_attends_to_the_past_and_reads_experts_it_needs(tiny: Callable[..., Candidate]) -> None:
    config = tiny().model
    alone, chunk = (encoder_work(config, 1, past, [0.4, 0.3, 0.2, 0.1], ctc=False) for past in (0, 64))
    assert chunk.attention - alone.attention == 2 * 32 * 64
    assert chunk.products == alone.products
    # Two layers of four experts with 2 x 32 x 48 weights each: one frame goes to two of them.
    many = encoder_work(config, 10_000, 0, [0.4, 0.3, 0.2, 0.1], ctc=False)
    assert many.weights - alone.weights == pytest.approx(2 * 2 * (2 * 32 * 48))
    # Streams share what they read, and none attends to another.
    streams = encoder_work(config, 1, 0, [0.4, 0.3, 0.2, 0.1], ctc=False, rows=10_000)
    assert streams.weights == pytest.approx(many.weights)
    assert streams.attention == 10_000 * alone.attention


@pytest.mark.parametrize("name", ["moe-tiny", "dense-225m", "moe-1b", "moe-1b-fine", "dense-1b"])
def test_weights(name: str) -> None:
    config = NAMED_CONFIGS[name].with_vocab_size(8000)
    with torch.device("meta"):
        parameters = sum(each.numel() for each in AsrModel(config).parameters())
    assert parameters == pytest.approx(count_weights(config), rel=0.01)


@pytest.mark.parametrize("num_top_blocks", [0, 2])
def test_weights_of_models_from_whisper(num_top_blocks: int) -> None:
    layer = FeedForwardConfig(hidden_dim=128, num_experts=8, top_k=2, shared_hidden_dim=1024, activation="gelu")
    encoder = EncoderConfig(
        dim=512,
        num_blocks=6,
        num_heads=8,
        feed_forward=layer,
        front="conv1d",
        block="transformer",
        position="sinusoidal",
        num_top_blocks=num_top_blocks,
    )
    decoder = DecoderConfig(num_blocks=6, num_reverse_blocks=2, num_heads=8, feed_forward=layer, position="learned")
    config = ModelConfig(vocab_size=1000, encoder=encoder, decoder=decoder)
    with torch.device("meta"):
        model = AsrModel(config)
    matrices = sum(each.numel() for name, each in model.named_parameters() if _is_matrix(name))
    assert matrices == count_weights(config)
    assert sum(each.numel() for each in model.parameters()) == pytest.approx(matrices, rel=0.02)


def _is_matrix(name: str) -> bool:
    return name.endswith(("weight", "w_1", "w_2")) and "norm" not in name
