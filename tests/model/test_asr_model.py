"""The hybrid loss against brute force, and the pieces that prepare it."""

import itertools
import math

import pytest
import torch

from unichoir.model.asr_model import AsrModel, add_sos_eos, label_smoothing_loss, reverse_tokens
from unichoir.model.config import DecoderConfig, EncoderConfig, FeedForwardConfig, ModelConfig
from unichoir.model.ctc import Ctc

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
    assert float(ctc.loss(encoder_out, lens, targets, target_lens).detach()) == pytest.approx(expected, rel=1e-5)


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
