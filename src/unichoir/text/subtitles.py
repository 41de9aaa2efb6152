"""Words with times to subtitles: cues that can be read, and the SRT and WebVTT files made of them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from unichoir.text.normalize import canonical_text

MAX_PAUSE_MS = 800
"""A longer pause between two words ends a cue."""
MAX_CUE_MS = 7000
MAX_LINES = 2
MAX_LINE_CHARACTERS = 42


class TimedWord(Protocol):
    """A word and when it is said, in ms from the start of the audio."""

    @property
    def text(self) -> str: ...
    @property
    def start_ms(self) -> int: ...
    @property
    def end_ms(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Cue:
    """What is shown at once, from start_ms to end_ms."""

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]


def make_cues(words: Iterable[TimedWord]) -> list[Cue]:
    """The cues of `words`, which come in the order in which they are said.

    A cue ends at a pause of more than 0.8 s, and before the word that would make it longer than 7 s or two lines of 42
    characters. Words stay whole: one of more than 42 characters has an overlong line, and a word that alone lasts
    longer than 7 s is shown for 7 s. Cues never overlap, and each lasts 1 ms at least, whatever the words' times are.
    """
    cues: list[Cue] = []
    shown_until = 0
    for group in _groups(words):
        start = max(group[0].start_ms, shown_until)
        end = min(max(word.end_ms for word in group), group[0].start_ms + MAX_CUE_MS)
        shown_until = max(end, start + 1)
        cues.append(Cue(start_ms=start, end_ms=shown_until, lines=tuple(_lines(group))))
    return cues


def to_srt(cues: Iterable[Cue]) -> str:
    """A SubRip file; empty without cues."""
    blocks = (
        f"{number}\n{_clock(cue.start_ms, ',')} --> {_clock(cue.end_ms, ',')}\n" + "\n".join(cue.lines) + "\n"
        for number, cue in enumerate(cues, 1)
    )
    return "\n".join(blocks)


def to_vtt(cues: Iterable[Cue]) -> str:
    """A WebVTT file. `&`, `<` and `>`, which are markup there, are escaped, so that `-->` cannot occur in a line."""
    blocks = (
        f"{_clock(cue.start_ms, '.')} --> {_clock(cue.end_ms, '.')}\n" + "\n".join(map(_escaped, cue.lines)) + "\n"
        for cue in cues
    )
    return "\n".join(["WEBVTT\n", *blocks])


def _groups(words: Iterable[TimedWord]) -> Iterator[list[TimedWord]]:
    group: list[TimedWord] = []
    for word in words:
        if not word.text.split():
            continue  # an empty line would end the cue in the file
        if group and not _fits(group, word):
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def _fits(group: Sequence[TimedWord], word: TimedWord) -> bool:
    return (
        word.start_ms - group[-1].end_ms <= MAX_PAUSE_MS
        and word.end_ms - group[0].start_ms <= MAX_CUE_MS
        and len(lines := _lines([*group, word])) <= MAX_LINES
        and all(len(line) <= MAX_LINE_CHARACTERS for line in lines)
    )


def _lines(words: Sequence[TimedWord]) -> list[str]:
    """Each line takes as many words as it can."""
    lines: list[str] = []
    for word in words:
        # As in any transcript: no space between CJK characters, and no line breaks inside a word.
        longer = canonical_text(f"{lines[-1]} {word.text}" if lines else word.text)
        if lines and len(longer) > MAX_LINE_CHARACTERS:
            lines.append(canonical_text(word.text))
        else:
            lines[-1:] = [longer]
    return lines


def _clock(time_ms: int, point: str) -> str:
    seconds, ms = divmod(time_ms, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{ms:03}"


def _escaped(line: str) -> str:
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
