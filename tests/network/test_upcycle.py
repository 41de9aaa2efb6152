"""An upcycled model computes the same as the dense one, and can diverge from it in training."""

import dataclasses

import pytest
import torch

from unichoir.errors import ConfigError
from unichoir.network.asr_model import AsrModel
from unichoir.network.config import DecoderConfig, EncoderConfig, FeedForwardConfig, ModelConfig
from unichoir.network.masks import ChunkMask
from unichoir.network.moe import MoE, expert_load
from unichoir.network.upcycle import upcycle

VARIANTS = {
    "plain": {},
    "top-1": {"top_k": 1},
    "shared router, balanced": {"shared_router": True, "balance_rate": 1e-3},
    "softmax first": {"softmax_first": True},
    "softmax first, shared router": {"softmax_first": True, "shared_router": True, "top_k": 3},
}


def dense_model(bias: bool = True, conv_norm: str = "layer_norm") -> AsrModel:
    """A dense model without dropout, which would draw different numbers for experts."""
    layer = FeedForwardConfig(hidden_dim=24, bias=bias)
    config = ModelConfig(
        vocab_size=11,
        encoder=EncoderConfig(
            input_dim=20,
            dim=16,
            num_blocks=2,
            num_heads=2,
            feed_forward=layer,
            subsampling_channels=4,
            conv_norm=conv_norm,
            dropout=0.0,
        ),
        decoder=DecoderConfig(num_blocks=2, num_reverse_blocks=1, num_heads=2, feed_forward=layer, dropout=0.0),
    )
    torch.manual_seed(8)
    model = AsrModel(config)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    for name, buffer in model.named_buffers():
        if "norm" in name and buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return model.eval()


BATCH = (
    torch.randn(3, 80, 20, generator=torch.Generator().manual_seed(6)),
    torch.tensor([80, 71, 40]),
    torch.tensor([[3, 4, 5, 6], [7, 8, -1, -1], [9, -1, -1, -1]]),
    torch.tensor([4, 2, 1]),
)


@pytest.mark.parametrize("conv_norm", ["layer_norm", "batch_norm"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_same_function(name: str, bias: bool, conv_norm: str) -> None:
    dense = dense_model(bias, conv_norm)
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    sparse = upcycle(dense, 5, **VARIANTS[name])
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if "softmax first" in name else {"rtol": 1e-5, "atol": 2e-5}
    assert not sparse.training
    with torch.no_grad():
        for chunk in (None, ChunkMask(3)):
            (expected, lens, _), (found, _, _) = (model.encoder(*BATCH[:2], chunk=chunk) for model in (dense, sparse))
            for row, length in enumerate(lens.tolist()):
                torch.testing.assert_close(found[row, :length], expected[row, :length], **tolerance)
        torch.testing.assert_close(sparse.ctc.log_probs(expected), dense.ctc.log_probs(expected), **tolerance)
        tokens_in, token_lens = torch.tensor([[2, 3, 4], [2, 5, 6], [2, 7, 8]]), torch.tensor([3, 3, 3])
        for decoder in ("left_decoder", "right_decoder"):
            logits = [getattr(model, decoder)(expected, lens, tokens_in, token_lens) for model in (dense, sparse)]
            torch.testing.assert_close(logits[1], logits[0], **tolerance)
    feats, lengths, *targets = BATCH
    if conv_norm == "batch_norm":
        # In training a batch norm sees the padding, where a dense layer gives something and experts 0.
        lengths = torch.full_like(lengths, feats.shape[1])
    for training in (False, True):
        losses = [model.train(training)(feats, lengths, *targets) for model in (dense, sparse)]
        for field in ("loss", "ctc", "attention"):
            torch.testing.assert_close(getattr(losses[1], field), getattr(losses[0], field), **tolerance)
    # And the dense model is what it was, apart from what its batch norms have just seen.
    assert all(torch.equal(t, before[n]) for n, t in dense.state_dict().items() if "conv_module.norm" not in n)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_expert_that_sees_frames_learns_something_else(name: str) -> None:
    model = upcycle(dense_model(), 4, **VARIANTS[name]).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = model(*BATCH).loss
    before.backward()
    optimizer.step()
    layers = [module for module in model.modules() if isinstance(module, MoE)]
    assert len(layers) == 4 + 3
    for layer in layers:
        busy = torch.nonzero(layer.load).flatten().tolist()
        assert len(busy) >= layer.top_k
        for i in busy:
            others = [e for e in range(4) if e != i]
            assert all(not torch.equal(layer.experts.w_1[i], layer.experts.w_1[e]) for e in others)
    assert float(model(*BATCH).loss.detach()) < float(before.detach())


def test_routers_come_from_the_seed_alone() -> None:
    dense = dense_model()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = upcycle(dense, 4, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = upcycle(dense, 4, seed=3).state_dict(), upcycle(dense, 4, seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    differing = {name for name in first if not torch.equal(first[name], other[name])}
    assert differing == {name for name in first if ".router." in name}
    assert len(differing) == 4 + 3


def test_small_routers_choose_as_large_ones_do() -> None:
    """By nothing but the seed: the first layer sees the very same frames."""
    loads = []
    for softmax_first in (False, True):
        model = upcycle(dense_model(), 8, softmax_first=softmax_first)
        model.encoder(torch.randn(4, 400, 20, generator=torch.Generator().manual_seed(0)), torch.tensor([400] * 4))
        loads.append(expert_load(model)["encoder.blocks.0.feed_forward_macaron"])
    assert torch.equal(*loads)
    assert (loads[0] > 0).sum() > 2


def test_what_cannot_be_upcycled() -> None:
    dense = dense_model()
    with pytest.raises(ConfigError, match="top_k 3 must lie between 1 and num_experts 2"):
        upcycle(dense, 2, top_k=3)
    for num_experts in (-1, 0, 1):
        with pytest.raises(ConfigError, match=f"num_experts {num_experts}: a Mixture of Experts needs at least 2"):
            upcycle(dense, num_experts, top_k=1)
    with pytest.raises(ConfigError, match=r"encoder\.feed_forward\.num_experts is 4: only a dense model"):
        upcycle(upcycle(dense, 4), 4)
    mixed = dataclasses.replace(
        dense.config, decoder=dataclasses.replace(dense.config.decoder, feed_forward=FeedForwardConfig(num_experts=2))
    )
    with pytest.raises(ConfigError, match=r"decoder\.feed_forward\.num_experts is 2"):
        upcycle(AsrModel(mixed), 4)
