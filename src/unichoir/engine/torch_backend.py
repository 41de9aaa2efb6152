"""The PyTorch engine: runs a model in training, or a checkpoint without an export."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from unichoir.engine.backend import Floats, Ints, ModelInfo
from unichoir.engine.device import Device
from unichoir.engine.tree_decoder import DecoderStep, TreeDecoder, check_top_k, zero_padding
from unichoir.errors import DecodingError
from unichoir.network.asr_model import AsrModel
from unichoir.network.decoder import TokenTree
from unichoir.network.encoder import EncoderState, places_kept


def model_info(model: AsrModel) -> ModelInfo:
    """Return the properties of a model that recognition needs."""
    config = model.config
    return ModelInfo(
        vocab_size=config.vocab_size,
        encoder_dim=config.encoder.dim,
        sos_id=config.sos_id,
        eos_id=config.eos_id,
        blank_id=config.blank_id,
        subsampling_rate=config.encoder.subsampling_rate,
        right_context=config.encoder.right_context,
        has_reverse_decoder=model.right_decoder is not None,
        reverse_weight=config.reverse_weight,
        decoder_memory=config.decoder.memory,
        top_k=config.encoder.feed_forward.top_k if config.encoder.feed_forward.num_experts else 0,
    )


def check_device(device: Device) -> None:
    """Raise DecodingError if torch cannot compute on the device."""
    if device == "cuda" and not torch.cuda.is_available():
        why = "finds no GPU here" if torch.version.cuda else "was built without CUDA"
        raise DecodingError(f"device cuda: the installed PyTorch {why}")


class TorchBackend:
    """A `Backend` for an `AsrModel`, without gradients.

    The model is used as it is: put a model in training into evaluation mode first. device: the model is moved there;
    None: it stays. States stay on the device between chunks; everything else is exchanged as numpy arrays. top_k:
    experts per frame, if fewer than in training. Raises DecodingError for a top_k that the model does not support.
    """

    def __init__(self, model: AsrModel, device: str | torch.device | None = None, top_k: int | None = None) -> None:
        self.model = model if device is None else model.to(device)
        self.info = model_info(model)
        check_top_k(top_k, self.info)
        self._top_k = None if top_k is None else self._ints(np.array([top_k]))

    def encode_chunk(
        self, feats: Floats, feats_lengths: Ints, state: EncoderState | None = None, num_left_frames: int = -1
    ) -> tuple[Floats, Ints, EncoderState]:
        """See `Backend.encode_chunk`.

        Raises DecodingError for a state if the convolution of the model is not causal: the model cannot stream.
        """
        encoder, batch_size = self.model.encoder, feats.shape[0]
        if state is not None and not encoder.config.conv_causal:
            raise DecodingError("this model cannot stream: its convolution is not causal")
        state = state or encoder.initial_state(batch_size)
        if feats.shape[1] <= self.info.right_context:  # too few for the subsampling's convolutions
            return np.zeros((batch_size, 0, self.info.encoder_dim), np.float32), np.zeros(batch_size, np.int64), state
        with torch.inference_mode():
            inputs = self._floats(zero_padding(feats, feats_lengths)), self._ints(feats_lengths)
            if encoder.config.conv_causal:
                num_new = self.info.num_encoder_frames(feats.shape[1])
                kept = self._ints(np.array(places_kept(state.num_past, num_new, num_left_frames)))
                encoder_out, lens, state = encoder(*inputs, state=state, top_k=self._top_k, kept=kept)
            else:
                encoder_out, lens, _ = encoder(*inputs, top_k=self._top_k)
        return encoder_out.cpu().numpy(), lens.cpu().numpy(), state

    def initial_state(self, batch_size: int, num_left_frames: int = 0) -> EncoderState:
        """See `Backend.initial_state`."""
        if not self.model.encoder.config.conv_causal:
            raise DecodingError("this model cannot stream: its convolution is not causal")
        state = self.model.encoder.initial_state(batch_size)
        times = self.model.encoder.config.frames_of_blocks
        return replace(
            state,
            att_cache=tuple(  # empty places come before the filled ones
                functional.pad(cache, (0, 0, each * num_left_frames, 0))
                for cache, each in zip(state.att_cache, times, strict=True)
            ),
        )

    def join_states(self, states: Sequence[EncoderState]) -> EncoderState:
        """See `Backend.join_states`."""
        return EncoderState(
            att_cache=tuple(torch.cat(rows) for rows in zip(*(state.att_cache for state in states), strict=True)),
            att_cache_lens=torch.cat([state.att_cache_lens for state in states]),
            cnn_cache=tuple(torch.cat(rows) for rows in zip(*(state.cnn_cache for state in states), strict=True)),
            offset=torch.cat([state.offset for state in states]),
        )

    def split_state(self, state: EncoderState) -> list[EncoderState]:
        """See `Backend.split_state`."""
        return [
            EncoderState(
                att_cache=tuple(cache[row : row + 1].clone() for cache in state.att_cache),
                att_cache_lens=state.att_cache_lens[row : row + 1].clone(),
                cnn_cache=tuple(cache[row : row + 1].clone() for cache in state.cnn_cache),
                offset=state.offset[row : row + 1].clone(),
            )
            for row in range(len(state.offset))
        ]

    def restart_positions(self, state: EncoderState) -> EncoderState:
        """See `Backend.restart_positions`."""
        return replace(state, offset=state.att_cache_lens)

    def ctc_log_probs(self, encoder_out: Floats) -> Floats:
        """See `Backend.ctc_log_probs`."""
        with torch.inference_mode():
            log_probs: Floats = self.model.ctc.log_probs(self._floats(encoder_out)).cpu().numpy()
        return log_probs

    def decoder(self, encoder_out: Floats, reverse: bool = False) -> TreeDecoder:
        """See `Backend.decoder`."""
        decoder = self.model.right_decoder if reverse else self.model.left_decoder
        if decoder is None:
            raise DecodingError("this model has no right-to-left decoder")
        with torch.inference_mode():
            memory = decoder.read(self._floats(encoder_out[None]))

        def run(step: DecoderStep) -> tuple[Floats, Floats]:
            with torch.inference_mode():
                visible = torch.tensor(step.visible[None], device=memory[0][0].device)
                tree = TokenTree(self._ints(step.positions[None]), visible)
                tokens, past = self._ints(step.tokens[None]), self._floats(step.past[None])
                logits, states = decoder.step(memory, tokens, tree, past, self._top_k)
                log_probs = torch.log_softmax(logits[0].float(), dim=-1)
            return log_probs.cpu().numpy(), states[0].float().cpu().numpy()

        empty = np.zeros((0, len(decoder.blocks), 2 * self.info.encoder_dim), np.float32)
        return TreeDecoder(run, self.info.sos_id, empty)

    def _floats(self, array: NDArray[Any]) -> Tensor:
        return torch.tensor(array, dtype=torch.float32, device=self.model.encoder.cmvn_mean.device)

    def _ints(self, array: NDArray[Any]) -> Tensor:
        return torch.tensor(array, dtype=torch.int64, device=self.model.encoder.cmvn_mean.device)
