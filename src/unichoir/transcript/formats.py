"""Transcripts in file formats for other programs: text, JSON, Whisper's JSON and TSV, subtitles, CTM, TextGrid."""

import json
import math
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, Literal, get_args

from unichoir.text.breaks import ends_sentence, plain_line
from unichoir.text.normalize import canonical_text
from unichoir.transcript.results import Token, Transcript, Word, mean_confidence
from unichoir.transcript.subtitles import Cue, SubtitleOptions, make_cues, to_srt, to_vtt

Format = Literal["text", "json", "verbose_json", "srt", "vtt", "tsv", "ctm", "textgrid"]
FORMATS: tuple[Format, ...] = get_args(Format)
SUBTITLE_FORMATS: tuple[Format, ...] = ("srt", "vtt")
LINE_FORMATS: tuple[Format, ...] = ("json", "verbose_json", "ctm")
"""Formats in which one file can hold several recordings, because each line names its recording."""
SUFFIXES: dict[Format, str] = {
    "text": ".txt",
    "json": ".json",
    "verbose_json": ".verbose.json",
    "srt": ".srt",
    "vtt": ".vtt",
    "tsv": ".tsv",
    "ctm": ".ctm",
    "textgrid": ".TextGrid",
}
"""File name suffixes."""

SEGMENT_PAUSE_MS = 800
MAX_SEGMENT_MS = 30_000
MIN_PROBABILITY = 1e-10
_NO_ALTERNATIVE = r"[\1]"
_CTM_ALTERNATIVES = re.compile("<(ALT(?:_BEGIN|_END)?)>", re.IGNORECASE)

Segments = Sequence[Sequence[Word]]


def write_transcript(
    transcript: Transcript,
    output_format: Format,
    name: str,
    subtitles: SubtitleOptions | None = None,
    segments: Segments | None = None,
) -> str:
    """Return the content of a file in this format; it ends with a line end unless it is empty.

    The output is always valid, whatever the text and the name contain. White space becomes one space, or `_` where
    spaces separate fields. Other special characters are escaped or, if the format has no escapes, replaced.

    If channels were transcribed separately, the text format has one line per segment with its channel, and all formats
    name the channels.

    name: of the recording, for json, verbose_json and ctm.
    subtitles: the layout of srt and vtt; None: the default.
    segments: all words of the transcript, grouped by the lines of a known text. They become the segments of the output,
        also in json, and no cue crosses their ends. None: formats with segments use `speech_segments`.
    """
    writers: dict[Format, Callable[[], str]] = {
        "text": lambda: _plain_text(transcript),
        "json": lambda: _line(_json(transcript, name, segments)),
        "verbose_json": lambda: _line(verbose_dict(transcript, name, segments)),
        "srt": lambda: to_srt(_cues(transcript, subtitles, segments)),
        "vtt": lambda: to_vtt(_cues(transcript, subtitles, segments)),
        "tsv": lambda: _tsv(transcript, _segments(transcript, segments)),
        "ctm": lambda: _ctm(transcript, name),
        "textgrid": lambda: _textgrid(transcript, _segments(transcript, segments)),
    }
    return writers[output_format]()


def speech_segments(words: Sequence[Word]) -> list[list[Word]]:
    """Group words into segments.

    A segment ends after a sentence, at a pause of more than 0.8 s, before it is longer than 30 s, and where the channel
    changes.
    """
    segments: list[list[Word]] = []
    for word in words:
        last = segments[-1] if segments else None
        if (
            last is None
            or word.start_ms - last[-1].end_ms > SEGMENT_PAUSE_MS
            or word.end_ms - last[0].start_ms > MAX_SEGMENT_MS
            or ends_sentence(last[-1].text)
            or word.channel != last[-1].channel
        ):
            segments.append([word])
        else:
            last.append(word)
    return segments


def word_dict(word: Word) -> dict[str, Any]:
    """Return a word in OpenAI's format, with times in seconds, and its confidence."""
    return {
        "word": word.text,
        "start": word.start_ms / 1000,
        "end": word.end_ms / 1000,
        "confidence": round(word.confidence, 4),
    }


