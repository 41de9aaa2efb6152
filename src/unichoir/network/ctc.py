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

    def loss(self, encoder_out: Tensor, encoder_out_lens: Tensor, tokens: Tensor, token_lens: Tensor) -> Tensor:
        """Return the mean negative log-likelihood of the batch's utterances (Graves et al. 2006, equation 5).

        tokens: (B, U), any padding. An utterance with more tokens than frames counts as 0.
        """
        log_probs = self.log_probs(encoder_out).transpose(0, 1)
        total = functional.ctc_loss(
            log_probs,
            tokens.clamp(min=0),
            encoder_out_lens,
            token_lens,
            blank=self.blank_id,
            reduction="sum",
            zero_infinity=True,
        )
        return total / encoder_out.shape[0]
