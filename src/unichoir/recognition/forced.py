"""Forced alignment: find when a known text is spoken in a recording of any length.

The recording is encoded in pieces, as all long recordings are. Only the CTC log-probabilities of the text's tokens are
kept, and the best path through the whole recording is found exactly. The text does not have to be divided into pieces.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from unichoir.engine.backend import Floats
from unichoir.errors import AudioError, DecodingError
from unichoir.recognition.options import DecodingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.text.normalize import canonical_text, normalize_for_scoring, split_words
from unichoir.text.tokenizer import Tokenizer
from unichoir.text.units import BYTE_TOKENS
from unichoir.transcript.alignment import ctc_align
from unichoir.transcript.results import Alternative, Transcript, Word, mean_confidence
from unichoir.transcript.timing import FrameClock, group_words, timed_tokens
from unichoir.transcript.word_edges import Loudness, join_loudness, measure_loudness

LOW_CONFIDENCE = 0.3
"""If the confidence of a whole alignment is lower, the text probably does not match the audio
(docs/results/times.md)."""


@dataclass(frozen=True)
class _Text:
    """The written words, the tokens of all of them, and the number of spoken words in each."""

    words: list[str]
    ids: list[int]
    num_spoken: list[int]


@dataclass
class _PieceClock:
    """The times of encoder frames, which are numbered through consecutive pieces."""

    clock: FrameClock
    firsts: list[int]
    starts_ms: list[float]
    ends_ms: list[float]

    def at(self, frame: float) -> float:
        """Return the start of encoder frame `frame`, in ms; fractions are allowed."""
        piece = max(0, bisect_right(self.firsts, frame) - 1)
        return min(self.starts_ms[piece] + self.clock.at(frame - self.firsts[piece]), self.ends_ms[piece])


def force_align(
    recognizer: Recognizer,
    blocks: Iterable[NDArray[np.float32]],
    text: str,
    options: DecodingOptions | None = None,
    progress: Callable[[float], None] | None = None,
) -> Transcript:
    """Return the words of `text` with the times at which they are spoken in a recording, in blocks (N,).

    The transcript has the words as in the text, without punctuation that stands alone. Its score is the sum of the logs
    of the tokens' confidences. options: only chunks, language and length of segments apply; no audio is skipped as
    silence. progress: called with the seconds of audio done.

    Raises DecodingError for a text without words, with a word that the vocabulary cannot write, or that is too long for
    the recording, and as `RecordingRecognizer.recognize` does.
    """
    options = replace(options or DecodingOptions(), vad="none", reencode=False)
    wanted = _encode(text, recognizer.tokenizer, options.language)
    blank_id = recognizer.backend.info.blank_id
    columns, labels = np.unique([blank_id, *wanted.ids], return_inverse=True)
    log_probs, loudness, clock = _hear(recognizer, blocks, columns, options, progress)
    needed = len(wanted.ids) + sum(a == b for a, b in zip(wanted.ids, wanted.ids[1:], strict=False))
    duration_ms = round(clock.ends_ms[-1])
    if needed > len(log_probs):
        raise DecodingError(
            f"text: its {len(wanted.words)} words cannot be spoken in {duration_ms / 1000:.1f} s: "
            f"they need {needed} encoder frames, found {len(log_probs)}"
        )
    spans = ctc_align(log_probs, labels[1:].tolist(), int(labels[0]))
    tokens = timed_tokens(wanted.ids, spans, recognizer.tokenizer, clock, 0, duration_ms, loudness)
    words = _written(group_words(tokens, recognizer.tokenizer), wanted)
    score = sum(math.log(max(token.confidence, 1e-30)) for token in tokens)
    whole = canonical_text(text)
    best = Alternative(text=whole, tokens=tuple(wanted.ids), score=score)
    return Transcript(
        text=whole,
        tokens=tokens,
        words=words,
        score=score,
        confidence=mean_confidence(words),
        nbest=(best,),
        duration_ms=duration_ms,
        language=options.language,
    )


def words_by_line(words: Sequence[Word], text: str) -> list[list[Word]]:
    """Return the aligned `words` of `text` line by line; lines without words are left out."""
    rest = list(words)
    lines = []
    for line in text.splitlines():
        count = sum(map(_is_spoken, split_words(line)))
        if count:
            lines.append(rest[:count])
            rest = rest[count:]
    return lines


def _hear(
    recognizer: Recognizer,
    blocks: Iterable[NDArray[np.float32]],
    columns: NDArray[np.int64],
    options: DecodingOptions,
    progress: Callable[[float], None] | None,
) -> tuple[Floats, Loudness, _PieceClock]:
    """Return the CTC log-probabilities (T', len(columns)) of a recording in blocks (N,), its loudness and its clock."""
    config, info = recognizer.fbank_config, recognizer.backend.info
    rate = config.sample_rate
    recordings = recognizer.recordings
    found: list[Floats] = []
    loudness: list[Loudness] = []
    clock = _PieceClock(recognizer.reader.clock, [], [], [])
    for piece in recordings.pieces(blocks, options):
        feats = recordings.features(piece)
        ((_, log_probs),) = recordings.encode([feats], options)
        # No word is spoken in the silence behind the audio.
        log_probs = log_probs[: info.num_encoder_frames(len(feats) - config.trail_frames)]
        clock.firsts.append(sum(map(len, found[-1:])) + (clock.firsts[-1] if clock.firsts else 0))
        clock.starts_ms.append(1000 * piece.start / rate)
        clock.ends_ms.append(1000 * piece.end / rate)
        found.append(log_probs[:, columns])
        loudness.append(measure_loudness(config.levels(feats), info, len(log_probs)))
        if progress is not None:
            progress(piece.end / rate)
    if not found:
        raise AudioError("recording: no samples")
    return np.concatenate(found), join_loudness(loudness), clock


def _encode(text: str, tokenizer: Tokenizer, language: str | None = None) -> _Text:
    """Encode the words of a text. Raises DecodingError as `force_align` does."""
    words = [word for word in split_words(text) if _is_spoken(word)]
    if not words:
        raise DecodingError("text: no words to align")
    spoken = [_spoken_form(word, tokenizer, language) for word in words]
    ids = tokenizer.encode(" ".join(spoken))
    num_spoken = [len(split_words(form)) for form in spoken]
    if len(tokenizer.decode_words(ids)) != sum(num_spoken):
        raise DecodingError("text: the model's vocabulary does not separate its words")
    return _Text(words, ids, num_spoken)


def _is_spoken(word: str) -> bool:
    return bool(normalize_for_scoring(word))


def _spoken_form(word: str, tokenizer: Tokenizer, language: str | None) -> str:
    """Return the form of a word that the vocabulary can write with the fewest byte tokens.

    Candidates are the word itself, without punctuation, and normalised for its language (Arabic without vowels).
    """
    forms = (word, normalize_for_scoring(word), normalize_for_scoring(word, language))
    encoded = {form: tokenizer.encode(form) for form in forms}
    known = {form: ids for form, ids in encoded.items() if tokenizer.unk_id not in ids}
    if not known:
        raise DecodingError(f"text: the model's vocabulary cannot write {word!r:.60}; write it as it is spoken")
    # Byte tokens could write a comma, but nobody speaks it.
    return min(known, key=lambda form: sum(tokenizer.tokens[index] in BYTE_TOKENS for index in known[form]))


def _written(words: Sequence[Word], wanted: _Text) -> tuple[Word, ...]:
    """Return the words as in the text, each with the times of the spoken words for which it stands."""
    written, place = [], 0
    for text, count in zip(wanted.words, wanted.num_spoken, strict=True):
        parts = words[place : place + count]
        place += count
        written.append(
            Word(
                text=text,
                start_ms=parts[0].start_ms,
                end_ms=parts[-1].end_ms,
                confidence=min(part.confidence for part in parts),
            )
        )
    return tuple(written)