def segment_dict(
    number: int, words: Sequence[Word], *, text: str, seek_ms: int, tokens: Sequence[int], avg_logprob: float
) -> dict[str, Any]:
    """Return a segment in OpenAI's format, with the fields of Whisper.

    seek: the start of the recognised piece of audio, in steps of 10 ms. compression_ratio: as in Whisper, the size of
    the text divided by its size after zlib. no_speech_prob: always 0.0, because the model does not estimate it; pieces
    without words are left out. temperature: always 0.0, because the most probable result is used.
    """
    content = text.encode(errors="backslashreplace")
    return {
        "id": number,
        "seek": round(seek_ms / 10),
        "start": words[0].start_ms / 1000,
        "end": words[-1].end_ms / 1000,
        "text": text,
        "tokens": list(tokens),
        "temperature": 0.0,
        "avg_logprob": avg_logprob,
        "compression_ratio": len(content) / len(zlib.compress(content)),
        "no_speech_prob": 0.0,
    }


def log_probability(token: Token) -> float:
    """Return the natural log of a token's confidence; a confidence of 0 has a finite one."""
    return math.log(max(token.confidence, MIN_PROBABILITY))


def verbose_dict(transcript: Transcript, name: str, segments: Segments | None = None) -> dict[str, Any]:
    """Return OpenAI's `TranscriptionVerbose`, with words inside the segments as in Whisper's own JSON.

    avg_logprob is the mean log confidence of the tokens that begin in a segment.
    """
    found = []
    for number, (words, tokens) in enumerate(_with_tokens(transcript, _segments(transcript, segments))):
        mean = sum(map(log_probability, tokens)) / len(tokens) if tokens else math.log(MIN_PROBABILITY)
        segment = segment_dict(
            number,
            words,
            text=_text(words),
            seek_ms=words[0].start_ms,
            tokens=[token.id for token in tokens],
            avg_logprob=mean,
        )
        found.append({**segment, **_channel(words), "words": [word_dict(word) for word in words]})
    return {
        "file": name,
        "task": "transcribe",
        "language": transcript.language or "",
        "duration": transcript.duration_ms / 1000,
        "text": transcript.text,
        "segments": found,
        **({"warnings": list(transcript.warnings)} if transcript.warnings else {}),
    }


def _json(transcript: Transcript, name: str, segments: Segments | None) -> dict[str, Any]:
    content = {"file": name, **transcript.to_dict()}
    if segments is not None or _has_channels(transcript):
        content["segments"] = [
            {
                **_channel(words),
                "text": _text(words),
                "start_ms": words[0].start_ms,
                "end_ms": words[-1].end_ms,
                "confidence": mean_confidence(words),
            }
            for words in _segments(transcript, segments)
        ]
    return content


def _plain_text(transcript: Transcript) -> str:
    if not _has_channels(transcript):
        return plain_line(transcript.text) + "\n"
    return "".join(f"[{words[0].channel}] {_text(words)}\n" for words in speech_segments(transcript.words))


def _cues(transcript: Transcript, options: SubtitleOptions | None, segments: Segments | None) -> list[Cue]:
    ends = {total - 1 for total in accumulate(map(len, segments or ()))}
    if not _has_channels(transcript):
        return make_cues(transcript.words, options, duration_ms=transcript.duration_ms, ends=ends)
    cues: list[Cue] = []
    for channel, words in _by_channel(transcript.words).items():
        own = make_cues(words, options, duration_ms=transcript.duration_ms)
        cues += (replace(cue, lines=(f"[{channel}] {cue.lines[0]}", *cue.lines[1:])) for cue in own)
    return sorted(cues, key=lambda cue: cue.start_ms)


def _tsv(transcript: Transcript, segments: Segments) -> str:
    """Return Whisper's TSV: start and end in ms, the text, and the channel if channels were transcribed separately."""
    named = _has_channels(transcript)
    rows = (
        f"{words[0].start_ms}\t{words[-1].end_ms}\t{_text(words)}" + (f"\t{words[0].channel}\n" if named else "\n")
        for words in segments
    )
    return "start\tend\ttext" + ("\tchannel\n" if named else "\n") + "".join(rows)


def _ctm(transcript: Transcript, name: str) -> str:
    """Return NIST's CTM: file, channel, start and duration in s, word, confidence.

    Spaces separate fields, lines that begin with `;;` are comments, and `<ALT>` and similar marks are not words.
    """
    file = re.sub("^;+", lambda match: "_" * len(match[0]), field_text(name))
    return "".join(
        f"{file} {word.channel or 1} {word.start_ms / 1000:.3f} {max(word.end_ms - word.start_ms, 0) / 1000:.3f} "
        f"{_CTM_ALTERNATIVES.sub(_NO_ALTERNATIVE, field_text(word.text))} {word.confidence:.3f}\n"
        for words in _by_channel(transcript.words).values()
        for word in words
        if plain_line(word.text)
    )


