"""WeNet's checkpoints with reference outputs, and comparisons with these."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unichoir.engine.backend import Backend
from unichoir.engine.encoding import encode_utterance
from unichoir.network.asr_model import AsrModel
from unichoir.network.encoder import places_kept
from unichoir.network.masks import ChunkMask
from unichoir.recognition.options import DecodingOptions
from unichoir.search.hypothesis import Hypothesis
from unichoir.search.options import MODES
from unichoir.search.search import Search
from unichoir.text.tokenizer import load_tokenizer

TINY = "wenet_moe_tiny"
NAMES = [TINY, "wenet_dense", "wenet_moe_top1_nobias", "wenet_conv2d6", "wenet_conv2d8", "wenet_transformer"]
LEFT_CHUNKS = {0: -1, 16: -1, 4: 2}
"""How the references in chunks were made: chunk size to left chunks."""


def decoded_as_wenet(backend: Backend, checkpoint: Path) -> Iterator[tuple[list[Hypothesis], dict[str, Any]]]:
    """Yield what the engine and WeNet decode, of each utterance, in each mode and context of the references."""
    search, arrays = Search(backend, load_tokenizer(checkpoint)), np.load(checkpoint / "reference.npz")
    decoded = json.loads((checkpoint / "decode.json").read_text())
    assert len(decoded["results"]) == 2
    for context, results in decoded["results"].items():
        chunk_size = int(context.removeprefix("chunk").replace("full", "0"))
        left = LEFT_CHUNKS[chunk_size]
        encoder_out, lens = encode_utterance(backend, arrays["feats"], arrays["feats_lengths"], chunk_size, left)
        assert set(results) == set(MODES)
        for mode, references in results.items():
            options = DecodingOptions(
                mode=mode,
                beam_size=decoded["beam_size"],
                ctc_weight=decoded["ctc_weight"],
                reverse_weight=decoded["reverse_weight"],
                max_length=encoder_out.shape[1],  # WeNet's limit is the longest of the batch
            )
            for output, length, reference in zip(encoder_out, lens, references, strict=True):
                yield search(output[:length], backend.ctc_log_probs(output[None, :length])[0], options), reference


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
