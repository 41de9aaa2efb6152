"""What recognition needs of a model: numpy in, numpy out, so that nothing above can tell which engine computes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unichoir.configuration import check_ranges

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What the searches must know of a model."""

    vocab_size: int
    encoder_dim: int
    sos_id: int
    eos_id: int
    blank_id: int = 0
    subsampling_rate: int = 4
    """Feature frames per encoder frame."""
    right_context: int = 6
    """Encoder frame i sees the feature frames from subsampling_rate * i to subsampling_rate * i + right_context."""
    has_reverse_decoder: bool = False
    reverse_weight: float = 0.0
    """The share of the right-to-left decoder in rescoring when the caller does not choose one."""
    ctc_weight: float = 0.5
    """Of CTC in rescoring when the caller does not choose one."""
    attention_beam: int = 0
    """Width of the left-to-right decoder's own search in rescoring when the caller does not choose; 0: none."""
    reencode: bool = False
    """Whether final results of streams come from the whole utterance, heard again, when the caller does not choose."""
    top_k: int = 0
    """Experts chosen for each frame; an engine may be limited to fewer. 0: no experts, or no choice."""

    def __post_init__(self) -> None:
        last = self.vocab_size - 1
        check_ranges(
            self,
            vocab_size=(1, 1 << 24),
            encoder_dim=(1, 1 << 20),
            blank_id=(0, last),
            sos_id=(0, last),
            eos_id=(0, last),
            subsampling_rate=(1, 64),
            right_context=(0, 1000),
            reverse_weight=(0, 1),
            ctc_weight=(0, 1000),
            attention_beam=(0, 1000),
            top_k=(0, 4096),
        )

    def num_encoder_frames(self, num_feature_frames: int) -> int:
        """How many encoder frames come out of so many feature frames; 0 when they are too few for one."""
        return max(0, (num_feature_frames - self.right_context - 1) // self.subsampling_rate + 1)


class Decoder(Protocol):
    """An attention decoder before one utterance. What it has computed once it does not compute again."""

    def continuations(self, hyps: Sequence[Sequence[int]]) -> list[Floats]:
        """The log-probabilities of what follows each beginning of each hypothesis.

        hyps: token ids without sos and eos, of any lengths, even 0, in the order in which the decoder writes.
        Returns for each an array (U_i + 1, V): row u is of the token after the first u.
        """
        ...


class Backend(Protocol):
    """A model ready to run.

    Rows of a batch do not influence each other, whatever their lengths and whatever stands in their padding.
    """

    @property
    def info(self) -> ModelInfo: ...

    def encode_chunk(
        self, feats: Floats, feats_lengths: Ints, state: Any, num_left_frames: int
    ) -> tuple[Floats, Ints, Any]:
        """Encode the next window of feature frames of each row; a whole utterance is one window.

        feats: (B, T, M) log-mel frames; feats_lengths: (B,) valid frames, 0 to T, full except in a row's last window;
        state: None at the start of the utterances, after that what the last call returned; num_left_frames: each frame
        attends to the frames of its own window and to at most so many encoder frames before them (-1: to all).
        Windows overlap: for C encoder frames one is subsampling_rate * (C - 1) + right_context + 1 feature frames long
        and starts subsampling_rate * C after the one before.

        Returns encoder_out (B, T', D), encoder_out_lens (B,), state. A row with too few frames for an encoder frame,
        even none, has length 0 and harms no other; what later windows give it is not used.
        """
        ...

    def initial_state(self, batch_size: int, num_left_frames: int) -> Any:
        """The state of `batch_size` streams that have heard nothing, with all the room that `num_left_frames` need.

        From it `encode_chunk` with the same `num_left_frames` makes states of one size, however much has been heard, so
        that those of streams of any age can be joined. Raises DecodingError for a model that cannot stream.
        """
        ...

    def join_states(self, states: Sequence[Any]) -> Any:
        """One state with the rows of several of the same size."""
        ...

    def split_state(self, state: Any) -> list[Any]:
        """The state of each row for itself; none of them holds on to the memory of the others."""
        ...

    def restart_positions(self, state: Any) -> Any:
        """The same past, but absolute positions are counted anew from the oldest frame in view.

        For the start of an utterance: models with absolute positions know those of utterances, not those of hours.
        """
        ...

    def ctc_log_probs(self, encoder_out: Floats) -> Floats:
        """CTC log-probabilities (B, T', V) of encoder_out (B, T', D), frame by frame."""
        ...

    def decoder(self, encoder_out: Floats, reverse: bool = False) -> Decoder:
        """The left-to-right decoder, or with `reverse` the right-to-left one, before one utterance (T', D) without
        padding, T' > 0.

        Raises DecodingError for `reverse` without a right-to-left decoder.
        """
        ...