def _textgrid(transcript: Transcript, segments: Segments) -> str:
    """Return Praat's long format with two interval tiers per channel: words and segments.

    No library is needed: the format has twenty lines, and the libraries for it are made for editing.
    """
    tiers: dict[str, list[tuple[int, int, str]]] = {}
    for channel, words in (_by_channel(transcript.words) or {None: []}).items():
        own = [each for each in segments if each[0].channel == channel]
        after = "" if channel is None else f" {channel}"
        tiers[f"words{after}"] = [(word.start_ms, word.end_ms, plain_line(word.text)) for word in words]
        tiers[f"segments{after}"] = [(each[0].start_ms, each[-1].end_ms, _text(each)) for each in own]
    intervals = {tier: _spoken(rows) for tier, rows in tiers.items()}
    end_ms = max(1, transcript.duration_ms, *(row[1] for rows in intervals.values() for row in rows))
    head = f'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = {end_ms / 1000:.3f}\n'
    written = (_tier(number, tier, intervals[tier], end_ms) for number, tier in enumerate(intervals, 1))
    return f"{head}tiers? <exists>\nsize = {len(intervals)}\nitem []:\n" + "".join(written)


def _tier(number: int, name: str, spoken: Sequence[tuple[int, int, str]], end_ms: int) -> str:
    """Return one tier. Its intervals cover all the time; those without speech are empty."""
    intervals: list[tuple[int, int, str]] = []
    done = 0
    for start, end, text in [*spoken, (end_ms, end_ms, "")]:
        if start > done:
            intervals.append((done, start, ""))
        if end > start:
            intervals.append((start, end, text))
        done = end
    head = f'    item [{number}]:\n        class = "IntervalTier"\n        name = "{name}"\n        xmin = 0\n'
    head += f"        xmax = {end_ms / 1000:.3f}\n        intervals: size = {len(intervals)}\n"
    return head + "".join(
        f"        intervals [{place}]:\n            xmin = {start / 1000:.3f}\n            xmax = {end / 1000:.3f}\n"
        '            text = "' + text.replace('"', '""') + '"\n'
        for place, (start, end, text) in enumerate(intervals, 1)
    )


def _spoken(rows: Sequence[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Return the rows without overlaps, each at least 1 ms long: Praat has no empty intervals."""
    found = []
    done = 0
    for start, end, text in rows:
        start = max(start, done)
        done = max(end, start + 1)
        found.append((start, done, text))
    return found


def _segments(transcript: Transcript, segments: Segments | None) -> Segments:
    chosen = speech_segments(transcript.words) if segments is None else segments
    return [words for words in chosen if words]


def _with_tokens(transcript: Transcript, segments: Segments) -> Iterator[tuple[Sequence[Word], list[Token]]]:
    """Yield each segment with the tokens of its channel that begin before the channel's next segment."""
    waiting: dict[int | None, deque[Token]] = {}
    for token in transcript.tokens:
        waiting.setdefault(token.channel, deque()).append(token)
    following: list[float] = []
    starts: dict[int | None, float] = {}
    for words in reversed(segments):
        following.append(starts.get(words[0].channel, math.inf))
        starts[words[0].channel] = words[0].start_ms
    for words, end in zip(segments, reversed(following), strict=True):
        own, left = [], waiting.get(words[0].channel, deque())
        while left and left[0].start_ms < end:
            own.append(left.popleft())
        yield words, own


def _has_channels(transcript: Transcript) -> bool:
    return any(word.channel is not None for word in transcript.words)


def _by_channel(words: Sequence[Word]) -> dict[int | None, list[Word]]:
    found: dict[int | None, list[Word]] = {}
    for word in sorted(words, key=lambda word: word.channel or 0):
        found.setdefault(word.channel, []).append(word)
    return found


def _channel(words: Sequence[Word]) -> dict[str, int]:
    channel = words[0].channel
    return {} if channel is None else {"channel": channel}


def _line(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False) + "\n"


def _text(words: Sequence[Word]) -> str:
    return canonical_text(plain_line(" ".join(word.text for word in words)))


def field_text(text: str) -> str:
    """Return the text as a field, never empty, for lines whose fields are separated by spaces."""
    return "_".join(plain_line(text).split()) or "_"
