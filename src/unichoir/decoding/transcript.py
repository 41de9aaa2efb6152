"""From token ids and encoder frames to text, words and milliseconds."""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nlargest
from operator import itemgetter

from unichoir.audio.fbank import FbankConfig
from unichoir.decoding.alignment import Span
from unichoir.decoding.backend import ModelInfo
from unichoir.decoding.hypothesis import Alternative, Token, Transcript, Word, mean_confidence
from unichoir.text.normalize import canonical_text, is_cjk
from unichoir.text.tokenizer import Tokenizer

MAX_WIDENING = 2.0
"""CTC is certain of a token in one or two frames of it. A token reaches half of the way to its neighbours on both
sides, at most so many encoder frames."""


@dataclass(frozen=True, kw_only=True)
class FrameClock:
    """When encoder frames are, in ms.

    Encoder frame i is computed from the feature frames s * i to s * i + r (s: subsampling rate, r: right context), each
    of which hears a window of samples. It stands for the s frame shifts around the middle of all that. With 10 ms
    shifts, 25 ms windows, s = 4, r = 6: frame i is from 40 * i + 22.5 ms to 40 * i + 62.5 ms.
    """

    first_ms: float
    step_ms: float

    @classmethod
    def of(cls, info: ModelInfo, fbank: FbankConfig) -> "FrameClock":
        """The clock of a model behind a filterbank."""
        step = info.subsampling_rate * fbank.frame_shift_ms
        # Without snip_edges Kaldi centres feature frame t on (t + 0.5) shifts.
        centre = fbank.frame_length_ms / 2 if fbank.snip_edges else fbank.frame_shift_ms / 2
        return cls(first_ms=centre + info.right_context * fbank.frame_shift_ms / 2 - step / 2, step_ms=step)

    def at(self, frame: float) -> float:
        """When encoder frame `frame` begins; fractions are allowed."""
        return self.first_ms + frame * self.step_ms


def timed_tokens(
    ids: Sequence[int],
    spans: Sequence[Span],
    tokenizer: Tokenizer,
    clock: FrameClock,
    start_ms: float,
    end_ms: float,
) -> tuple[Token, ...]:
    """Tokens with times; start_ms, end_ms: where the segment lies in the audio, which no token leaves."""
    tokens = []
    for place, (index, span) in enumerate(zip(ids, spans, strict=True)):
        before = span.first - spans[place - 1].last - 1 if place else 2 * MAX_WIDENING
        after = spans[place + 1].first - span.last - 1 if place + 1 < len(spans) else 2 * MAX_WIDENING
        first = clock.at(span.first - min(before / 2, MAX_WIDENING))
        last = clock.at(span.last + 1 + min(after / 2, MAX_WIDENING))
        tokens.append(
            Token(
                id=index,
                text=tokenizer.tokens[index],
                start_ms=round(min(max(start_ms + first, start_ms), end_ms)),
                end_ms=round(min(max(start_ms + last, start_ms), end_ms)),
                confidence=span.probability,
            )
        )
    return tuple(tokens)


def group_words(tokens: Sequence[Token], tokenizer: Tokenizer) -> tuple[Word, ...]:
    """The words that the tokens spell: those of `split_words` of their text.

    A token that spells nothing (sos, eos, a lone space) has no part in a word's times and confidence.
    """
    groups: list[list[Token]] = []
    boundary = True
    for token in tokens:
        audible = tokenizer.decode([token.id]) != ""
        boundary = boundary or tokenizer.is_word_start(token.id)
        if not audible:
            continue
        if boundary:
            groups.append([])
        groups[-1].append(token)
        boundary = is_cjk(token.text)
    return tuple(
        Word(
            text=tokenizer.decode([token.id for token in group]),
            start_ms=group[0].start_ms,
            end_ms=group[-1].end_ms,
            confidence=min(token.confidence for token in group),
        )
        for group in groups
    )


@dataclass(frozen=True, kw_only=True)
class Segment:
    """What was recognised in one piece of the audio."""

    tokens: tuple[Token, ...] = ()
    words: tuple[Word, ...] = ()
    nbest: tuple[Alternative, ...] = (Alternative(text="", tokens=(), score=0.0),)


def join_segments(segments: Sequence[Segment], num_best: int, duration_ms: int) -> Transcript:
    """One transcript of consecutive pieces, which were recognised independently: the scores of their readings add up.

    The n-best of the whole are the best combinations of the pieces' n-best.
    """
    readings: list[tuple[float, tuple[Alternative, ...]]] = [(0.0, ())]
    for segment in segments:
        longer = ((score + part.score, (*parts, part)) for score, parts in readings for part in segment.nbest)
        readings = nlargest(num_best, longer, key=itemgetter(0))
    nbest = tuple(
        Alternative(
            text=canonical_text(" ".join(part.text for part in parts)),
            tokens=tuple(token for part in parts for token in part.tokens),
            score=score,
        )
        for score, parts in readings
    )
    words = tuple(word for segment in segments for word in segment.words)
    return Transcript(
        text=nbest[0].text,
        tokens=tuple(token for segment in segments for token in segment.tokens),
        words=words,
        score=nbest[0].score,
        confidence=mean_confidence(words),
        nbest=nbest,
        duration_ms=duration_ms,
    )
