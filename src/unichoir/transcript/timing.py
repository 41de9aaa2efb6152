"""From encoder frames to milliseconds: tokens and words with times."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

from unichoir.engine.backend import ModelInfo
from unichoir.text.tokenizer import Tokenizer
from unichoir.transcript.alignment import Span
from unichoir.transcript.results import Token, Word
from unichoir.transcript.word_edges import Loudness, word_edges

MAX_WIDENING = 2.0
"""In encoder frames. CTC is certain of a token in only one or two frames. A token extends half the way to its
neighbours, at most by this."""


class Clock(Protocol):
    """Maps encoder frames to times."""

    def at(self, frame: float) -> float:
        """Return the start of encoder frame `frame`, in ms; fractions are allowed."""


class FeatureTimes(Protocol):
    """The times of feature frames, which the configuration of a filterbank has."""

    @property
    def frame_shift_ms(self) -> float:
        """The time from one frame to the next."""

    @property
    def first_centre_ms(self) -> float:
        """The centre of frame 0."""


@dataclass(frozen=True, kw_only=True)
class FrameClock:
    """The times of encoder frames, in ms.

    Encoder frame i is computed from the feature frames s * i to s * i + r (s: subsampling rate, r: right context), each
    of which covers a window of samples. It represents s frame shifts around the middle of these samples. With shifts of
    10 ms, windows of 25 ms, s = 4 and r = 6, frame i lasts from 40 * i + 22.5 ms to 40 * i + 62.5 ms. With lead frames,
    frame 0 may begin before the audio.
    """

    first_ms: float
    step_ms: float

    @classmethod
    def of(cls, info: ModelInfo, feats: FeatureTimes) -> "FrameClock":
        """Return the clock of a model with these features."""
        step = info.subsampling_rate * feats.frame_shift_ms
        middle = feats.first_centre_ms + info.right_context * feats.frame_shift_ms / 2
        return cls(first_ms=middle - step / 2, step_ms=step)

    def at(self, frame: float) -> float:
        """Return the start of encoder frame `frame`; fractions are allowed."""
        return self.first_ms + frame * self.step_ms


def timed_tokens(
    ids: Sequence[int],
    spans: Sequence[Span],
    tokenizer: Tokenizer,
    clock: Clock,
    start_ms: float,
    end_ms: float,
    loudness: Loudness | None = None,
) -> tuple[Token, ...]:
    """Return tokens with times, which extend half the way to their neighbours and stay within the segment.

    spans: the alignment of `ids`. start_ms, end_ms: the position of the segment in the audio. loudness: of the
    segment's frames; places the edges of words. None: words are placed by CTC alone.
    """
    starts, ends = [], []
    for place, span in enumerate(spans):
        before = span.first - spans[place - 1].last - 1 if place else 2 * MAX_WIDENING
        after = spans[place + 1].first - span.last - 1 if place + 1 < len(spans) else 2 * MAX_WIDENING
        starts.append(span.first - min(before / 2, MAX_WIDENING))
        ends.append(span.last + 1 + min(after / 2, MAX_WIDENING))
    if loudness is not None:
        _fit_words(starts, ends, ids, spans, tokenizer, loudness)

    def milliseconds(frame: float) -> int:
        return round(min(max(start_ms + clock.at(frame), start_ms), end_ms))

    return tuple(
        Token(
            id=index,
            text=tokenizer.tokens[index],
            start_ms=milliseconds(first),
            end_ms=milliseconds(max(first, last)),
            confidence=span.probability,
        )
        for index, span, first, last in zip(ids, spans, starts, ends, strict=True)
    )


def _fit_words(
    starts: list[float],
    ends: list[float],
    ids: Sequence[int],
    spans: Sequence[Span],
    tokenizer: Tokenizer,
    loudness: Loudness,
) -> None:
    """Move the tokens of each word, in encoder frames, to the edges of the word in the sound."""
    words = [(places[0], places[-1]) for _, places in tokenizer.decode_words(ids)]
    rate = loudness.rate
    middle = (rate - 1) // 2
    certain = [(rate * spans[first].first + middle, rate * spans[last].last + middle) for first, last in words]
    edges = [(start / rate, end / rate) for start, end in word_edges(certain, loudness)]
    for (first, last), (start, end) in zip(words, edges, strict=True):
        if start >= end:
            continue
        places = slice(first, last + 1)
        starts[places], ends[places] = _fit(starts[places], ends[places], start, end)
    for (first, last), (following, final) in pairwise(words):
        if ends[last] > starts[following]:
            # They part in the middle of what they share. A quarter of a frame that is certain of a word stays with it.
            shared = (max(starts[first], starts[following]) + min(ends[last], ends[final])) / 2
            edge = min(max(shared, spans[last].last + 0.75), spans[following].first + 0.25)
            for places, bounds in (
                (slice(first, last + 1), (min(starts[first], edge - 0.25), edge)),
                (slice(following, final + 1), (edge, max(ends[final], edge + 0.25))),
            ):
                starts[places], ends[places] = _fit(starts[places], ends[places], *bounds)
    # Tokens without text, such as a lone space, lie between words.
    spelling = {place for first, last in words for place in range(first, last + 1)}
    for place in set(range(len(ids))) - spelling:
        before = ends[place - 1] if place else -np.inf
        after = starts[place + 1] if place + 1 in spelling else np.inf
        starts[place] = min(max(starts[place], before), after)
        ends[place] = max(starts[place], min(ends[place], after))


def _fit(starts: Sequence[float], ends: Sequence[float], start: float, end: float) -> tuple[list[float], list[float]]:
    """Fit the tokens of a word between its edges: clip them or, if that leaves nothing of one, scale all of them."""
    first, last = starts[0], ends[-1]
    cut_starts = [start, *(min(max(at, start), end) for at in starts[1:])]
    cut_ends = [*(min(max(at, start), end) for at in ends[:-1]), end]
    if all(begin < until for begin, until in zip(cut_starts, cut_ends, strict=True)):
        return cut_starts, cut_ends
    # An edge is infinite at the end of the sound.
    start = start if np.isfinite(start) else min(first, end - 1)
    end = end if np.isfinite(end) else max(last, start + 1)
    scale = (end - start) / (last - first)
    return [start + scale * (at - first) for at in starts], [start + scale * (at - first) for at in ends]


def group_words(tokens: Sequence[Token], tokenizer: Tokenizer) -> tuple[Word, ...]:
    """Return the words of the tokens, as `split_words` of their text would.

    Tokens without text (sos, eos, a lone space) do not affect the times and the confidence of a word.
    """
    return tuple(
        Word(
            text=text,
            start_ms=tokens[places[0]].start_ms,
            end_ms=tokens[places[-1]].end_ms,
            confidence=min(tokens[place].confidence for place in places),
        )
        for text, places in tokenizer.decode_words([token.id for token in tokens])
    )
