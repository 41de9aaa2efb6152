"""Subtitles from words with times: readable cues, and SRT and WebVTT files."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Protocol

from unichoir.errors import DecodingError
from unichoir.text.breaks import break_cost, display_width, plain_line
from unichoir.text.normalize import canonical_text

CUE_COST = 1.0
"""Cost of each cue, so that there are few."""
BREAK_WEIGHT = 3.0
"""Weight of `break_cost` at the end of a cue."""
FULLNESS_WEIGHT = 0.5
"""Weight of the squared fullness of a cue, so that the cues of a sentence have similar lengths."""
HASTE_WEIGHT = 2.0
"""Cost of each second by which a cue is too short to be read."""


@dataclass(frozen=True, kw_only=True)
class SubtitleOptions:
    """The layout of subtitles. Raises DecodingError for invalid values."""

    max_line_length: int = 42
    """The longest line in columns; a Han, kana or Hangul character takes two. A single word may be longer."""
    max_lines: int = 2
    max_seconds: float = 7.0
    """The longest time for which a cue is shown."""
    min_seconds: float = 0.8
    """The shortest time for which a cue is shown, if the next cue leaves room. Otherwise cues are merged as far as the
    other limits allow."""
    max_pause_seconds: float = 0.8
    """A longer pause between words ends a cue."""
    max_speed: float = 20.0
    """Reading speed in columns per second. Cues are shown longer to keep to it, if the next cue leaves room."""

    def __post_init__(self) -> None:
        self._check("max_line_length", 4, 200, whole=True)
        self._check("max_lines", 1, 10, whole=True)
        self._check("max_seconds", 0.5, 60.0)
        self._check("min_seconds", 0.0, self.max_seconds)
        self._check("max_pause_seconds", 0.0, self.max_seconds)
        self._check("max_speed", 1.0, 1000.0)

    def _check(self, name: str, least: float, most: float, whole: bool = False) -> None:
        value = getattr(self, name)
        kind = int if whole else (int, float)
        if not isinstance(value, kind) or isinstance(value, bool) or not least <= value <= most:
            expected = "a whole number" if whole else "a number"
            raise DecodingError(f"subtitles: {name}: expected {expected} from {least:g} to {most:g}, found {value!r}")


class TimedWord(Protocol):
    """A word with times in ms from the start of the audio."""

    @property
    def text(self) -> str: ...
    @property
    def start_ms(self) -> int: ...
    @property
    def end_ms(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Cue:
    """The lines that are shown together from start_ms to end_ms."""

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]


def make_cues(
    words: Iterable[TimedWord],
    options: SubtitleOptions | None = None,
    *,
    duration_ms: int | None = None,
    ends: Collection[int] = (),
) -> list[Cue]:
    """Return the cues of `words`, which are in the order of speech.

    The cues are those with the lowest total cost. A cue costs less the better the place where it ends (best at the end
    of a sentence, then at other punctuation or a pause, worst after an article or a preposition), and the more time
    there is to read it. Within a cue, lines are as few and as even as possible. The limits of `options` on lines, line
    length, pauses and `max_seconds` are strict, except that a single word may be too long. Cues never overlap; each is
    shown from its first word on, for at least 1 ms, even if the times of words are wrong.

    duration_ms: the end of the audio, after which no cue is extended for reading; None: no limit.
    ends: numbers of words, from 0, after which a cue always ends, as at the end of a line of a known text.
    """
    chosen = options or SubtitleOptions()
    runs = list(_runs(words, chosen, ends))
    starts = [run.words[0].start_ms for run in runs]
    cues: list[Cue] = []
    shown_until = 0
    for place, run in enumerate(runs):
        limit = starts[place + 1] if place + 1 < len(runs) else duration_ms
        for first, end in _Cuts(run, chosen, limit).best():
            start = max(run.words[first].start_ms, shown_until)
            shown_until = max(run.shown_until(first, end, chosen, limit), start + 1)
            cues.append(Cue(start_ms=start, end_ms=shown_until, lines=tuple(_lines(run, first, end, chosen))))
    return cues


def to_srt(cues: Iterable[Cue]) -> str:
    """Return a SubRip file; empty without cues.

    The format cannot escape markup or `-->`, so `<`, `>`, `{` and `}` become angle quotation marks and parentheses.
    """
    blocks = (
        f"{number}\n{_clock(cue.start_ms, ',')} --> {_clock(cue.end_ms, ',')}\n"
        + "".join(f"{line.translate(_SRT_MARKUP)}\n" for line in cue.lines)
        for number, cue in enumerate(cues, 1)
    )
    return "\n".join(blocks)


def to_vtt(cues: Iterable[Cue]) -> str:
    """Return a WebVTT file. `&`, `<` and `>` are escaped, so `-->` cannot occur in a line."""
    blocks = (
        f"{_clock(cue.start_ms, '.')} --> {_clock(cue.end_ms, '.')}\n" + "\n".join(map(_escaped, cue.lines)) + "\n"
        for cue in cues
    )
    return "\n".join(["WEBVTT\n", *blocks])


_SRT_MARKUP = str.maketrans("<>{}", "\u2039\u203a()")  # angle quotation marks


@dataclass(frozen=True)
class _Shown:
    """A word as it is shown. Times never decrease, and words never overlap."""

    text: str
    start_ms: int
    end_ms: int
    width: int


class _Run:
    """Words without a forced break, with the spaces and break costs between them."""

    def __init__(self, words: Sequence[_Shown], options: SubtitleOptions) -> None:
        self.words = words
        self.spaces = [_space(word.text, after.text) for word, after in pairwise(words)] + [0]
        most = max(options.max_pause_seconds * 1000, 1)
        self.costs = [
            break_cost(word.text, after.text, min((after.start_ms - word.end_ms) / most, 1))
            for word, after in pairwise(words)
        ] + [0.0]
        columns = (word.width + space for word, space in zip(words, self.spaces, strict=True))
        self._columns = list(accumulate(columns, initial=0))

    def width(self, first: int, end: int) -> int:
        """Return the columns of the words first to end - 1 in one line."""
        return self._columns[end] - self._columns[first] - self.spaces[end - 1]

    def shown_until(self, first: int, end: int, options: SubtitleOptions, limit: int | None) -> int:
        """Return the end of the cue of these words, in ms: time to read it, within `limit` and the next cue."""
        start, last = self.words[first].start_ms, self.words[end - 1].end_ms
        wanted = start + round(1000 * max(options.min_seconds, self.width(first, end) / options.max_speed))
        room = self.words[end].start_ms if end < len(self.words) else limit
        if room is not None:
            wanted = min(wanted, room)
        return min(max(last, wanted), start + round(1000 * options.max_seconds))


class _Cuts:
    """The search for the best cues of a run; limit: the start of the next run, in ms."""

    def __init__(self, run: _Run, options: SubtitleOptions, limit: int | None) -> None:
        self.run, self.options, self.limit = run, options, limit

    def best(self) -> list[tuple[int, int]]:
        """Return first word and end of each cue in the cheapest division, found from the end backwards."""
        count = len(self.run.words)
        costs, ends = [0.0] * (count + 1), [count] * (count + 1)
        for first in reversed(range(count)):
            costs[first], ends[first] = min(
                (self.cost(first, end) + costs[end], end) for end in self._possible_ends(first)
            )
        cuts, first = [], 0
        while first < count:
            cuts.append((first, ends[first]))
            first = ends[first]
        return cuts

    def cost(self, first: int, end: int) -> float:
        """Return the cost of one cue."""
        run, options = self.run, self.options
        width = run.width(first, end)
        shown = (run.shown_until(first, end, options, self.limit) - run.words[first].start_ms) / 1000
        haste = max(max(options.min_seconds, width / options.max_speed) - shown, 0.0)
        # A word wider than the cue counts as full.
        fullness = min(width / (options.max_lines * options.max_line_length), 1.0)
        return CUE_COST + BREAK_WEIGHT * run.costs[end - 1] + FULLNESS_WEIGHT * fullness**2 + HASTE_WEIGHT * haste

    def _possible_ends(self, first: int) -> Iterator[int]:
        """Yield the possible ends of a cue from this word on: after the first word, then as long as the words fit."""
        words, options = self.run.words, self.options
        yield first + 1
        lines, width = 1, words[first].width
        for end in range(first + 2, len(words) + 1):
            longer = width + self.run.spaces[end - 2] + words[end - 1].width
            lines, width = (lines, longer) if longer <= options.max_line_length else (lines + 1, words[end - 1].width)
            too_long = words[end - 1].end_ms - words[first].start_ms > options.max_seconds * 1000
            if lines > options.max_lines or too_long or max(width, words[first].width) > options.max_line_length:
                return
            yield end


def _runs(words: Iterable[TimedWord], options: SubtitleOptions, ends: Collection[int]) -> Iterator[_Run]:
    run: list[_Shown] = []
    for word, is_end in _shown(words, ends):
        if run and word.start_ms - run[-1].end_ms > options.max_pause_seconds * 1000:
            yield _Run(run, options)
            run = []
        run.append(word)
        if is_end:
            yield _Run(run, options)
            run = []
    if run:
        yield _Run(run, options)


def _shown(words: Iterable[TimedWord], ends: Collection[int]) -> Iterator[tuple[_Shown, bool]]:
    """Yield the words that have a text, and whether a cue ends after each."""
    last: tuple[str, int, int] | None = None
    is_end = False
    for number, word in enumerate(words):
        text = canonical_text(plain_line(word.text))
        if text:  # an empty line would end the cue
            start = max(word.start_ms, last[1] if last else 0)
            if last:
                yield _Shown(last[0], last[1], min(last[2], start), _width(last[0])), is_end
            last, is_end = (text, start, max(word.end_ms, start)), False
        is_end = is_end or number in ends
    if last:
        yield _Shown(*last, _width(last[0])), is_end


def _lines(run: _Run, first: int, end: int, options: SubtitleOptions) -> list[str]:
    """Return the lines of a cue: as few as possible, with the cheapest breaks, as even as possible."""
    room = options.max_line_length
    # For each first word: number of lines, cost, and end of the first line.
    best: dict[int, tuple[int, float, int]] = {end: (0, 0.0, end)}
    for begin in reversed(range(first, end)):
        best[begin] = min(
            (
                best[stop][0] + 1,
                best[stop][1] + (run.costs[stop - 1] if stop < end else 0.0) + (run.width(begin, stop) / room) ** 2,
                stop,
            )
            for stop in range(begin + 1, end + 1)
            if stop == begin + 1 or run.width(begin, stop) <= room
        )
    lines = []
    while first < end:
        stop = best[first][2]
        # No space between CJK characters, as in any transcript.
        lines.append(canonical_text(" ".join(word.text for word in run.words[first:stop])))
        first = stop
    return lines


def _space(word: str, following: str) -> int:
    """Return the number of columns between two words."""
    return len(canonical_text(f"{word[-1]} {following[0]}")) - 2


def _width(text: str) -> int:
    return max(display_width(text), 1)


def _clock(time_ms: int, point: str) -> str:
    seconds, ms = divmod(time_ms, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{ms:03}"


def _escaped(line: str) -> str:
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
