"""Counts from sizes against torch's own of the model that is run."""

from collections.abc import Callable

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from unichoir.benchmark.plan import Candidate
from unichoir.model.asr_model import AsrModel
from unichoir.model.config import NAMED_CONFIGS
from unichoir.model.counts import count_weights, encoder_work


@pytest.mark.parametrize("experts", [0, 4])
def test_multiplications(tiny: Callable[..., Candidate], experts: int) -> None:
    config = tiny(experts=experts).model
    model, frames = AsrModel(config).eval(), 250
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        encoder_out, _, _ = model.encoder(torch.randn(1, 4 * frames + 3, 80), torch.tensor([4 * frames + 3]))
        model.ctc.log_probs(encoder_out)
    assert encoder_out.shape[1] == frames
    work = encoder_work(config, frames, 0, [0.25] * 4, ctc=True)
    assert work.products + work.attention == pytest.approx(counter.get_total_flops() / 2, rel=0.01)


def test_a_chunk_attends_to_the_past_and_reads_experts_it_needs(tiny: Callable[..., Candidate]) -> None:
    config = tiny().model
    alone, chunk = (encoder_work(config, 1, past, [0.4, 0.3, 0.2, 0.1], ctc=False) for past in (0, 64))
    assert chunk.attention - alone.attention == 2 * 32 * 64
    assert chunk.products == alone.products
    # Two layers of four experts with 2 x 32 x 48 weights each: one frame goes to two of them.
    many = encoder_work(config, 10_000, 0, [0.4, 0.3, 0.2, 0.1], ctc=False)
    assert many.weights - alone.weights == pytest.approx(2 * 2 * (2 * 32 * 48))


@pytest.mark.parametrize("name", ["moe-tiny", "dense-225m", "moe-1b", "moe-1b-fine", "dense-1b"])
def test_weights(name: str) -> None:
    config = NAMED_CONFIGS[name].with_vocab_size(8000)
    with torch.device("meta"):
        parameters = sum(each.numel() for each in AsrModel(config).parameters())
    assert parameters == pytest.approx(count_weights(config), rel=0.01)
