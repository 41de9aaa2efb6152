"""From live audio to results, for many streams at once: chunks, engine, search, second pass, reader."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from unichoir.audio.fbank import FbankConfig
from unichoir.engine.backend import Backend, Floats
from unichoir.engine.encoding import check_numbers, encode_batch
from unichoir.errors import DecodingError
from unichoir.recognition.options import StreamingOptions
from unichoir.recognition.stream import Stream
from unichoir.search.hypothesis import Hypothesis
from unichoir.search.search import Search
from unichoir.text.marked import Context
from unichoir.transcript.reader import Reader
from unichoir.transcript.results import StreamResult
from unichoir.transcript.rewriting import written_or_said


class StreamRecognizer:
    """Recognises any number of streams; all state is in the streams.

    Use the methods in this order: `create_stream`, `Stream.accept_waveform`, `decode_streams` while `is_ready`,
    `get_result` and, at an endpoint (`is_endpoint`), `reset`. After `Stream.input_finished`, continue until neither
    `is_ready` nor `is_endpoint` holds. `results` does all of this for one stream.
    """

    def __init__(self, fbank_config: FbankConfig, backend: Backend, search: Search, reader: Reader) -> None:
        self._fbank_config = fbank_config
        self._backend = backend
        self._search = search
        self._reader = reader

    def create_stream(self, options: StreamingOptions | None = None, start_ms: int = 0) -> Stream:
        """Return a new stream; start_ms: the time at which it begins, from which the times of its results count.

        Raises DecodingError for a model that cannot stream, for a reverse_weight without a right-to-left decoder, and
        for a language without a token.
        """
        options = options or StreamingOptions()
        self._search.check(options)
        return Stream(self._backend, self._fbank_config, self._search, options, start_ms)

    def is_ready(self, stream: Stream) -> bool:
        """Whether the stream has a chunk for `decode_streams`: a full one or, at the end of the input, the last."""
        return stream.is_ready and not stream.is_endpoint

    def decode_streams(self, streams: Iterable[Stream]) -> None:
        """Decode the next chunk of each stream; streams with equal chunks go through the encoder together.

        Raises DecodingError, and changes no stream, if one is not ready or if the model's output is not a number.
        """
        groups: dict[tuple[int, int], list[Stream]] = {}
        for stream in dict.fromkeys(streams):
            if not self.is_ready(stream):
                raise DecodingError("a stream has no chunk to decode, or it must be reset after an endpoint")
            groups.setdefault((stream.options.chunk_size, stream.options.num_left_frames), []).append(stream)
        steps = [step for (_, left), group in groups.items() for step in self._encode_windows(group, left)]
        for stream, encoder_out, log_probs, state in steps:
            stream.advance(encoder_out, log_probs, state)

    def _encode_windows(
        self, streams: Sequence[Stream], num_left_frames: int
    ) -> list[tuple[Stream, Floats, Floats, Any]]:
        """Return the arguments of `Stream.advance` for streams with equal chunks."""
        feats, lengths = zip(*(stream.window() for stream in streams), strict=True)
        state = self._backend.join_states([stream.state for stream in streams])
        windows = np.stack(feats), np.array(lengths)
        encoder_out, lens, state = self._backend.encode_chunk(*windows, state, num_left_frames)
        log_probs = self._backend.ctc_log_probs(encoder_out)
        rows = zip(streams, encoder_out, log_probs, lens, self._backend.split_state(state), strict=True)
        steps = [(stream, out[:length], scores[:length], state) for stream, out, scores, length, state in rows]
        for _, _, scores, _ in steps:
            check_numbers(scores)
        return steps

    def is_endpoint(self, stream: Stream) -> bool:
        """Whether the utterance has ended, by a rule or because all input has been decoded."""
        return stream.is_endpoint

    def get_result(self, stream: Stream) -> StreamResult:
        """Return the result of the current utterance: final at an endpoint, otherwise partial.

        Partial results come from CTC prefix beam search. A final result is computed once.
        """
        utterance, options = stream.utterance, stream.options
        if not stream.is_endpoint:
            timed = options.partial_words and utterance.num_frames > 0
            log_probs = self._search.ctc_log_probs(utterance.encoder_out, options) if timed else None
            return self._result(stream, utterance.nbest(), log_probs)
        if utterance.result is None:
            result = self._result(stream, *self._second_pass(stream))
            form = self._reader.written_form(options, result.language)
            utterance.result = written_or_said(result, form, Context(before=stream.before))
        return utterance.result

    def _second_pass(self, stream: Stream) -> tuple[list[Hypothesis], Floats | None]:
        """Return the final hypotheses of an utterance and the CTC log-probabilities (T', V); None without frames."""
        utterance, options = stream.utterance, stream.options
        hyps = utterance.nbest(is_final=True)
        if not utterance.num_frames:
            return hyps, None
        # If a rule found only silence, the attention decoders must not invent words for it.
        is_silent = utterance.is_over and not self._search.languages.spoken(hyps[0].tokens)
        has_second_pass = options.mode == "attention_rescoring" and not is_silent
        if has_second_pass and stream.is_reencoded:
            ((encoder_out, log_probs),) = encode_batch(self._backend, [stream.utterance_feats])
            log_probs = self._search.languages.restrict(log_probs, options.language)
            utterance.replace_encoder_out(encoder_out)
            return self._search(encoder_out, log_probs, options), log_probs
        log_probs = self._search.ctc_log_probs(utterance.encoder_out, options)
        if has_second_pass:
            hyps = self._search.rescore(utterance.encoder_out, log_probs, hyps, options)
        return hyps, log_probs

    def _result(self, stream: Stream, hyps: Sequence[Hypothesis], log_probs: Floats | None) -> StreamResult:
        """Return the result of these hypotheses; log_probs: (T', V); None: without times."""
        start_ms, end_ms, num_best = stream.utterance_ms, stream.heard_ms, stream.options.num_best
        return StreamResult(
            utterance=stream.utterance.number,
            is_final=stream.is_endpoint,
            start_ms=start_ms,
            end_ms=end_ms,
            nbest=self._reader.readings(hyps, log_probs, stream.levels, start_ms, end_ms, num_best),
            language=self._reader.language(hyps[0]),
        )

    def reset(self, stream: Stream) -> None:
        """Begin the next utterance where the last one ended. Raises DecodingError if there is no endpoint."""
        if not stream.is_endpoint:
            raise DecodingError("a stream can only be reset at an endpoint: its utterance has not ended")
        stream.next_utterance()

    def results(self, stream: Stream) -> Iterator[StreamResult]:
        """Decode all that one stream has received and yield its results.

        Each chunk yields a partial result or, where utterances end, final results. Each final result is yielded once,
        after its utterance was reset. If you stop early, the next call continues from there.
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
