"""The hybrid loss against brute force, and the pieces that prepare it."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from unichoir.network.asr_model import AsrModel, add_sos_eos, label_smoothing_loss, reverse_tokens
from unichoir.network.config import DecoderConfig, EncoderConfig, FeedForwardConfig, ModelConfig
from unichoir.network.ctc import Ctc

CONFIG = ModelConfig(
    vocab_size=11,
    encoder=EncoderConfig(
        input_dim=20,
        dim=16,
        num_blocks=1,
        num_heads=2,
        feed_forward=FeedForwardConfig(hidden_dim=8, num_experts=3),
        subsampling_channels=4,
        conv_kernel=3,
    ),
    decoder=DecoderConfig(
        num_blocks=1, num_reverse_blocks=1, num_heads=2, feed_forward=FeedForwardConfig(hidden_dim=8)
    ),
)


def test_ctc_loss_is_the_sum_over_all_alignments() -> None:
    torch.manual_seed(0)
    ctc = Ctc(6, 4, blank_id=0)
    encoder_out, lens = torch.randn(2, 5, 6), torch.tensor([5, 4])
    targets, target_lens = torch.tensor([[1, 1, 3], [2, -1, -1]]), torch.tensor([3, 1])
    log_probs, expected = ctc.log_probs(encoder_out).detach(), 0.0
    for b in range(2):
        total = 0.0
        for path in itertools.product(range(4), repeat=int(lens[b])):
            if [token for token, _ in itertools.groupby(path) if token] == targets[b, : target_lens[b]].tolist():
                total += math.exp(sum(float(log_probs[b, t, token]) for t, token in enumerate(path)))
        expected -= math.log(total) / 2
    assert float(ctc.loss(log_probs, lens, targets, target_lens)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
def test_label_smoothing_loss_is_the_divergence_from_the_smoothed_target(smoothing: float) -> None:
    torch.manual_seed(1)
    logits, targets = torch.randn(2, 3, 7), torch.tensor([[1, 2, -1], [6, -1, -1]])
    expected = 0.0
    for b, u in ((0, 0), (0, 1), (1, 0)):
        log_probs = torch.log_softmax(logits[b, u], dim=0)
        for token in range(7):
            share = 1 - smoothing if token == targets[b, u] else smoothing / 6
            if share:
                expected += share * (math.log(share) - float(log_probs[token]))
    assert float(label_smoothing_loss(logits, targets, smoothing)) == pytest.approx(expected, rel=1e-5)


def test_tokens_are_framed_and_reversed_within_their_own_lengths() -> None:
    tokens, lens = torch.tensor([[5, 6, 7], [8, -1, -1], [-1, -1, -1]]), torch.tensor([3, 1, 0])
    tokens_in, targets = add_sos_eos(tokens, lens, sos_id=2, eos_id=3)
    assert tokens_in.tolist() == [[2, 5, 6, 7], [2, 8, 0, 0], [2, 0, 0, 0]]
    assert targets.tolist() == [[5, 6, 7, 3], [8, 3, -1, -1], [3, -1, -1, -1]]
    assert reverse_tokens(tokens, lens).tolist() == [[7, 6, 5], [8, -1, -1], [-1, -1, -1]]


def test_the_loss_of_a_batch_is_the_mean_of_its_utterances() -> None:
    torch.manual_seed(2)
    model = AsrModel(CONFIG).eval()
    lengths, token_lens = [64, 40, 91], [3, 1, 5]
    feats = [torch.randn(length, 20) for length in lengths]
    tokens = [torch.randint(3, 11, (length,)) for length in token_lens]
    batch = (
        torch.nn.utils.rnn.pad_sequence(feats, batch_first=True),
        torch.tensor(lengths),
        torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=-1),
        torch.tensor(token_lens),
    )
    together = model(*batch)
    alone = [
        model(f[None], torch.tensor([len(f)]), t[None], torch.tensor([len(t)]))
        for f, t in zip(feats, tokens, strict=True)
    ]
    for name in ("loss", "ctc", "attention"):
        mean = torch.stack([getattr(each, name) for each in alone]).mean()
        torch.testing.assert_close(getattr(together, name), mean, rtol=1e-5, atol=1e-5)


def test_every_parameter_learns() -> None:
    torch.manual_seed(4)
    model = AsrModel(CONFIG)
    feats, lengths = torch.randn(4, 200, 20), torch.tensor([200, 180, 160, 100])
    tokens, token_lens = torch.randint(3, 11, (4, 9)), torch.tensor([9, 8, 9, 4])
    model(feats, lengths, tokens, token_lens).loss.backward()
    still = [
        name
        for name, parameter in model.named_parameters()
        # A key's bias shifts all of a query's scores alike: softmax does not see it.
        if "linear_k.bias" not in name and (parameter.grad is None or not parameter.grad.abs().sum() > 0)
    ]
    assert still == []


def test_places_for_tokens_that_no_utterance_fills_change_nothing() -> None:
    """Neither the losses, the load of the experts among them, nor the gradient."""
    torch.manual_seed(5)
    experts = FeedForwardConfig(hidden_dim=8, num_experts=3, load_loss_weight=0.1)
    no_dropout = {"dropout": 0.0, "attention_dropout": 0.0, "hidden_dropout": 0.0}
    encoder = replace(CONFIG.encoder, feed_forward=experts, **no_dropout)
    decoder = replace(CONFIG.decoder, feed_forward=experts, **no_dropout)
    model = AsrModel(replace(CONFIG, encoder=encoder, decoder=decoder))
    feats, lengths, token_lens = torch.randn(2, 90, 20), torch.tensor([90, 70]), torch.tensor([4, 2])
    tokens = torch.tensor([[5, 3, 9, 6], [7, 4, -1, -1]])
    found = []
    for more in (0, 3, 11):
        model.zero_grad()
        losses = model(feats, lengths, torch.nn.functional.pad(tokens, (0, more), value=-1), token_lens)
        losses.loss.backward()
        found.append((losses, [parameter.grad for parameter in model.parameters()]))
    assert all(value > 0 for value in found[0][0])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-6)


def test_a_ctc_weight_of_1_trains_the_encoder_by_ctc_alone() -> None:
    torch.manual_seed(6)
    model = AsrModel(replace(CONFIG, ctc_weight=1.0)).eval()
    batch = torch.randn(2, 90, 20), torch.tensor([90, 70]), torch.tensor([[5, 3], [7, -1]]), torch.tensor([2, 1])
    losses = model(*batch)
    losses.loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert losses.attention == losses.load == 0
    assert losses.loss == losses.ctc
    without = {name for name, gradient in gradients.items() if gradient is None}
    assert without == {name for name in gradients if name.startswith(("left_decoder.", "right_decoder."))}
    model.zero_grad()
    encoder_out, lengths, _ = model.encoder(*batch[:2])
    log_probs = model.ctc.ctc_lo(encoder_out).log_softmax(-1).transpose(0, 1)
    expected = torch.nn.functional.ctc_loss(log_probs, batch[2].clamp(min=0), lengths, batch[3], reduction="sum") / 2
    torch.testing.assert_close(losses.loss, expected)
    expected.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)
