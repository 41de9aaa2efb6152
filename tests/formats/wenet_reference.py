"""WeNet's checkpoints with reference outputs, and comparisons with these."""

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unichoir.network.asr_model import AsrModel
from unichoir.network.encoder import places_kept
from unichoir.network.masks import ChunkMask

TINY = "wenet_moe_tiny"
NAMES = [TINY, "wenet_dense", "wenet_moe_top1_nobias", "wenet_conv2d6", "wenet_conv2d8", "wenet_transformer"]


def assert_rows_close(ours: Tensor, reference: Tensor, lengths: Tensor, tolerance: float) -> None:
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(ours[row, :length], reference[row, :length], rtol=0, atol=tolerance)


@torch.no_grad()
def assert_every_reference_array(model: AsrModel, checkpoint: Path) -> None:
    """Compare all reference arrays: the encoder to 1e-4, log-probabilities and losses to 1e-3."""
    arrays = np.load(checkpoint / "reference.npz")
    reference = {name: torch.from_numpy(arrays[name]) for name in arrays}
    feats, lengths = reference["feats"], reference["feats_lengths"]
    compared = {"feats", "feats_lengths"}
    for name in reference:
        if match := re.fullmatch(r"encoder_out_(full|chunk(\d+)_left(-?\d+))", name):
            chunk = None if match[1] == "full" else ChunkMask(int(match[2]), int(match[3]))
            out, lens, _ = model.encoder(feats, lengths, chunk=chunk)
            assert torch.equal(lens, reference[f"{name}_lens"])
            assert_rows_close(out, reference[name], lens, 1e-4)
            compared |= {name, f"{name}_lens"}
        elif match := re.fullmatch(r"encoder_out_streaming_chunk(\d+)_left(-?\d+)", name):
            size, left = int(match[1]), int(match[2])
            state, chunks = model.encoder.initial_state(1), []
            utterance = feats[:1, : int(lengths[0])]
            rate, context = model.config.encoder.subsampling_rate, model.config.encoder.right_context
            for start in range(0, utterance.shape[1] - context, rate * size):
                window = utterance[:, start : start + rate * (size - 1) + context + 1]
                num_frames = window.shape[1]
                num_new = (num_frames - context - 1) // rate + 1
                kept = places_kept(state.num_past, num_new, left * size if left >= 0 else -1)
                out, _, state = model.encoder(window, torch.tensor([num_frames]), state=state, kept=torch.tensor(kept))
                chunks.append(out)
            torch.testing.assert_close(torch.cat(chunks, dim=1), reference[name], rtol=0, atol=1e-4)
            compared.add(name)
    encoder_out, encoder_out_lens, _ = model.encoder(feats, lengths)
    assert_rows_close(model.ctc.log_probs(encoder_out), reference["ctc_log_probs_full"], encoder_out_lens, 1e-3)
    for decoder, prefix in ((model.left_decoder, ""), (model.right_decoder, "reverse_")):
        assert decoder is not None
        token_lens = reference["decoder_in_lens"]
        logits = decoder(encoder_out, encoder_out_lens, reference[f"{prefix}decoder_in"], token_lens)
        ours, expected = torch.log_softmax(logits, dim=-1), reference[f"{prefix}decoder_log_probs"]
        assert_rows_close(ours, expected, token_lens, 1e-3)
    losses = model(feats, lengths, reference["target"], reference["target_lengths"])
    for ours, name in ((losses.loss, "loss"), (losses.ctc, "loss_ctc"), (losses.attention, "loss_att")):
        torch.testing.assert_close(ours, reference[name], rtol=0, atol=1e-3)
    compared |= {"ctc_log_probs_full", "decoder_in", "reverse_decoder_in", "decoder_in_lens", "decoder_log_probs"}
    compared |= {"reverse_decoder_log_probs", "target", "target_lengths", "loss", "loss_ctc", "loss_att"}
    assert compared == set(reference) - {"waveform_int16", "fbank"}  # the filterbank has a test of its own
