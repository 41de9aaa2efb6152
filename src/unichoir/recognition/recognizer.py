"""Samples to transcripts: features, encoder, search, text."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unichoir.audio.fbank import FbankConfig, compute_fbank
from unichoir.audio.io import check_samples
from unichoir.engine.backend import Backend, Floats
from unichoir.engine.encoding import check_numbers, encode_batch
from unichoir.errors import AudioError, DecodingError
from unichoir.recognition.options import DecodingOptions, StreamingOptions
from unichoir.recognition.pieces import CtcDetector, batched_by_length, find_pieces, take_turns
from unichoir.recognition.segmentation import Piece
from unichoir.recognition.stream import Stream
from unichoir.search.hypothesis import Hypothesis
from unichoir.search.language import LanguageTokens
from unichoir.search.options import SearchOptions
from unichoir.search.rescoring import Rescorer, attention_beam_of, attention_rescoring, is_reencoded
from unichoir.search.scoring import LanguageModel, PrefixScorer, Scorers
from unichoir.search.search import search
from unichoir.text.marked import Context
from unichoir.text.tokenizer import Tokenizer
from unichoir.text.written import WrittenForm
from unichoir.transcript.alignment import ctc_align
from unichoir.transcript.results import Alternative, Reading, StreamResult, Transcript
from unichoir.transcript.rewriting import last_words, rewrite_segments, written_or_said
from unichoir.transcript.timing import FrameClock, Segment, group_words, join_segments, timed_tokens
from unichoir.transcript.word_edges import Loudness, measure_loudness

Progress = Callable[[float, float], None]
"""Called with the seconds of audio done and the seconds in all."""


class Recognizer:
    """A model with its tokenizer, its filterbank and, of English, a file of its own marks and case. Holds no state:
    calls do not influence each other.

    Recordings go through `recognize`. For streams the verbs are, in this order and for as many streams at once as there
    are: `create_stream`, `Stream.accept_waveform`, `decode_streams` while `is_ready`, `get_result`, and, when
    `is_endpoint`, `reset`; after `Stream.input_finished` until `is_endpoint` holds no more.

    Raises DecodingError when the three do not belong together.
    """

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        fbank_config: FbankConfig,
        language_model: LanguageModel | None = None,
        punctuation: Path | None = None,
    ) -> None:
        info = backend.info
        if tokenizer.vocab_size != info.vocab_size:
            raise DecodingError(
                f"the tokenizer knows {tokenizer.vocab_size} tokens, the model {info.vocab_size}: they do not fit"
            )
        self.backend = backend
        self.tokenizer = tokenizer
        self.fbank_config = fbank_config
        self.languages = LanguageTokens(tokenizer.languages)
        self.clock = FrameClock.of(info, fbank_config)
        self._scorers = Scorers(tokenizer, language_model)
        self.punctuation = punctuation
        self._written = None if punctuation is None else WrittenForm(punctuation=punctuation)

    def written_form(self, options: SearchOptions, language: str | None = None) -> WrittenForm | None:
        """How results with these options are written; None: as the vocabulary has the words.

        language: that was heard; None: it is not known. What comes with the model is for English.
        """
        own, wanted = self._written, options.written
        if own is None or options.verbatim or (language or "en").partition("-")[0] != "en":
            return wanted
        if wanted is None:
            return own
        return wanted if wanted.punctuation is not None else replace(wanted, punctuation=own.punctuation)

    @property
    def frame_ms(self) -> float:
        """Length of an encoder frame."""
        return self.clock.step_ms

    def recognize(
        self,
        samples: NDArray[np.float32],
        options: DecodingOptions | None = None,
        progress: Progress | None = None,
    ) -> Transcript:
        """Recognise one recording; `samples` (N,) at the filterbank's rate, in [-1, 1].

        Audio too short for an encoder frame (under 85 ms as usual) has no words: its transcript is empty.
        Audio longer than `max_segment_seconds` is cut at pauses and recognised in pieces, several at a time. Raises
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

        The memory needed does not grow with their lengths.
        """
        rate = self.fbank_config.sample_rate
        names = ["recording"] if len(batch) == 1 else [f"recording {number}" for number in range(1, len(batch) + 1)]
        batch = [check_samples(samples, rate, name) for samples, name in zip(batch, names, strict=True)]
        total = sum(map(len, batch)) / rate
        advance = None if progress is None else lambda done: progress(min(done, total), total)
        return self._recognize([[samples] for samples in batch], options or DecodingOptions(), advance)

    def recognize_blocks(
        self,
        blocks: Iterable[NDArray[np.float32]],
        options: DecodingOptions | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Transcript:
        """`recognize` for a recording that comes in blocks (N,), as from `audio_blocks`: it is never in memory whole.

        progress: called with the seconds of audio done. Raises what `blocks` raises, and as `recognize` does.
        """
        return self._recognize([blocks], options or DecodingOptions(), progress)[0]

    def recognize_by_piece(
        self, blocks: Iterable[NDArray[np.float32]], options: DecodingOptions | None = None
    ) -> Iterator[tuple[Segment, float]]:
        """`recognize_blocks` piece by piece: each as soon as it is recognised, and where it ends, in seconds.

        Segments in which nobody speaks are empty. `join_segments` makes the transcript of them. Raises as
        `recognize_blocks` does.
        """
        options, rate = options or DecodingOptions(), self.fbank_config.sample_rate
        before, end = "", 0
        for piece in self.pieces(blocks, options):
            (segment,) = self._recognize_pieces([piece], options)
            form = self.written_form(options, segment.language)
            segment = written_or_said(segment, form, Context(before=before))
            before, end = last_words(segment.nbest[0].text) or before, piece.end
            yield segment, end / rate
        if not end:
            raise AudioError("recording: no samples")

    def pieces(self, blocks: Iterable[NDArray[np.float32]], options: DecodingOptions) -> Iterator[Piece]:
        """The pieces in which a recording, in blocks (N,), is recognised, from its beginning to its end, without gap.

        Raises UnichoirError for a voice activity detector that is not installed.
        """
        return find_pieces(blocks, self.fbank_config.sample_rate, options, self._ctc_detector)

    def encode(self, feats: Sequence[Floats], options: DecodingOptions) -> list[tuple[Floats, Floats]]:
        """For each of `feats` (T, M) what searches start from: encoder_out (T', D), CTC log-probabilities (T', V).

        T' is 0 for too few frames. Raises DecodingError for a model whose output is not a number.
        """
        self.languages.check(options.language)
        chunks = (None,) if is_reencoded(self.backend.info, options) else (options.chunk_size, options.num_left_chunks)
        return [
            (encoder_out, self.languages.restrict(log_probs, options.language))
            for encoder_out, log_probs in encode_batch(self.backend, feats, *chunks)
        ]

    def search(self, encoder_out: Floats, log_probs: Floats, options: DecodingOptions) -> list[Hypothesis]:
        """The n-best hypotheses, best first, of what `encode` has made of one utterance; T' > 0.

        Raises DecodingError as `scorer` does.
        """
        return search(self.backend, encoder_out, log_probs, options, self.languages, self.scorer(options))

    def scorer(self, options: SearchOptions) -> PrefixScorer | None:
        """What hotwords and language model add in searches with these options; None: nothing.

        Raises DecodingError for hotwords that the vocabulary cannot write, for weights of a language model that is not
        there, and for a mode that cannot use one that is.
        """
        return self._scorers.of(options)

    def create_stream(self, options: StreamingOptions | None = None, start_ms: int = 0) -> Stream:
        """A stream of audio that has heard nothing yet; start_ms: when it begins, for the times of its results.

        Raises DecodingError for a model that cannot stream, for a reverse_weight without a right-to-left decoder, and
        for a language without a token.
        """
        options = options or StreamingOptions()
        if options.reverse_weight and not self.backend.info.has_reverse_decoder:
            raise DecodingError(f"reverse_weight {options.reverse_weight}: this model has no right-to-left decoder")
        self.languages.check(options.language)
        scorer = self.scorer(options)
        return Stream(self.backend, self.fbank_config, options, start_ms, self.languages, scorer)

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
            hyps = utterance.nbest(is_final=True)
            # Where a rule has found nothing but silence, the decoders are not asked to think of words for it.
            is_silent = utterance.is_over and not self.languages.spoken(hyps[0].tokens)
            if options.mode == "attention_rescoring" and utterance.num_frames and not is_silent:
                hyps = self._hear_again(stream) if stream.is_reencoded else self._rescore(stream, hyps)
            result, context = self._result(stream, hyps, timed=True), Context(before=stream.before)
            utterance.result = written_or_said(result, self.written_form(options, result.language), context)
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

    def _hear_again(self, stream: Stream) -> list[Hypothesis]:
        """The utterance of a stream through the encoder once more, without chunks; returns its n-best."""
        options, whole = stream.options, DecodingOptions(language=stream.options.language)
        ((encoder_out, log_probs),) = self.encode([stream.utterance_feats], whole)
        stream.utterance.replace_encoder_out(encoder_out)
        return search(self.backend, encoder_out, log_probs, options, self.languages, stream.scorer)

    def _rescore(self, stream: Stream, hyps: Sequence[Hypothesis]) -> list[Hypothesis]:
        """The second pass over an utterance of a stream, of at least one frame."""
        encoder_out, options = stream.utterance.encoder_out, stream.options
        if not attention_beam_of(self.backend.info, options):  # nothing new that would need a CTC score
            return Rescorer(self.backend, encoder_out, options.ctc_weight, options.reverse_weight)(hyps)
        restrict = partial(self.languages.restrict, language=options.language)
        log_probs = restrict(self.backend.ctc_log_probs(encoder_out[None])[0])
        return attention_rescoring(self.backend, encoder_out, log_probs, hyps, options, stream.scorer, restrict)

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
            check_numbers(scores)
        return steps

    def _result(self, stream: Stream, hyps: Sequence[Hypothesis], timed: bool) -> StreamResult:
        utterance, language = stream.utterance, stream.options.language
        start_ms, end_ms = stream.utterance_ms, stream.heard_ms
        log_probs = None
        if timed and utterance.num_frames:
            loudness = measure_loudness(stream.levels, self.backend.info, utterance.num_frames)
            log_probs = self.languages.restrict(self.backend.ctc_log_probs(utterance.encoder_out[None])[0], language)
        readings = [
            self.reading(hyp, log_probs, loudness, start_ms, end_ms)
            if log_probs is not None
            else Reading(text=self.tokenizer.decode(hyp.tokens), tokens=(), words=(), score=hyp.score)
            for hyp in self.languages.distinct(hyps)[: stream.options.num_best]
        ]
        return StreamResult(
            utterance=utterance.number,
            is_final=stream.is_endpoint,
            start_ms=start_ms,
            end_ms=end_ms,
            nbest=tuple(readings),
            language=self.languages.split(hyps[0].tokens)[0],
        )

    def reading(
        self, hyp: Hypothesis, log_probs: Floats, loudness: Loudness | None, start_ms: int, end_ms: int
    ) -> Reading:
        """A hypothesis with times; log_probs: (T', V), T' > 0, of the piece of audio from start_ms to end_ms.

        loudness: by which words begin and end; None: times are rough.
        """
        spans = ctc_align(log_probs, hyp.tokens, self.backend.info.blank_id)
        _, spoken = self.languages.split(hyp.tokens)
        ids, spans = [hyp.tokens[place] for place in spoken], [spans[place] for place in spoken]
        tokens = timed_tokens(ids, spans, self.tokenizer, self.clock, start_ms, end_ms, loudness)
        words = group_words(tokens, self.tokenizer)
        return Reading(text=self.tokenizer.decode(hyp.tokens), tokens=tokens, words=words, score=hyp.score)

    def _recognize(
        self,
        recordings: Sequence[Iterable[NDArray[np.float32]]],
        options: DecodingOptions,
        progress: Callable[[float], None] | None,
    ) -> list[Transcript]:
        """Each of the recordings comes in blocks (N,)."""
        rate, done = self.fbank_config.sample_rate, 0
        found: list[list[tuple[int, int, Segment]]] = [[] for _ in recordings]
        pieces = take_turns([self.pieces(blocks, options) for blocks in recordings])
        for batch in batched_by_length(pieces, rate):
            segments = self._recognize_pieces([piece for _, piece in batch], options)
            for (place, piece), segment in zip(batch, segments, strict=True):
                found[place].append((piece.start, piece.end, segment))
                done += piece.end - piece.start
            if progress is not None:
                progress(done / rate)
        num_best = 1 if options.mode == "ctc_greedy_search" else options.beam_size
        transcripts = []
        for rows in found:
            if not rows:
                raise AudioError("recording: no samples")
            rows.sort(key=itemgetter(0))
            segments = rewrite_segments([segment for *_, segment in rows], partial(self.written_form, options))
            transcripts.append(join_segments(segments, num_best, self._to_ms(rows[-1][1])))
        return transcripts

    def _recognize_pieces(self, pieces: Sequence[Piece], options: DecodingOptions) -> list[Segment]:
        """Those in which nobody speaks are empty."""
        config, nothing = self.fbank_config, np.zeros(0, dtype=np.float32)
        feats = [compute_fbank(nothing if piece.samples is None else piece.samples, config) for piece in pieces]
        return [
            self._decode(*encoded, config.levels(frames), piece, options) if len(encoded[0]) else Segment()
            for encoded, frames, piece in zip(self.encode(feats, options), feats, pieces, strict=True)
        ]

    def _ctc_detector(self) -> CtcDetector:
        def log_probs(samples: NDArray[np.float32]) -> Floats:
            return self.encode([compute_fbank(samples, self.fbank_config)], DecodingOptions())[0][1]

        return CtcDetector(self.clock, self.fbank_config.sample_rate, self.backend.info.blank_id, log_probs)

    def _decode(
        self, encoder_out: Floats, log_probs: Floats, levels: Floats, piece: Piece, options: DecodingOptions
    ) -> Segment:
        """One piece from its encoder_out (T', D); levels: (T,) of its feature frames in dB."""
        nbest = self.languages.distinct(self.search(encoder_out, log_probs, options))
        loudness = measure_loudness(levels, self.backend.info, len(log_probs))
        best = self.reading(nbest[0], log_probs, loudness, self._to_ms(piece.start), self._to_ms(piece.end))
        return Segment(
            tokens=best.tokens,
            words=best.words,
            nbest=tuple(
                Alternative(
                    text=self.tokenizer.decode(hyp.tokens), tokens=self.languages.spoken(hyp.tokens), score=hyp.score
                )
                for hyp in nbest
            ),
            language=self.languages.split(nbest[0].tokens)[0],
        )

    def _to_ms(self, num_samples: int) -> int:
        return round(num_samples * 1000 / self.fbank_config.sample_rate)
