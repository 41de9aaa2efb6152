"""The frames that the decoders see in training, against frames that are chosen one by one."""

from dataclasses import replace

import torch
from tests.network.test_asr_model import CONFIG
from torch import Tensor

from unichoir.network.asr_model import AsrModel
from unichoir.network.upcycle import upcycled_config

LITE = replace(CONFIG, decoder=replace(CONFIG.decoder, memory="non_blank"))
LENGTHS, TOKENS = torch.tensor([12, 9, 7, 5]), torch.tensor([[3, 4, 5], [6, 7, -1], [8, 9, 10], [4, -1, -1]])
TOKEN_LENGTHS = torch.tensor([3, 2, 3, 1])


def models() -> tuple[AsrModel, AsrModel]:
    """Two models with the same weights, the second of which sees all frames. The blank depends on the first value."""
    torch.manual_seed(3)
    lite, plain = AsrModel(LITE).eval(), AsrModel(CONFIG).eval()
    with torch.no_grad():
        lite.ctc.ctc_lo.weight[0] = 20.0 * torch.eye(16)[0]
    plain.load_state_dict(lite.state_dict())
    return lite, plain


def frames() -> Tensor:
    """Frames of which some aren't blank, in two rows; the third has only blanks, and the fourth none."""
    encoder_out = torch.randn(4, 12, 16, generator=torch.Generator().manual_seed(4))
    encoder_out[2, :, 0] = 2.0
    encoder_out[2, 7:, 0] = -2.0  # padding that isn't blank
    encoder_out[3, :, 0] = -2.0
    return encoder_out.requires_grad_()


def chosen_by_hand(model: AsrModel, row: Tensor) -> Tensor:
    kept = [frame for frame in row if int((model.ctc.ctc_lo.weight @ frame + model.ctc.ctc_lo.bias).argmax()) != 0]
    return torch.stack(kept) if kept else row


def test_the_loss_is_that_of_frames_chosen_by_hand() -> None:
    lite, plain = models()
    ours, theirs = frames(), frames()
    found = lite.losses(ours, LENGTHS, TOKENS, TOKEN_LENGTHS)
    chosen = [chosen_by_hand(plain, row[:length]) for row, length in zip(theirs, LENGTHS.tolist(), strict=True)]
    assert [len(rows) for rows in chosen][2:] == [7, 5]
    assert all(1 < len(rows) < int(length) for rows, length in zip(chosen[:2], LENGTHS[:2], strict=True))
    alone = [
        plain.losses(rows[None], torch.tensor([len(rows)]), TOKENS[i : i + 1], TOKEN_LENGTHS[i : i + 1]).attention
        for i, rows in enumerate(chosen)
    ]
    expected = torch.stack(alone).mean()
    torch.testing.assert_close(found.attention, expected)
    everything = plain.losses(theirs, LENGTHS, TOKENS, TOKEN_LENGTHS)
    torch.testing.assert_close(found.ctc, everything.ctc)
    assert not torch.allclose(found.attention, everything.attention, rtol=1e-3)
    (gradient,) = torch.autograd.grad(found.attention, ours)
    (by_hand,) = torch.autograd.grad(expected, theirs)
    torch.testing.assert_close(gradient, by_hand, rtol=1e-4, atol=1e-6)
    assert by_hand.abs().sum() > 0


def test_the_complete_model_learns_from_the_chosen_frames() -> None:
    lite, plain = models()
    feats, lengths = torch.randn(4, 60, 20), torch.tensor([60, 50, 40, 30])
    with torch.no_grad():
        first = lite.encoder(feats, lengths)[0][..., 0]
        lite.ctc.ctc_lo.weight[0] *= 50  # the frames of an untrained encoder hardly differ
        lite.ctc.ctc_lo.bias[0] = -1000 * first.median()
    losses = lite(feats, lengths, TOKENS, TOKEN_LENGTHS)
    assert not torch.equal(losses.attention, plain(feats, lengths, TOKENS, TOKEN_LENGTHS).attention)
    losses.loss.backward()
    assert all(torch.isfinite(each.grad).all() for each in lite.parameters() if each.grad is not None)
    measured, _, _ = lite.measure(feats, lengths, TOKENS, TOKEN_LENGTHS)
    torch.testing.assert_close(measured.attention, losses.attention)


def test_an_upcycled_model_sees_the_same_frames() -> None:
    dense = replace(LITE, encoder=replace(LITE.encoder, feed_forward=LITE.decoder.feed_forward))
    assert upcycled_config(dense, 4).decoder.memory == "non_blank"
