"""The complete model: encoder, CTC, two decoders, and their hybrid training loss."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from unichoir.network.config import ModelConfig
from unichoir.network.ctc import Ctc
from unichoir.network.decoder import TransformerDecoder
from unichoir.network.encoder import Encoder
from unichoir.network.masks import ChunkMask, frame_mask
from unichoir.network.moe import take_load_loss


class LossOutput(NamedTuple):
    """The losses of one batch, each a scalar tensor averaged over the utterances.

    This is a tuple because torch's parallel wrappers search tuples for tensors.
    """

    loss: Tensor
    """The loss to minimise: ctc_weight * ctc + (1 - ctc_weight) * attention + load."""
    ctc: Tensor
    attention: Tensor
    """(1 - reverse_weight) * left-to-right + reverse_weight * right-to-left."""
    load: Tensor
    """The sum of the auxiliary losses of all layers with experts, times their `load_loss_weight`. It is computed per
    batch, not per utterance, and is 0 in evaluation."""


class AsrModel(nn.Module):
    """The U2++ model (arXiv 2106.05642), with Mixture of Experts (arXiv 2404.16407) or dense feed-forward layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        dim, decoder = config.encoder.dim, config.decoder
        self.encoder = Encoder(config.encoder)
        self.ctc = Ctc(dim, config.vocab_size, config.blank_id)
        self.left_decoder = TransformerDecoder(config.vocab_size, dim, decoder.num_blocks, decoder)
        self.right_decoder = (
            TransformerDecoder(config.vocab_size, dim, decoder.num_reverse_blocks, decoder)
            if decoder.num_reverse_blocks
            else None
        )

    def forward(
        self,
        feats: Tensor,
        feats_lengths: Tensor,
        tokens: Tensor,
        token_lengths: Tensor,
        chunk: ChunkMask | None = None,
        top_k: Tensor | None = None,
    ) -> LossOutput:
        """Return the hybrid loss (U2++, equation 1) of a batch.

        feats: (B, T, M) log-mel frames; feats_lengths: (B,); tokens: (B, U) padded with -1; token_lengths: (B,); chunk:
        the attention chunk of this batch, None for full context; top_k: (1,) int64, the number of experts per frame, if
        lower than configured (`draw_top_k`).
        """
        encoder_out, encoder_out_lens, _ = self.encoder(feats, feats_lengths, chunk=chunk, top_k=top_k)
        return self.losses(encoder_out, encoder_out_lens, tokens, token_lengths, top_k)

    def measure(
        self, feats: Tensor, feats_lengths: Tensor, tokens: Tensor, token_lengths: Tensor
    ) -> tuple[LossOutput, Tensor, Tensor]:
        """Return the loss with full context, and the CTC log-probabilities (B, T', V) with their lengths (B,)."""
        encoder_out, encoder_out_lens, _ = self.encoder(feats, feats_lengths)
        loss = self.losses(encoder_out, encoder_out_lens, tokens, token_lengths)
        return loss, self.ctc.log_probs(encoder_out), encoder_out_lens

    def losses(
        self,
        encoder_out: Tensor,
        encoder_out_lens: Tensor,
        tokens: Tensor,
        token_lengths: Tensor,
        top_k: Tensor | None = None,
    ) -> LossOutput:
        """Return the hybrid loss for the encoder's output (B, T', D)."""
        config = self.config
        log_probs = self.ctc.log_probs(encoder_out)
        ctc = self.ctc.loss(log_probs, encoder_out_lens, tokens, token_lengths)
        attention = torch.zeros_like(ctc)
        if config.ctc_weight < 1:
            memory = self.decoder_memory(encoder_out, encoder_out_lens, log_probs)
            attention = self._attention_loss(memory, tokens, token_lengths, top_k)
        loss = config.ctc_weight * ctc + (1 - config.ctc_weight) * attention
        load = take_load_loss(self) if self.training else None
        if load is None or not self.training:  # left over from recomputation
            return LossOutput(loss, ctc, attention, torch.zeros_like(loss))
        return LossOutput(loss + load, ctc, attention, load)

    def decoder_memory(self, encoder_out: Tensor, encoder_out_lens: Tensor, log_probs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the frames (B, T', D) that the decoders attend to, with their lengths (B,) (`DecoderConfig.memory`).

        log_probs: (B, T', V) of CTC. `non_blank` follows `filter_blank_embedding` of WeNet's `asr_model`, except that
        padding is never chosen, and that an utterance whose frames are all blank keeps them, which is an error in
        WeNet. Chosen frames move to the front of their row; the frames after them are padding.
        """
        if self.config.decoder.memory == "all":
            return encoder_out, encoder_out_lens
        is_real = frame_mask(encoder_out_lens, encoder_out.shape[1])
        is_chosen = is_real & (log_probs.argmax(dim=-1) != self.config.blank_id)
        is_chosen = torch.where(is_chosen.any(dim=1, keepdim=True), is_chosen, is_real)
        order = is_chosen.int().argsort(dim=1, descending=True, stable=True)
        return encoder_out.take_along_dim(order.unsqueeze(2), dim=1), is_chosen.sum(dim=1)

    def _attention_loss(
        self, memory: tuple[Tensor, Tensor], tokens: Tensor, token_lengths: Tensor, top_k: Tensor | None
    ) -> Tensor:
        """Return the weighted loss of both decoders."""
        weight = self.config.reverse_weight
        attention = self._decoder_loss(self.left_decoder, memory, tokens, token_lengths, top_k)
        if self.right_decoder is None or not weight:
            return attention
        backwards = reverse_tokens(tokens, token_lengths)
        reverse = self._decoder_loss(self.right_decoder, memory, backwards, token_lengths, top_k)
        return (1 - weight) * attention + weight * reverse

    def _decoder_loss(
        self,
        decoder: TransformerDecoder,
        memory: tuple[Tensor, Tensor],
        tokens: Tensor,
        token_lengths: Tensor,
        top_k: Tensor | None,
    ) -> Tensor:
        config = self.config
        tokens_in, targets = add_sos_eos(tokens, token_lengths, config.sos_id, config.eos_id)
        logits = decoder(*memory, tokens_in, token_lengths + 1, top_k=top_k)
        total = label_smoothing_loss(logits, targets, config.label_smoothing)
        return total / (token_lengths.sum() + len(tokens) if config.length_normalized_loss else len(tokens))


def add_sos_eos(tokens: Tensor, token_lengths: Tensor, sos_id: int, eos_id: int) -> tuple[Tensor, Tensor]:
    """Return the decoder input (B, U + 1), rows starting with `sos`, and targets (B, U + 1), rows ending with `eos`.

    The targets are padded with -1.
    """
    batch_size, num_tokens = tokens.shape
    column = tokens.new_full((batch_size, 1), sos_id)
    tokens_in = torch.cat([column, tokens.clamp(min=0)], dim=1)
    padded = torch.cat([tokens, tokens.new_full((batch_size, 1), -1)], dim=1)
    place = torch.arange(num_tokens + 1, device=tokens.device)
    padded = padded.masked_fill(place > token_lengths.unsqueeze(1), -1)
    return tokens_in, padded.masked_fill(place == token_lengths.unsqueeze(1), eos_id)


def reverse_tokens(tokens: Tensor, token_lengths: Tensor) -> Tensor:
    """Reverse each row of (B, U) within its own length. Padding stays in place."""
    place = torch.arange(tokens.shape[1], device=tokens.device)
    reversed_place = torch.where(
        frame_mask(token_lengths, tokens.shape[1]), token_lengths.unsqueeze(1) - 1 - place, place
    )
    return tokens.gather(1, reversed_place)


def label_smoothing_loss(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Return the Kullback-Leibler divergence from the smoothed targets, summed over all places whose target is not -1.

    The smoothed target has 1 - smoothing at the token and smoothing / (V - 1) at every other (Szegedy et al. 2016).
    logits: (B, U, V); targets: (B, U).
    """
    others = logits.shape[-1] - 1
    log_probs = torch.log_softmax(logits.float(), dim=-1)
    at_target = log_probs.gather(2, targets.clamp(min=0).unsqueeze(2)).squeeze(2)
    cross_entropy = -(1 - smoothing) * at_target
    negative_entropy = 0.0
    if smoothing > 0:
        cross_entropy = cross_entropy - smoothing / others * (log_probs.sum(dim=2) - at_target)
        share = torch.tensor([1 - smoothing, smoothing / others], dtype=torch.float64)
        weight = torch.tensor([1.0, float(others)], dtype=torch.float64)
        negative_entropy = float((torch.xlogy(share, share) * weight).sum())
    return (cross_entropy + negative_entropy).masked_fill(targets == -1, 0.0).sum()
