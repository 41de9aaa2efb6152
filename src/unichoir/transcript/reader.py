"""From hypotheses to readings: text, tokens and words with times."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from unichoir.engine.backend import Floats, ModelInfo
from unichoir.search.hypothesis import Hypothesis
from unichoir.search.language import LanguageTokens
from unichoir.search.options import SearchOptions
from unichoir.text.tokenizer import Tokenizer
from unichoir.text.written import WrittenForm
from unichoir.transcript.alignment import ctc_align
from unichoir.transcript.results import Alternative, Reading
from unichoir.transcript.segments import Segment
from unichoir.transcript.timing import FrameClock, group_words, timed_tokens
from unichoir.transcript.word_edges import Loudness, measure_loudness


class Reader:
    """Gives the hypotheses of one model their text and times, and knows how results are written.

    languages: the language tokens, which are not part of a text; clock: the times of encoder frames; punctuation: the
    model's file for punctuation and case in English, if it has one.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        languages: LanguageTokens,
        info: ModelInfo,
        clock: FrameClock,
        punctuation: Path | None = None,
    ) -> None:
        self.clock = clock
        self._tokenizer = tokenizer
        self._languages = languages
        self._info = info
        self._written = None if punctuation is None else WrittenForm(punctuation=punctuation)

    def segment(
        self, hyps: Sequence[Hypothesis], log_probs: Floats, levels: Floats, start_ms: int, end_ms: int
    ) -> Segment:
        """Return the segment of one piece of a recording; its best hypothesis gets times.

        hyps: at least one, best first; log_probs: (T', V), T' > 0, of CTC; levels: (T,) of the feature frames, in dB;
        start_ms, end_ms: the position of the piece in the recording.
        """
        nbest = self._languages.distinct(hyps)
        loudness = measure_loudness(levels, self._info, len(log_probs))
        best = self.reading(nbest[0], log_probs, loudness, start_ms, end_ms)
        return Segment(
            tokens=best.tokens,
            words=best.words,
            nbest=tuple(
                Alternative(text=self._text(hyp), tokens=self._languages.spoken(hyp.tokens), score=hyp.score)
                for hyp in nbest
            ),
            language=self.language(nbest[0]),
        )

    def readings(
        self,
        hyps: Sequence[Hypothesis],
        log_probs: Floats | None,
        levels: Floats,
        start_ms: int,
        end_ms: int,
        num_best: int,
    ) -> tuple[Reading, ...]:
        """Return the best readings of one utterance, at most `num_best`, all of them with times.

        hyps: at least one, best first; log_probs: (T', V), T' > 0, of CTC; None: readings without tokens and words;
        levels: (T,) of the feature frames, in dB; start_ms, end_ms: the position of the utterance in its stream.
        """
        nbest = self._languages.distinct(hyps)[:num_best]
        if log_probs is None:
            return tuple(Reading(text=self._text(hyp), tokens=(), words=(), score=hyp.score) for hyp in nbest)
        loudness = measure_loudness(levels, self._info, len(log_probs))
        return tuple(self.reading(hyp, log_probs, loudness, start_ms, end_ms) for hyp in nbest)

    def reading(
        self, hyp: Hypothesis, log_probs: Floats, loudness: Loudness | None, start_ms: int, end_ms: int
    ) -> Reading:
        """Return a hypothesis with times.

        log_probs: (T', V), T' > 0, of the audio from start_ms to end_ms; loudness: of the same frames, decides where
        words begin and end; None: times are rough.
        """
        spans = ctc_align(log_probs, hyp.tokens, self._info.blank_id)
        _, spoken = self._languages.split(hyp.tokens)
        ids, spans = [hyp.tokens[place] for place in spoken], [spans[place] for place in spoken]
        tokens = timed_tokens(ids, spans, self._tokenizer, self.clock, start_ms, end_ms, loudness)
        return Reading(text=self._text(hyp), tokens=tokens, words=group_words(tokens, self._tokenizer), score=hyp.score)

    def language(self, hyp: Hypothesis) -> str | None:
        """Return the language that a hypothesis names; None if it names none."""
        return self._languages.split(hyp.tokens)[0]

    def written_form(self, options: SearchOptions, language: str | None = None) -> WrittenForm | None:
        """Return the written form of results with these options; None: the words stay as in the vocabulary.

        language: the language that was recognised; None: unknown. The model's own punctuation is for English.
        """
        own, wanted = self._written, options.written
        if own is None or options.verbatim or (language or "en").partition("-")[0] != "en":
            return wanted
        if wanted is None:
            return own
        return wanted if wanted.punctuation is not None else replace(wanted, punctuation=own.punctuation)

    def _text(self, hyp: Hypothesis) -> str:
        return self._tokenizer.decode(hyp.tokens)
