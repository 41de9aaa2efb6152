"""The interface between recognition and an engine: numpy in, numpy out, independent of what computes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from unichoir.configuration import check_ranges

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Properties of a model that recognition needs."""

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
    """Default weight of the right-to-left decoder in rescoring."""
    ctc_weight: float = 0.5
    """Default weight of CTC in rescoring."""
    attention_beam: int = 0
    """Default width of the left-to-right decoder's own search in rescoring; 0: none."""
    decoder_memory: Literal["all", "non_blank"] = "all"
    """Encoder frames that the decoders use in rescoring (`search.rescoring.decoder_memory`)."""
    reencode: bool = False
    """Whether the final results of streams are computed from the whole utterance, encoded again, by default."""
    top_k: int = 0
    """Experts per frame; an engine may be limited to fewer. 0: the model has no experts, or no choice among them."""

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
        """Return the number of encoder frames for this number of feature frames; 0 if they are too few for one."""
        return max(0, (num_feature_frames - self.right_context - 1) // self.subsampling_rate + 1)


class Decoder(Protocol):
    """An attention decoder for one utterance. It computes nothing twice."""

    def continuations(self, hyps: Sequence[Sequence[int]]) -> list[Floats]:
        """Return the log-probabilities of the next token after every prefix of every hypothesis.

        hyps: token ids without sos and eos, of any length, also 0, in the order in which the decoder generates them.
        The result has an array (U_i + 1, V) for each hypothesis; row u is for the token after the first u.
        """
        ...


class Backend(Protocol):
    """A model that is ready to run.

    The rows of a batch do not influence each other, whatever their lengths and their padding.
    """

    @property
    def info(self) -> ModelInfo: ...

    def encode_chunk(
        self, feats: Floats, feats_lengths: Ints, state: Any, num_left_frames: int
    ) -> tuple[Floats, Ints, Any]:
        """Encode the next window of feature frames of each row; a whole utterance is one window.

        feats: (B, T, M) log-mel frames; feats_lengths: (B,) valid frames, 0 to T; only the last window of a row may be
        shorter than T. state: None at the start of the utterances, then the state that the previous call returned.
        num_left_frames: each frame attends to the frames of its own window and to at most this number of encoder frames
        before them (-1: to all). Windows overlap: a window for C encoder frames has
        subsampling_rate * (C - 1) + right_context + 1 feature frames and starts subsampling_rate * C frames after the
        previous one.

        Returns encoder_out (B, T', D), encoder_out_lens (B,) and the new state. A row with too few frames for an
        encoder frame has length 0; ignore the output of its later windows.
        """
        ...

    def initial_state(self, batch_size: int, num_left_frames: int) -> Any:
        """Return the state of `batch_size` new streams, with room for `num_left_frames` encoder frames.

        As long as `num_left_frames` stays the same, `encode_chunk` keeps the size of this state. States of streams of
        any age can therefore be joined. Raises DecodingError for a model that cannot stream.
        """
        ...

    def join_states(self, states: Sequence[Any]) -> Any:
        """Return one state with the rows of several states of the same size."""
        ...

    def split_state(self, state: Any) -> list[Any]:
        """Return one state per row; none of them shares memory with the others."""
        ...

    def restart_positions(self, state: Any) -> Any:
        """Return a state with the same past whose absolute positions start at the oldest visible frame.

        Use it at the start of an utterance: models with absolute positions are trained on utterances, not on hours.
        """
        ...

    def ctc_log_probs(self, encoder_out: Floats) -> Floats:
        """Return the CTC log-probabilities (B, T', V) of encoder_out (B, T', D), frame by frame."""
        ...

    def decoder(self, encoder_out: Floats, reverse: bool = False) -> Decoder:
        """Return the left-to-right or, with `reverse`, the right-to-left decoder for one utterance.

        encoder_out: (T', D) without padding, T' > 0. Raises DecodingError for `reverse` if the model has no
        right-to-left decoder.
        """
        ...
