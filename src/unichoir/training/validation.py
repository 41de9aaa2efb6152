"""Loss and error rates on held-out speech, with greedy CTC decoding, which is fast enough to run often."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unichoir.data.dataset import FRAME_STEP, PADDING_TOKEN, Batch
from unichoir.errors import TrainingError
from unichoir.search.greedy import ctc_greedy_search
from unichoir.text.tokenizer import Tokenizer
from unichoir.text.wer import ErrorCounts, align, count_errors, word_errors
from unichoir.training.feeding import Loaded
from unichoir.training.parallel import Spread


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Means over the utterances of dev. Error rates are fractions of the reference."""

    loss: float
    ctc: float
    attention: float
    wer: float
    ter: float
    """Token error rate."""


def to_device(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return feats (B, T, M), feats_lengths (B,), tokens (B, U) and token_lengths (B,) as tensors on `device`."""
    arrays = (batch.feats, batch.feats_lengths, batch.tokens, batch.token_lengths)
    feats, feats_lengths, tokens, token_lengths = (torch.from_numpy(array).to(device) for array in arrays)
    return feats, feats_lengths, tokens, token_lengths


@torch.no_grad()
def validate(
    spread: Spread,
    loaded: Iterable[Loaded],
    tokenizer: Tokenizer,
    autocast: Callable[[], AbstractContextManager[object]],
    should_stop: Callable[[], bool],
) -> Validation | None:
    """Measure the model with full context on what all processes have loaded. Returns None if asked to stop.

    should_stop: must return the same value in every process. Raises TrainingError without any speech.
    """
    model, device = spread.model, spread.world.device
    model.eval()
    sums = np.zeros(4)
    words, tokens = ErrorCounts(), ErrorCounts()
    try:
        for item in loaded:
            if should_stop():
                return None
            if item.batch is None:
                if spread.layout.is_collective:
                    with autocast():
                        model.measure(*to_device(empty_batch(model.config.encoder.input_dim), device))
                continue
            with autocast():
                loss, log_probs, lengths = model.measure(*to_device(item.batch, device))
            size = len(item.batch.keys)
            sums += size * np.array([*torch.stack([loss.loss, loss.ctc, loss.attention]).double().tolist(), 1.0])
            batch_words, batch_tokens = _greedy_errors(item.batch, log_probs, lengths, model.config.blank_id, tokenizer)
            words += batch_words
            tokens += batch_tokens
    finally:
        model.train()
    counts = [*sums, words.errors, words.reference, tokens.errors, tokens.reference]
    *losses, total, word_errors_, num_words, token_errors, num_tokens = spread.world.gather(counts).sum(axis=0)
    if not total:
        raise TrainingError("no utterance of the dev manifests can be used")
    return Validation(
        loss=float(losses[0] / total),
        ctc=float(losses[1] / total),
        attention=float(losses[2] / total),
        wer=float(word_errors_ / max(num_words, 1)),
        ter=float(token_errors / max(num_tokens, 1)),
    )


def empty_batch(input_dim: int) -> Batch:
    """Return a silent batch for an idle process that other processes need to take part."""
    return Batch(
        keys=[],
        feats=np.zeros((1, FRAME_STEP + 3, input_dim), dtype=np.float32),
        feats_lengths=np.zeros(1, dtype=np.int64),
        tokens=np.full((1, 1), PADDING_TOKEN, dtype=np.int64),
        token_lengths=np.zeros(1, dtype=np.int64),
    )


def _greedy_errors(
    batch: Batch, log_probs: Tensor, lengths: Tensor, blank_id: int, tokenizer: Tokenizer
) -> tuple[ErrorCounts, ErrorCounts]:
    """Return the word and token errors of CTC greedy search."""
    words, tokens = ErrorCounts(), ErrorCounts()
    scores = log_probs.cpu().numpy()
    for i, frames in enumerate(lengths.tolist()):
        hypothesis = ctc_greedy_search(scores[i, :frames], blank_id).tokens
        reference = batch.tokens[i, : batch.token_lengths[i]].tolist()
        tokens += count_errors(align([*map(str, reference)], [*map(str, hypothesis)]))
        words += word_errors(tokenizer.decode(reference), tokenizer.decode(hypothesis))
    return words, tokens
