"""What the engines behind `Backend` share: padding, hypotheses as a decoder's input, a decoder's output as scores."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from unichoir.decoding.backend import Floats, Ints, ModelInfo


class DecoderScores(ABC):
    """The two ways in which `Backend` asks its decoders, on top of the engine's one way to run them."""

    info: ModelInfo

    def score_hypotheses(self, encoder_out: Floats, hyps: Sequence[Sequence[int]], reverse: bool) -> list[Floats]:
        """See `Backend.score_hypotheses`. Raises DecodingError for `reverse` without a right-to-left decoder."""
        if not hyps:
            return []
        tokens_in, lengths = decoder_inputs(hyps, self.info.sos_id, reverse)
        log_probs = self._decode(encoder_out, tokens_in, lengths, reverse)
        return token_scores(log_probs, tokens_in, lengths, self.info.eos_id)

    def next_token_log_probs(self, encoder_out: Floats, prefixes: Ints) -> Floats:
        """See `Backend.next_token_log_probs`."""
        lengths = np.full(len(prefixes), prefixes.shape[1], dtype=np.int64)
        return self._decode(encoder_out, prefixes, lengths, reverse=False)[:, -1]

    @abstractmethod
    def _decode(self, encoder_out: Floats, tokens_in: Ints, lengths: Ints, reverse: bool) -> Floats:
        """Log-probabilities (N, U, V) after each token of `tokens_in` (N, U), of which `lengths` (N,) are real."""


def zero_padding(feats: Floats, feats_lengths: Ints) -> Floats:
    """Feature frames (B, T, M) with 0 from `feats_lengths` (B,) on: a NaN in the padding would spread through sums."""
    padding = np.arange(feats.shape[1]) >= np.asarray(feats_lengths)[:, None]
    return np.where(padding[:, :, None], np.float32(0), feats) if padding.any() else feats


def decoder_inputs(hyps: Sequence[Sequence[int]], sos_id: int, reverse: bool) -> tuple[Ints, Ints]:
    """Rows of sos and the hypothesis (reversed if asked), (N, U + 1) padded with sos, and their lengths (N,)."""
    lengths = np.array([len(hyp) + 1 for hyp in hyps], dtype=np.int64)
    tokens_in = np.full((len(hyps), int(lengths.max(initial=1))), sos_id, dtype=np.int64)
    for row, hyp in zip(tokens_in, hyps, strict=True):
        row[1 : len(hyp) + 1] = hyp[::-1] if reverse else hyp
    return tokens_in, lengths


def token_scores(log_probs: Floats, tokens_in: Ints, lengths: Ints, eos_id: int) -> list[Floats]:
    """Log-probability of each row's tokens and of the closing eos, (U_i + 1,) each; log_probs: (N, U + 1, V)."""
    targets = np.concatenate([tokens_in[:, 1:], np.full((len(tokens_in), 1), eos_id)], axis=1)
    np.put_along_axis(targets, lengths[:, None] - 1, eos_id, axis=1)
    chosen = np.take_along_axis(log_probs, targets[:, :, None], axis=2)[:, :, 0]
    return [row[:length] for row, length in zip(chosen, lengths, strict=True)]
