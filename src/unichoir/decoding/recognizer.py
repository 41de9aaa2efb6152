"""Samples to transcripts: features, encoder, search, text."""

from collections.abc import Callable, Sequence
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from unichoir.audio.fbank import FbankConfig, compute_fbank
from unichoir.audio.io import check_samples
from unichoir.decoding.alignment import ctc_align
from unichoir.decoding.attention_beam import attention_beam_search
from unichoir.decoding.backend import Backend, Floats, Ints
from unichoir.decoding.greedy import ctc_greedy_search
from unichoir.decoding.hypothesis import Alternative, Hypothesis, Transcript
from unichoir.decoding.options import DecodingOptions
from unichoir.decoding.prefix_beam import ctc_prefix_beam_search
from unichoir.decoding.rescoring import attention_rescoring
from unichoir.decoding.segmentation import split_at_pauses
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
    utterance as one. Returns encoder_out (B, T', D) and encoder_out_lens (B,).
    """
    info, num_frames = backend.info, feats.shape[1]
    num_outputs = info.num_encoder_frames(num_frames)
    chunk_size = chunk_size or max(num_outputs, 1)
    num_left_frames = num_left_chunks * chunk_size if num_left_chunks >= 0 else -1
    if chunk_size >= num_outputs:
        num_left_frames = 0  # nothing follows that could see it
    width = info.subsampling_rate * (chunk_size - 1) + info.right_context + 1
    state, outputs = None, [np.zeros((len(feats), 0, info.encoder_dim), dtype=np.float32)]
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
            if np.isnan(log_probs).any():
                raise DecodingError("the model's output is not a number: its weights are damaged or overflow")
            encoded[row] = encoder_out, log_probs
        return encoded

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
        ids = nbest[0].tokens
        spans = ctc_align(log_probs, ids, self.backend.info.blank_id)
        tokens = timed_tokens(ids, spans, self.tokenizer, self._clock, self._to_ms(start), self._to_ms(end))
        return Segment(
            tokens=tokens,
            words=group_words(tokens, self.tokenizer),
            nbest=tuple(
                Alternative(text=self.tokenizer.decode(hyp.tokens), tokens=hyp.tokens, score=hyp.score) for hyp in nbest
            ),
        )

    def _to_ms(self, num_samples: int) -> int:
        return round(num_samples * 1000 / self.fbank_config.sample_rate)


def _pad(feats: Sequence[Floats]) -> tuple[Floats, Ints]:
    """(B, T, M) zero padded, and the lengths (B,)."""
    lengths = np.array([len(frames) for frames in feats], dtype=np.int64)
    padded = np.zeros((len(feats), int(lengths.max()), feats[0].shape[1]), dtype=np.float32)
    for row, frames in zip(padded, feats, strict=True):
        row[: len(frames)] = frames
    return padded, lengths
