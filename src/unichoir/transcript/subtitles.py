"""Words with times to subtitles: cues that can be read, and the SRT and WebVTT files made of them."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Protocol

from unichoir.errors import DecodingError
from unichoir.text.breaks import break_cost, display_width, plain_line
from unichoir.text.normalize import canonical_text

CUE_COST = 1.0
"""Of each cue: it is better to have few."""
BREAK_WEIGHT = 3.0
"""Of `break_cost` after a cue, beside the cost of a cue."""
FULLNESS_WEIGHT = 0.5
"""Of the squared share of its room that a cue takes: cues of a sentence share it evenly."""
HASTE_WEIGHT = 2.0
"""Of each second that a cue is shown too briefly to be read."""


@dataclass(frozen=True, kw_only=True)
class SubtitleOptions:
    """How subtitles look. Raises DecodingError for values that make no sense."""

    max_line_length: int = 42
    """Columns; a Han, kana or Hangul character takes two. A single word may be longer."""
    max_lines: int = 2
    max_seconds: float = 7.0
    """That a cue is shown at most."""
    min_seconds: float = 0.8
    """That a cue is shown at least where the next one leaves room; where it does not, cues are made longer or joined
    as far as the rest allows."""
    max_pause_seconds: float = 0.8
    """A longer pause between two words ends a cue."""
    max_speed: float = 20.0
    """Columns in a second that people can read. A cue stays longer for it where the next one leaves room."""

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


def make_cues(
    words: Iterable[TimedWord],
    options: SubtitleOptions | None = None,
    *,
    duration_ms: int | None = None,
    ends: Collection[int] = (),
) -> list[Cue]:
    """The cues of `words`, which come in the order in which they are said.

    Cues are those that together cost least: each costs something, and the less the better the place where it ends (the
    end of a sentence, another mark, a pause; worst after an article or a preposition) and the more time there is to
    read it. Within a cue, lines are as few and as even as such places allow. Hard limits are those of `options` on
    lines, their length, pauses and `max_seconds`; a word on its own may break those of length. Cues never overlap, each
    is shown from its first word on, and lasts 1 ms at least, whatever the words' times are.

    duration_ms: of the audio, after which no cue stays for the sake of reading; None: there is no such limit.
    ends: numbers of words, from 0, after which a cue ends in any case, as at the end of a line of a known text.
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
    """A SubRip file; empty without cues.

    The format has no way to write what players take as markup, nor `-->`: `<`, `>`, `{`, `}` become angle
    quotation marks and parentheses.
    """
    blocks = (
        f"{number}\n{_clock(cue.start_ms, ',')} --> {_clock(cue.end_ms, ',')}\n"
        + "".join(f"{line.translate(_SRT_MARKUP)}\n" for line in cue.lines)
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


_SRT_MARKUP = str.maketrans("<>{}", "\u2039\u203a()")  # angle quotation marks


@dataclass(frozen=True)
class _Shown:
    """A word as it is shown; times never go back, and it ends when the next one begins at the latest."""

    text: str
    start_ms: int
    end_ms: int
    width: int


class _Run:
    """Words without a break that must be, and what is known of the places between them."""

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
        """Columns of the words first to end - 1 in one line."""
        return self._columns[end] - self._columns[first] - self.spaces[end - 1]

    def shown_until(self, first: int, end: int, options: SubtitleOptions, limit: int | None) -> int:
        """When the cue of these words goes, in ms: as it has been read, if the next one or `limit` lets it."""
        start, last = self.words[first].start_ms, self.words[end - 1].end_ms
        wanted = start + round(1000 * max(options.min_seconds, self.width(first, end) / options.max_speed))
        room = self.words[end].start_ms if end < len(self.words) else limit
        if room is not None:
            wanted = min(wanted, room)
        return min(max(last, wanted), start + round(1000 * options.max_seconds))


class _Cuts:
    """The search for the best cues of a run; limit: when the first cue after it begins."""

    def __init__(self, run: _Run, options: SubtitleOptions, limit: int | None) -> None:
        self.run, self.options, self.limit = run, options, limit

    def best(self) -> list[tuple[int, int]]:
        """First word and end of each cue: of all divisions the cheapest, found from the end on."""
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
        """Of one cue."""
        run, options = self.run, self.options
        width = run.width(first, end)
        shown = (run.shown_until(first, end, options, self.limit) - run.words[first].start_ms) / 1000
        haste = max(max(options.min_seconds, width / options.max_speed) - shown, 0.0)
        # A word wider than its room is no fuller than full.
        fullness = min(width / (options.max_lines * options.max_line_length), 1.0)
        return CUE_COST + BREAK_WEIGHT * run.costs[end - 1] + FULLNESS_WEIGHT * fullness**2 + HASTE_WEIGHT * haste

    def _possible_ends(self, first: int) -> Iterator[int]:
        """Where a cue that begins with this word may end: after it, and further on while all fits."""
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
    """Words that have a text, and whether a cue ends after them."""
    last: tuple[str, int, int] | None = None
    is_end = False
    for number, word in enumerate(words):
        text = canonical_text(plain_line(word.text))
        if text:  # an empty line would end the cue in the file
            start = max(word.start_ms, last[1] if last else 0)
            if last:
                yield _Shown(last[0], last[1], min(last[2], start), _width(last[0])), is_end
            last, is_end = (text, start, max(word.end_ms, start)), False
        is_end = is_end or number in ends
    if last:
        yield _Shown(*last, _width(last[0])), is_end


def _lines(run: _Run, first: int, end: int, options: SubtitleOptions) -> list[str]:
    """The words of a cue in as few lines as they need, broken where it costs least, as even as possible."""
    room = options.max_line_length
    # From each word on: how many lines there are, what they cost, and where the first of them ends.
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
        # As in any transcript: no space between CJK characters.
        lines.append(canonical_text(" ".join(word.text for word in run.words[first:stop])))
        first = stop
    return lines


def _space(word: str, following: str) -> int:
    """How many columns are between two words."""
    return len(canonical_text(f"{word[-1]} {following[0]}")) - 2


def _width(text: str) -> int:
    return max(display_width(text), 1)


def _clock(time_ms: int, point: str) -> str:
    seconds, ms = divmod(time_ms, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{ms:03}"


def _escaped(line: str) -> str:
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
