"""One utterance of a stream: its encoder frames, the search over them, and where it ends."""

import math

import numpy as np

from unichoir.engine.backend import Backend, Floats
from unichoir.recognition.endpoint import EndpointDetector
from unichoir.recognition.options import StreamingOptions
from unichoir.search.hypothesis import Hypothesis
from unichoir.search.search import Search
from unichoir.transcript.results import StreamResult


class Utterance:
    """A run of encoder frames of a stream and the search over them.

    number: of the utterance in the stream; first_frame: of the utterance in the stream; frame_ms: length of a frame.
    """

    def __init__(
        self,
        backend: Backend,
        search: Search,
        options: StreamingOptions,
        number: int,
        first_frame: int,
        frame_ms: float,
    ) -> None:
        self.number = number
        self.first_frame = first_frame
        self.is_over = False
        """Whether a rule has ended the utterance."""
        self.result: StreamResult | None = None
        """The final result, once it has been computed."""
        self._search = search
        self._options = options
        self._blank_id = backend.info.blank_id
        self._encoder_out = [np.zeros((0, backend.info.encoder_dim), np.float32)]
        self._beam = search.prefix_beam(options)
        self._detector = EndpointDetector(options.endpoint, frame_ms) if options.endpoint else None

    @property
    def num_frames(self) -> int:
        """Number of encoder frames, T'."""
        return self._beam.num_frames

    @property
    def encoder_out(self) -> Floats:
        """The encoder output (T', D)."""
        if len(self._encoder_out) > 1:
            self._encoder_out = [np.concatenate(self._encoder_out)]
        return self._encoder_out[0]

    def replace_encoder_out(self, encoder_out: Floats) -> None:
        """Replace the encoder output (T', D) after the same frames were encoded again."""
        self._encoder_out = [encoder_out]

    def nbest(self, is_final: bool = False) -> list[Hypothesis]:
        """Return the hypotheses of CTC prefix beam search, best first; is_final: no more frames will follow."""
        return self._beam.nbest(is_final)

    def advance(self, encoder_out: Floats, log_probs: Floats, audio_frames: float = math.inf) -> Floats:
        """Process frames (t, D) with their CTC log-probabilities (t, V), up to an endpoint.

        audio_frames: the length of the stream's audio in encoder frames. No rule ends an utterance in the silence
        behind it (`FbankConfig.trail_frames`).

        Returns the remaining frames, for the next utterance. They may be more than the new ones, because an utterance
        that is too long is cut at its longest pause. Frames are copied, not kept as views.
        """
        log_probs = self._search.languages.restrict(log_probs, self._options.language)
        blank, detector, taken = log_probs[:, self._blank_id], self._detector, 0
        for _ in self._beam.steps(log_probs):
            taken += 1
            if detector and detector.advance(math.exp(blank[taken - 1]), has_words=not self._beam.is_empty):
                self.is_over = self.first_frame + self.num_frames < audio_frames
                if self.is_over:
                    break
        self._encoder_out.append(encoder_out[:taken].copy())
        rest: Floats = encoder_out[taken:].copy()
        if self.is_over and detector and detector.is_too_long:
            rest = np.concatenate([self._cut(detector.longest_pause()), rest])
        return rest

    def _cut(self, num_frames: int) -> Floats:
        """Keep the first `num_frames` frames and return the others."""
        kept, others = self.encoder_out[:num_frames], self.encoder_out[num_frames:]
        if len(others):
            self._encoder_out = [kept]
            self._beam = self._search.prefix_beam(self._options)
            self._beam.advance(self._search.ctc_log_probs(kept, self._options))
        return others
