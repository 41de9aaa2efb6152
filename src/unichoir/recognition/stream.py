"""The state of one stream: from samples to windows for the encoder, and the current utterance.

The encoder processes a stream on one grid of chunks, from the first sample to the last, and never restarts. Its output
is the same as for the whole stream under the same chunk mask. Utterances are consecutive runs of encoder frames,
without gaps and overlaps.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unichoir.audio.fbank import FbankConfig, OnlineFbank
from unichoir.audio.io import OnlineResampler, Samples, check_samples
from unichoir.engine.backend import Backend, Floats
from unichoir.engine.limits import MAX_LEFT_FRAMES
from unichoir.errors import AudioError
from unichoir.recognition.options import StreamingOptions
from unichoir.recognition.utterance import Utterance
from unichoir.search.rescoring import is_reencoded
from unichoir.search.search import Search
from unichoir.transcript.rewriting import last_words
from unichoir.transcript.timing import FrameClock


class Stream:
    """The state of one stream of audio, made by `StreamRecognizer.create_stream`.

    Use it in one thread at a time. Its memory does not grow with its length, as long as utterances end.
    """

    def __init__(
        self,
        backend: Backend,
        fbank_config: FbankConfig,
        search: Search,
        options: StreamingOptions,
        start_ms: int = 0,
    ) -> None:
        self.options = options
        self.start_ms = start_ms
        """The time at which the stream begins, in ms; times of results count from there."""
        self.state = backend.initial_state(1, options.num_left_frames)
        self._backend = backend
        self._is_heard_again = is_reencoded(backend.info, options)
        self._search = search
        self._config = fbank_config
        self._frame_ms = FrameClock.of(backend.info, fbank_config).step_ms
        self._fbank = OnlineFbank(fbank_config)
        self._feats: list[Floats] = []
        self._encoded: list[Floats] = []
        self._num_feats = 0
        self._has_feats = False
        self._levels = [np.zeros(0, np.float32)]
        self._resampler: OnlineResampler | None = None
        self._sample_rate = 0
        self._num_accepted = self._num_resampled = 0
        self._input_finished = self.is_closed = False
        self._rest = np.zeros((0, backend.info.encoder_dim), np.float32)
        self.before = ""
        """The last words of the final results so far, in written form."""
        self.utterance = self._utterance(number=0, first_frame=0)

    def accept_waveform(self, samples: NDArray[Any], sample_rate: int) -> None:
        """Add any number of samples: (N,) or (N, channels), float in [-1, 1] or int16; sample_rate in Hz.

        Raises AudioError for samples that are not finite or of another type or scale, for a different rate than before,
        and after `input_finished`. Rejected samples do not change the stream.
        """
        if self._input_finished:
            raise AudioError("stream: samples after the end of the input")
        if self._resampler is not None and sample_rate != self._sample_rate:
            raise AudioError(f"stream: the sample rate cannot change from {self._sample_rate} to {sample_rate} Hz")
        if np.shape(samples)[:1] == (0,):
            return
        mono = check_samples(samples, sample_rate, "stream", is_block=True)
        if self._resampler is None:
            self._sample_rate, self._resampler = sample_rate, OnlineResampler(sample_rate, self._config.sample_rate)
        self._num_accepted += len(mono)
        self._extract(self._resampler.process(mono))

    def input_finished(self) -> None:
        """End the input: the remaining samples become the last, shorter chunk."""
        if not self._input_finished:
            self._input_finished = True
            if self._resampler is not None:
                self._extract(self._resampler.process(np.zeros(0, np.float32), last=True))
            self._fbank.input_finished()
            self._take_feats(to_end=True)

    @property
    def accepted_ms(self) -> float:
        """Length of all audio so far, in ms."""
        return 1000 * self._num_accepted / self._sample_rate if self._sample_rate else 0.0

    @property
    def heard_ms(self) -> int:
        """The end of the audio in this utterance and all before it, in ms.

        The last utterance extends to the end of the audio, even if the rest is too short for a frame. An utterance that
        ended by a rule is never the last one, even if it has the last frame, so the moment of `input_finished` makes no
        difference.
        """
        if self.is_done and not self.utterance.is_over:
            return self.start_ms + self._resampled_ms
        return self._frame_to_ms(self.utterance.first_frame + self.utterance.num_frames)

    @property
    def utterance_ms(self) -> int:
        """The start of this utterance, in ms."""
        return self.heard_ms if self.is_closed else self._frame_to_ms(self.utterance.first_frame)

    @property
    def levels(self) -> Floats:
        """The levels in dB of the feature frames since the start of this utterance (`FbankConfig.levels`)."""
        if len(self._levels) > 1:
            self._levels = [np.concatenate(self._levels)]
        return self._levels[0]

    @property
    def is_reencoded(self) -> bool:
        """Whether to encode this utterance again as a whole; not if it is longer than a stream's memory."""
        return self._is_heard_again and self.utterance.num_frames <= MAX_LEFT_FRAMES

    @property
    def utterance_feats(self) -> Floats:
        """The feature frames (T, M) of this utterance, for a stream whose utterances are encoded again."""
        info = self._backend.info
        length = info.subsampling_rate * (self.utterance.num_frames - 1) + info.right_context + 1
        feats: Floats = np.concatenate([*self._encoded, *self._feats])[:length]
        return feats

    @property
    def is_ready(self) -> bool:
        """Whether there is a chunk to encode: a full one, or the last."""
        if self._num_feats >= self._window_length:
            return True
        return self._input_finished and self._backend.info.num_encoder_frames(self._num_feats) > 0

    @property
    def is_done(self) -> bool:
        """Whether the input has ended and all its frames are in this utterance or an earlier one."""
        return self._input_finished and not self.is_ready and not len(self._rest)

    @property
    def is_endpoint(self) -> bool:
        """Whether the utterance has ended, by a rule or with the input. False after the last utterance."""
        return self.utterance.is_over or (self.is_done and not self.is_closed)

    def window(self) -> tuple[Floats, int]:
        """Return the next chunk's feature frames (W, M), zero-padded at the end, and the number of real ones."""
        if len(self._feats) > 1:
            self._feats = [np.concatenate(self._feats)]
        (feats,) = self._feats
        length = min(len(feats), self._window_length)
        padded = np.zeros((self._window_length, feats.shape[1]), np.float32)
        padded[:length] = feats[:length]
        return padded, length

    def advance(self, encoder_out: Floats, log_probs: Floats, state: Any) -> None:
        """Continue with the encoder's output for `window`: (t, D), CTC log-probabilities (t, V), the next state."""
        taken = self._backend.info.subsampling_rate * self.options.chunk_size
        if self._is_heard_again:
            self._encoded.append(self._feats[0][:taken].copy())
        feats = self._feats[0][taken:]
        self._num_feats = len(feats)
        # Copy an incomplete chunk, so that a view does not keep all the audio in memory.
        self._feats = [feats if self.is_ready else feats.copy()]
        self.state = state
        self._rest = self.utterance.advance(encoder_out, log_probs, self._audio_frames)

    def next_utterance(self) -> None:
        """Begin the next utterance where this one ends, with the frames that are there already."""
        last, rest = self.utterance, self._rest
        if last.result is not None:
            self.before = last_words(last.result.text) or self.before
        done = self._backend.info.subsampling_rate * last.num_frames
        # Frames of the silence behind the audio are as loud as its last.
        self._levels = [self.levels[max(min(done, len(self.levels) - 1), 0) :].copy()]
        if self._is_heard_again:
            self._encoded = [np.concatenate(self._encoded)[done:]] if self._encoded else []
        self.is_closed = self.is_done and not last.is_over
        self.state = self._backend.restart_positions(self.state)
        self.utterance = self._utterance(last.number + 1, last.first_frame + last.num_frames)
        if len(rest):
            log_probs = self._backend.ctc_log_probs(rest[None])[0]
            self._rest = self.utterance.advance(rest, log_probs, self._audio_frames)

    @property
    def _window_length(self) -> int:
        info = self._backend.info
        return info.subsampling_rate * (self.options.chunk_size - 1) + info.right_context + 1

    def _extract(self, samples: Samples) -> None:
        self._num_resampled += len(samples)
        self._fbank.accept_waveform(samples)
        self._take_feats()

    def _take_feats(self, to_end: bool = False) -> None:
        feats = self._fbank.pop()
        if len(feats):
            self._feats.append(feats)
            self._levels.append(self._config.levels(feats, from_start=not self._has_feats, to_end=to_end))
            self._has_feats = True
            self._num_feats += len(feats)

    def _frame_to_ms(self, frame: int) -> int:
        milliseconds = round(frame * self._frame_ms)
        if self._input_finished:  # the last frames may be those of the silence behind the audio
            milliseconds = min(milliseconds, self._resampled_ms)
        return self.start_ms + milliseconds

    @property
    def _audio_frames(self) -> float:
        """The length of the audio in encoder frames; infinite until the input ends."""
        return self._resampled_ms / self._frame_ms if self._input_finished else math.inf

    @property
    def _resampled_ms(self) -> int:
        return round(1000 * self._num_resampled / self._config.sample_rate)

    def _utterance(self, number: int, first_frame: int) -> Utterance:
        return Utterance(self._backend, self._search, self.options, number, first_frame, self._frame_ms)
