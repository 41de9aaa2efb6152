"""Loss and error rates on held-out speech, with greedy CTC decoding: cheap enough to run often."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from unichoir.data.dataset import Batch
from unichoir.decoding.greedy import ctc_greedy_search
from unichoir.errors import TrainingError
from unichoir.model.asr_model import AsrModel
from unichoir.text.tokenizer import Tokenizer
from unichoir.text.wer import ErrorCounts, align, count_errors, word_errors
from unichoir.training.feeding import Loaded


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Means over the utterances of dev; error rates are fractions of the reference."""

    loss: float
    ctc: float
    attention: float
    wer: float
    ter: float
    """Token error rate."""


def to_device(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """feats (B, T, M), feats_lengths (B,), tokens (B, U), token_lengths (B,) as tensors on `device`."""
    arrays = (batch.feats, batch.feats_lengths, batch.tokens, batch.token_lengths)
    feats, feats_lengths, tokens, token_lengths = (torch.from_numpy(array).to(device) for array in arrays)
    return feats, feats_lengths, tokens, token_lengths


@torch.inference_mode()
def validate(
    model: AsrModel,
    loaded: Iterable[Loaded],
    tokenizer: Tokenizer,
    autocast: Callable[[], AbstractContextManager[object]],
    should_stop: Callable[[], bool],
) -> Validation | None:
    """Measure `model` under full context; None when asked to stop meanwhile. Raises TrainingError without speech."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    total, losses = 0, torch.zeros(3, dtype=torch.float64)
    words, tokens = ErrorCounts(), ErrorCounts()
    try:
        for item in loaded:
            if should_stop():
                return None
            if item.batch is None:
                continue
            with autocast():
                feats, feats_lengths, *targets = to_device(item.batch, device)
                encoder_out, encoder_out_lens, _ = model.encoder(feats, feats_lengths)
                loss = model.losses(encoder_out, encoder_out_lens, *targets)
                log_probs = model.ctc.log_probs(encoder_out).cpu().numpy()
            size = len(item.batch.keys)
            losses += torch.stack([loss.loss, loss.ctc, loss.attention]).double().cpu() * size
            total += size
            for i, frames in enumerate(encoder_out_lens.tolist()):
                hypothesis = ctc_greedy_search(log_probs[i, :frames], model.config.blank_id).tokens
                reference = item.batch.tokens[i, : item.batch.token_lengths[i]].tolist()
                tokens += count_errors(align([*map(str, reference)], [*map(str, hypothesis)]))
                words += word_errors(tokenizer.decode(reference), tokenizer.decode(hypothesis))
    finally:
        model.train(was_training)
    if not total:
        raise TrainingError("no utterance of the dev manifests can be used")
    means = (losses / total).tolist()
    return Validation(loss=means[0], ctc=means[1], attention=means[2], wer=words.rate, ter=tokens.rate)
