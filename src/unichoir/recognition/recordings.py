"""From a recording to its transcript: pieces, features, engine, search, reader."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from unichoir.audio.fbank import FbankConfig, compute_fbank
from unichoir.audio.io import check_samples
from unichoir.engine.backend import Backend, Floats
from unichoir.engine.encoding import encode_batch
from unichoir.errors import AudioError
from unichoir.recognition.options import DecodingOptions
from unichoir.recognition.pieces import CtcDetector, batched_by_length, find_pieces, take_turns
from unichoir.recognition.segmentation import Piece
from unichoir.search.rescoring import is_reencoded
from unichoir.search.search import Search
from unichoir.text.marked import Context
from unichoir.transcript.reader import Reader
from unichoir.transcript.results import Transcript
from unichoir.transcript.rewriting import last_words, rewrite_segments, written_or_said
from unichoir.transcript.segments import Segment, join_segments

Progress = Callable[[float, float], None]
"""Called with the seconds of audio done and the total."""


class RecordingRecognizer:
    """Recognises recordings of any length, one or several at a time. It holds no state between calls.

    The methods stand in the order in which a recording passes through them.
    """

    def __init__(self, fbank_config: FbankConfig, backend: Backend, search: Search, reader: Reader) -> None:
        self.fbank_config = fbank_config
        self.backend = backend
        self.search = search
        self.reader = reader

    def recognize(
        self,
        samples: NDArray[np.float32],
        options: DecodingOptions | None = None,
        progress: Progress | None = None,
    ) -> Transcript:
        """Recognise one recording: `samples` (N,) at the filterbank's rate, in [-1, 1].

        Audio too short for an encoder frame (usually under 85 ms) gives an empty transcript. Audio longer than
        `max_segment_seconds` is cut at pauses and recognised in pieces, several at a time. Raises AudioError for
        samples that are empty or not finite, DecodingError for options that the model cannot fulfil.
        """
        return self.recognize_batch([samples], options, progress)[0]

    def recognize_batch(
        self,
        batch: Sequence[NDArray[np.float32]],
        options: DecodingOptions | None = None,
        progress: Progress | None = None,
    ) -> list[Transcript]:
        """Recognise several recordings at once, each as `recognize` does on its own.

        The working memory does not grow with their lengths.
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
        """Recognise one recording that arrives in blocks (N,); it is never in memory as a whole.

        progress: called with the seconds of audio done. Raises what `blocks` raises, and as `recognize` does.
        """
        return self._recognize([blocks], options or DecodingOptions(), progress)[0]

    def recognize_by_piece(
        self, blocks: Iterable[NDArray[np.float32]], options: DecodingOptions | None = None
    ) -> Iterator[tuple[Segment, float]]:
        """Recognise one recording in blocks (N,) and yield each piece at once, with the second at which it ends.

        Segments without speech are empty. `join_segments` makes a transcript of all of them. Raises as
        `recognize_blocks` does.
        """
        options, rate = options or DecodingOptions(), self.fbank_config.sample_rate
        before, end = "", 0
        for piece in self.pieces(blocks, options):
            (segment,) = self.recognize_pieces([piece], options)
            form = self.reader.written_form(options, segment.language)
            segment = written_or_said(segment, form, Context(before=before))
            before, end = last_words(segment.nbest[0].text) or before, piece.end
            yield segment, end / rate
        if not end:
            raise AudioError("recording: no samples")

    def _recognize(
        self,
        recordings: Sequence[Iterable[NDArray[np.float32]]],
        options: DecodingOptions,
        progress: Callable[[float], None] | None,
    ) -> list[Transcript]:
        """Each recording arrives in blocks (N,)."""
        rate, done = self.fbank_config.sample_rate, 0
        found: list[list[tuple[int, int, Segment]]] = [[] for _ in recordings]
        pieces = take_turns([self.pieces(blocks, options) for blocks in recordings])
        for batch in batched_by_length(pieces, rate):
            segments = self.recognize_pieces([piece for _, piece in batch], options)
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
            segments = rewrite_segments([segment for *_, segment in rows], partial(self.reader.written_form, options))
            transcripts.append(join_segments(segments, num_best, self._to_ms(rows[-1][1])))
        return transcripts

    def pieces(self, blocks: Iterable[NDArray[np.float32]], options: DecodingOptions) -> Iterator[Piece]:
        """Yield the pieces of a recording in blocks (N,), from its beginning to its end, without gaps.

        Raises UnichoirError for a voice activity detector that is not installed.
        """

        def ctc_detector() -> CtcDetector:
            return CtcDetector(self.reader.clock, rate, self.backend.info.blank_id, log_probs)

        def log_probs(samples: NDArray[np.float32]) -> Floats:
            return self.encode([compute_fbank(samples, self.fbank_config)], DecodingOptions())[0][1]

        rate = self.fbank_config.sample_rate
        return find_pieces(blocks, rate, options, ctc_detector)

    def recognize_pieces(self, pieces: Sequence[Piece], options: DecodingOptions) -> list[Segment]:
        """Recognise pieces together, each on its own terms; those without speech give empty segments."""
        config, segments = self.fbank_config, []
        feats = [self.features(piece) for piece in pieces]
        for piece, frames, (encoder_out, log_probs) in zip(pieces, feats, self.encode(feats, options), strict=True):
            if not len(encoder_out):
                segments.append(Segment())
                continue
            hyps = self.search(encoder_out, log_probs, options)
            start_ms, end_ms = self._to_ms(piece.start), self._to_ms(piece.end)
            segments.append(self.reader.segment(hyps, log_probs, config.levels(frames), start_ms, end_ms))
        return segments

    def features(self, piece: Piece) -> Floats:
        """Return the feature frames (T, M) of a piece; T is 0 without speech."""
        samples = np.zeros(0, dtype=np.float32) if piece.samples is None else piece.samples
        return compute_fbank(samples, self.fbank_config)

    def encode(self, feats: Sequence[Floats], options: DecodingOptions) -> list[tuple[Floats, Floats]]:
        """Return encoder_out (T', D) and the CTC log-probabilities (T', V) of each of `feats` (T, M), for `search`.

        T' is 0 for too few frames. Raises DecodingError if the model's output is not a number.
        """
        languages = self.search.languages
        languages.check(options.language)
        chunks = (None,) if is_reencoded(self.backend.info, options) else (options.chunk_size, options.num_left_chunks)
        return [
            (encoder_out, languages.restrict(log_probs, options.language))
            for encoder_out, log_probs in encode_batch(self.backend, feats, *chunks)
        ]

    def _to_ms(self, num_samples: int) -> int:
        return round(num_samples * 1000 / self.fbank_config.sample_rate)
