"""Samples to transcripts: features, encoder, search, text."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unichoir.audio.fbank import FbankConfig, compute_fbank
from unichoir.audio.io import check_samples
from unichoir.decoding.alignment import ctc_align
from unichoir.decoding.attention_beam import attention_beam_search
from unichoir.decoding.backend import Backend, Floats, Ints
from unichoir.decoding.greedy import ctc_greedy_search
from unichoir.decoding.hypothesis import Alternative, Hypothesis, Reading, StreamResult, Transcript
from unichoir.decoding.options import MAX_LEFT_FRAMES, DecodingOptions, StreamingOptions
from unichoir.decoding.prefix_beam import ctc_prefix_beam_search
from unichoir.decoding.rescoring import attention_rescoring
from unichoir.decoding.segmentation import split_at_pauses
from unichoir.decoding.stream import Stream
from unichoir.decoding.transcript import FrameClock, Segment, group_words, join_segments, timed_tokens
from unichoir.errors import DecodingError
from unichoir.text.tokenizer import Tokenizer

Progress = Callable[[float, float], None]
"""Called with the seconds of audio done and the seconds in all."""


def encode_utterance(
    backend: Backend, feats: Floats, feats_lengths: Ints, chunk_size: int | None = None, num_left_chunks: int = -1
) -> tuple[Floats, Ints]:
    """Encode whole utterances, at once or chunk by chunk as a stream of them would be.

    feats: (B, T, M) padded; feats_lengths: (B,); chunk_size: encoder frames per chunk, None or 0 for the whole
    utterance as one. Returns encoder_out (B, T', D) and encoder_out_lens (B,). Raises DecodingError where a model that
    cannot stream is given more than one chunk.
    """
    info, num_frames = backend.info, feats.shape[1]
    num_outputs = info.num_encoder_frames(num_frames)
    chunk_size = chunk_size or max(num_outputs, 1)
    num_left_frames = num_left_chunks * chunk_size if num_left_chunks >= 0 else -1
    width = info.subsampling_rate * (chunk_size - 1) + info.right_context + 1
    state = None
    if chunk_size >= num_outputs:
        num_left_frames = 0  # nothing follows that could see it
    else:
        # As much room as a stream has, so that sums are over the same terms; without a limit it grows instead.
        state = backend.initial_state(len(feats), num_left_frames if 0 < num_left_frames <= MAX_LEFT_FRAMES else 0)
    outputs = [np.zeros((len(feats), 0, info.encoder_dim), dtype=np.float32)]
    total = np.zeros(len(feats), dtype=np.int64)
    for start in range(0, info.subsampling_rate * num_outputs, info.subsampling_rate * chunk_size):
        window = feats[:, start : min(start + width, num_frames)]
        window_lengths = np.clip(feats_lengths - start, 0, window.shape[1])
        encoder_out, lens, state = backend.encode_chunk(window, window_lengths, state, num_left_frames)
        outputs.append(encoder_out)
        total += lens
    return np.concatenate(outputs, axis=1), total


def search(backend: Backend, encoder_out: Floats, log_probs: Floats, options: DecodingOptions) -> list[Hypothesis]:
    """The n-best hypotheses, best first, of one utterance in the mode of the options.

    encoder_out: (T', D); log_probs: (T', V) its CTC log-probabilities; both without padding, T' > 0.
    """
    blank_id = backend.info.blank_id
    if options.mode == "ctc_greedy_search":
        return [ctc_greedy_search(log_probs, blank_id)]
    if options.mode == "attention":
        return attention_beam_search(
            backend, encoder_out, options.beam_size, options.max_length, options.length_penalty
        )
    hyps = ctc_prefix_beam_search(log_probs, options.beam_size, blank_id)
    if options.mode == "ctc_prefix_beam_search":
        return hyps
    return attention_rescoring(backend, encoder_out, hyps, options.ctc_weight, options.reverse_weight)


class Recognizer:
    """A model with its tokenizer and its filterbank. Holds no state: calls do not influence each other.

    Recordings go through `recognize`. For streams the verbs are, in this order and for as many streams at once as there
    are: `create_stream`, `Stream.accept_waveform`, `decode_streams` while `is_ready`, `get_result`, and, when
    `is_endpoint`, `reset`; after `Stream.input_finished` until `is_endpoint` holds no more.

    Raises DecodingError when the three do not belong together.
    """

    def __init__(self, backend: Backend, tokenizer: Tokenizer, fbank_config: FbankConfig) -> None:
        info = backend.info
        if tokenizer.vocab_size != info.vocab_size:
            raise DecodingError(
                f"the tokenizer knows {tokenizer.vocab_size} tokens, the model {info.vocab_size}: they do not fit"
            )
        self.backend = backend
        self.tokenizer = tokenizer
        self.fbank_config = fbank_config
        self._clock = FrameClock.of(info, fbank_config)

    @property
    def frame_ms(self) -> float:
        """Length of an encoder frame."""
        return self._clock.step_ms

    def recognize(
        self,
        samples: NDArray[np.float32],
        options: DecodingOptions | None = None,
        progress: Progress | None = None,
    ) -> Transcript:
        """Recognise one recording; `samples` (N,) at the filterbank's rate, in [-1, 1].

        Audio too short for an encoder frame (under 85 ms as usual) has no words: its transcript is empty.
        Audio longer than `max_segment_seconds` is cut at its quietest places and recognised piece by piece. Raises
        AudioError for samples that are empty or not finite, DecodingError for options that the model cannot fulfil.
        """
        return self.recognize_batch([samples], options, progress)[0]

    def recognize_batch(
        self,
        batch: Sequence[NDArray[np.float32]],
        options: DecodingOptions | None = None,
        progress: Progress | None = None,
    ) -> list[Transcript]:
        """`recognize` for several recordings at once; each result is as if the recording had come alone.

        One piece of each recording is in work at a time, so the memory needed does not grow with their lengths.
        """
        options = options or DecodingOptions()
        rate = self.fbank_config.sample_rate
        names = ["recording"] if len(batch) == 1 else [f"recording {number}" for number in range(1, len(batch) + 1)]
        batch = [check_samples(samples, rate, name) for samples, name in zip(batch, names, strict=True)]
        total, done = sum(map(len, batch)), 0
        found: list[list[Segment]] = [[] for _ in batch]
        splits = [split_at_pauses(samples, rate, options.max_segment_seconds) for samples in batch]
        for pieces in zip_longest(*splits):
            rows = [(place, *piece) for place, piece in enumerate(pieces) if piece is not None]
            segments = self._recognize_pieces([(batch[place], start, end) for place, start, end in rows], options)
            for (place, start, end), segment in zip(rows, segments, strict=True):
                found[place].append(segment)
                done += end - start
            if progress is not None:
                progress(done / rate, total / rate)
        num_best = 1 if options.mode == "ctc_greedy_search" else options.beam_size
        return [
            join_segments(segments, num_best, self._to_ms(len(samples)))
            for segments, samples in zip(found, batch, strict=True)
        ]

    def recognize_by_piece(
        self, samples: NDArray[np.float32], options: DecodingOptions | None = None
    ) -> Iterator[tuple[Segment, float]]:
        """`recognize` piece by piece: each as soon as it is recognised, and where it ends in the recording, in seconds.

        `join_segments` makes the transcript of them. Raises as `recognize` does.
        """
        options, rate = options or DecodingOptions(), self.fbank_config.sample_rate
        samples = check_samples(samples, rate, "recording")
        for start, end in split_at_pauses(samples, rate, options.max_segment_seconds):
            yield self._recognize_pieces([(samples, start, end)], options)[0], end / rate

    def encode(self, feats: Sequence[Floats], options: DecodingOptions) -> list[tuple[Floats, Floats]]:
        """For each of `feats` (T, M) what searches start from: encoder_out (T', D), CTC log-probabilities (T', V).

        T' is 0 for too few frames. Raises DecodingError for a model whose output is not a number.
        """
        info = self.backend.info
        nothing = np.zeros((0, info.encoder_dim), np.float32), np.zeros((0, info.vocab_size), np.float32)
        encoded = [nothing] * len(feats)
        rows = [row for row, frames in enumerate(feats) if info.num_encoder_frames(len(frames))]
        if not rows:
            return encoded
        padded, lengths = _pad([feats[row] for row in rows])
        outputs, lens = encode_utterance(self.backend, padded, lengths, options.chunk_size, options.num_left_chunks)
        for row, output, length in zip(rows, outputs, lens, strict=True):
            encoder_out = output[:length]
            log_probs = self.backend.ctc_log_probs(encoder_out[None])[0]
            _check_numbers(log_probs)
            encoded[row] = encoder_out, log_probs
        return encoded

    def create_stream(self, options: StreamingOptions | None = None, start_ms: int = 0) -> Stream:
        """A stream of audio that has heard nothing yet; start_ms: when it begins, for the times of its results.

        Raises DecodingError for a model that cannot stream, and for a reverse_weight without a right-to-left decoder.
        """
        options = options or StreamingOptions()
        if options.reverse_weight and not self.backend.info.has_reverse_decoder:
            raise DecodingError(f"reverse_weight {options.reverse_weight}: this model has no right-to-left decoder")
        return Stream(self.backend, self.fbank_config, options, start_ms)

    def is_ready(self, stream: Stream) -> bool:
        """Whether there is a chunk for `decode_streams`: a whole one or, at the end of the input, the last."""
        return stream.is_ready and not stream.is_endpoint

    def decode_streams(self, streams: Iterable[Stream]) -> None:
        """Go on by one chunk of each stream; all that have the same chunks go through the encoder together.

        Raises DecodingError, and changes no stream, for one that is not ready and for a model whose output is not a
        number.
        """
        groups: dict[tuple[int, int], list[Stream]] = {}
        for stream in dict.fromkeys(streams):
            if not self.is_ready(stream):
                raise DecodingError("a stream has no chunk to decode, or it has to be reset after an endpoint")
            groups.setdefault((stream.options.chunk_size, stream.options.num_left_frames), []).append(stream)
        steps = [step for (_, left), group in groups.items() for step in self._encode_windows(group, left)]
        for stream, encoder_out, log_probs, state in steps:
            stream.advance(encoder_out, log_probs, state)

    def get_result(self, stream: Stream) -> StreamResult:
        """What is known of the stream's utterance: final at an endpoint, else partial, from CTC prefix beam search."""
        utterance, options = stream.utterance, stream.options
        if not stream.is_endpoint:
            return self._result(stream, utterance.nbest(), timed=options.partial_words)
        if utterance.result is None:
            hyps = utterance.nbest()
            # Where a rule has found nothing but silence, the decoders are not asked to think of words for it.
            is_silent = utterance.is_over and not hyps[0].tokens
            if options.mode == "attention_rescoring" and utterance.num_frames and not is_silent:
                hyps = attention_rescoring(
                    self.backend, utterance.encoder_out, hyps, options.ctc_weight, options.reverse_weight
                )
            utterance.result = self._result(stream, hyps, timed=True)
        return utterance.result

    def is_endpoint(self, stream: Stream) -> bool:
        """Whether the utterance has ended: by a rule or, once all is decoded, because the input has."""
        return stream.is_endpoint

    def reset(self, stream: Stream) -> None:
        """Begin the next utterance, where the last one ended. Raises DecodingError where there is no endpoint."""
        if not stream.is_endpoint:
            raise DecodingError("the utterance of this stream has not ended: only an endpoint can be reset")
        stream.next_utterance()

    def results(self, stream: Stream) -> Iterator[StreamResult]:
        """Recognise what can be recognised by now: after each chunk a partial result or, where utterances end, finals.

        These are the verbs above in their order, for one stream. Every final result comes once, when its utterance has
        been reset. Whoever stops in the middle goes on from there with the next call.
        """
        while True:
            while self.is_endpoint(stream):
                final = self.get_result(stream)
                self.reset(stream)
                yield final
            if not self.is_ready(stream):
                return
            self.decode_streams([stream])
            if not self.is_endpoint(stream):
                yield self.get_result(stream)

    def _encode_windows(
        self, streams: Sequence[Stream], num_left_frames: int
    ) -> list[tuple[Stream, Floats, Floats, Any]]:
        """For each stream of one kind what `Stream.advance` takes."""
        feats, lengths = zip(*(stream.window() for stream in streams), strict=True)
        state = self.backend.join_states([stream.state for stream in streams])
        encoder_out, lens, state = self.backend.encode_chunk(np.stack(feats), np.array(lengths), state, num_left_frames)
        log_probs = self.backend.ctc_log_probs(encoder_out)
        states = self.backend.split_state(state)
        rows = zip(streams, encoder_out, log_probs, lens, states, strict=True)
        steps = [(stream, out[:length], scores[:length], state) for stream, out, scores, length, state in rows]
        for _, _, scores, _ in steps:
            _check_numbers(scores)
        return steps

    def _result(self, stream: Stream, hyps: Sequence[Hypothesis], timed: bool) -> StreamResult:
        utterance = stream.utterance
        start_ms, end_ms = stream.utterance_ms, stream.heard_ms
        log_probs = (
            self.backend.ctc_log_probs(utterance.encoder_out[None])[0] if timed and utterance.num_frames else None
        )
        readings = [
            self._reading(hyp, log_probs, start_ms, end_ms)
            if log_probs is not None
            else Reading(text=self.tokenizer.decode(hyp.tokens), tokens=(), words=(), score=hyp.score)
            for hyp in hyps[: stream.options.num_best]
        ]
        return StreamResult(
            utterance=utterance.number,
            is_final=stream.is_endpoint,
            start_ms=start_ms,
            end_ms=end_ms,
            nbest=tuple(readings),
        )

    def _reading(self, hyp: Hypothesis, log_probs: Floats, start_ms: int, end_ms: int) -> Reading:
        """A hypothesis with times; log_probs: (T', V), T' > 0, of the piece of audio from start_ms to end_ms."""
        spans = ctc_align(log_probs, hyp.tokens, self.backend.info.blank_id)
        tokens = timed_tokens(hyp.tokens, spans, self.tokenizer, self._clock, start_ms, end_ms)
        words = group_words(tokens, self.tokenizer)
        return Reading(text=self.tokenizer.decode(hyp.tokens), tokens=tokens, words=words, score=hyp.score)

    def _recognize_pieces(
        self, pieces: Sequence[tuple[NDArray[np.float32], int, int]], options: DecodingOptions
    ) -> list[Segment]:
        feats = [compute_fbank(samples[start:end], self.fbank_config) for samples, start, end in pieces]
        return [
            self._decode(*encoded, start, end, options) if len(encoded[0]) else Segment()
            for encoded, (_, start, end) in zip(self.encode(feats, options), pieces, strict=True)
        ]

    def _decode(
        self, encoder_out: Floats, log_probs: Floats, start: int, end: int, options: DecodingOptions
    ) -> Segment:
        """One piece from its encoder_out (T', D); start, end: where it lies in the recording, in samples."""
        nbest = search(self.backend, encoder_out, log_probs, options)
        best = self._reading(nbest[0], log_probs, self._to_ms(start), self._to_ms(end))
        return Segment(
            tokens=best.tokens,
            words=best.words,
            nbest=tuple(
                Alternative(text=self.tokenizer.decode(hyp.tokens), tokens=hyp.tokens, score=hyp.score) for hyp in nbest
            ),
        )

    def _to_ms(self, num_samples: int) -> int:
        return round(num_samples * 1000 / self.fbank_config.sample_rate)


def _check_numbers(log_probs: Floats) -> None:
    if np.isnan(log_probs).any():
        raise DecodingError("the model's output is not a number: its weights are damaged or overflow")


def _pad(feats: Sequence[Floats]) -> tuple[Floats, Ints]:
    """(B, T, M) zero padded, and the lengths (B,)."""
    lengths = np.array([len(frames) for frames in feats], dtype=np.int64)
    padded = np.zeros((len(feats), int(lengths.max()), feats[0].shape[1]), dtype=np.float32)
    for row, frames in zip(padded, feats, strict=True):
        row[: len(frames)] = frames
    return padded, lengths
