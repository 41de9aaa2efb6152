"""Connectionist Temporal Classification: the output layer over encoder frames, and its loss."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Ctc(nn.Module):
    """A linear layer from encoder frames to tokens and blank."""

    def __init__(self, dim: int, vocab_size: int, blank_id: int) -> None:
        super().__init__()
        self.ctc_lo = nn.Linear(dim, vocab_size)
        self.blank_id = blank_id

    def log_probs(self, encoder_out: Tensor) -> Tensor:
        """Return log-probabilities (B, T, V) in fp32 for encoder frames (B, T, D)."""
        return torch.log_softmax(self.ctc_lo(encoder_out).float(), dim=-1)

    def loss(self, log_probs: Tensor, lengths: Tensor, tokens: Tensor, token_lens: Tensor) -> Tensor:
        """Return the mean negative log-likelihood of the batch's utterances (Graves et al. 2006, equation 5).

        log_probs: the result (B, T, V) of the method with this name, with its lengths (B,); tokens: (B, U), any
        padding. An utterance with more tokens than frames counts as 0.
        """
        total = functional.ctc_loss(
            log_probs.transpose(0, 1),
            tokens.clamp(min=0),
            lengths,
            token_lens,
            blank=self.blank_id,
            reduction="sum",
            zero_infinity=True,
        )
        return total / log_probs.shape[0]
