"""Subtitles, read back with parsers that are stricter than any player."""

import html
import re
import textwrap
from itertools import accumulate, combinations, pairwise
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unichoir.errors import DecodingError
from unichoir.text.breaks import break_cost
from unichoir.text.normalize import canonical_text
from unichoir.transcript.subtitles import Cue, SubtitleOptions, make_cues, to_srt, to_vtt

ANGLES = {ord("<"): "\u2039", ord(">"): "\u203a"}


class Word(NamedTuple):
    text: str
    start_ms: int
    end_ms: int


class Read(NamedTuple):
    """A cue as a parser finds it."""

    start_ms: int
    end_ms: int
    lines: list[str]


def parse_clock(text: str, point: str) -> int:
    match = re.fullmatch(rf"(\d\d+):([0-5]\d):([0-5]\d){re.escape(point)}(\d\d\d)", text)
    assert match, text
    hours, minutes, seconds, ms = map(int, match.groups())
    return ((hours * 60 + minutes) * 60 + seconds) * 1000 + ms


def parse_times(line: str, point: str) -> tuple[int, int]:
    start, arrow, end = line.partition(" --> ")
    assert arrow
    return parse_clock(start, point), parse_clock(end, point)


def parse_srt(text: str) -> list[Read]:
    if not text:
        return []
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    found = []
    for number, block in enumerate(text[:-1].split("\n\n"), 1):
        head, times, *lines = block.split("\n")
        assert head == str(number)
        assert lines
        assert all(line.strip() == line != "" for line in lines)
        found.append(Read(*parse_times(times, ","), lines))
    return found


def parse_vtt(text: str) -> list[Read]:
    head, *blocks = text.removesuffix("\n").split("\n\n")
    assert head == "WEBVTT"
    found = []
    for block in blocks:
        times, *lines = block.split("\n")
        assert lines
        for line in lines:
            assert "-->" not in line
            assert not re.search("[<>]", line), "no markup is ever meant"
            assert not re.search("&(?!(amp|lt|gt);)", line)
        found.append(Read(*parse_times(times, "."), [html.unescape(line) for line in lines]))
    return found


def spoken(*words: tuple[str, float, float]) -> list[Word]:
    """Times in seconds."""
    return [Word(text, round(start * 1000), round(end * 1000)) for text, start, end in words]


def evenly(text: str, seconds: float = 0.3) -> list[Word]:
    return spoken(*((word, place * seconds, (place + 1) * seconds) for place, word in enumerate(text.split())))


@st.composite
def timed_words(draw: st.DrawFn) -> list[Word]:
    """Words with the worst possible times: without length, overlapping, backwards, far apart, very long."""
    alphabet = st.sampled_from("AB'&<>-é")
    words, time = [], draw(st.integers(0, 4_000_000))
    for _ in range(draw(st.integers(0, 40))):
        time += draw(st.sampled_from([0, 0, 0, 1, 80, 400, 799, 800, 801, 5000, 4_000_000]))
        length = draw(st.sampled_from([0, 1, 40, 300, 900, 6999, 7000, 7001, 20_000, -700]))
        text = draw(st.text(alphabet, min_size=1, max_size=12) | st.sampled_from(["-->", "C" * 43, "D" * 90]))
        words.append(Word(text, time, time + length))
        time = max(time + draw(st.sampled_from([length, length, length, 0, -50])), 0)
    return words


@st.composite
def options(draw: st.DrawFn) -> SubtitleOptions:
    most = draw(st.sampled_from([1.0, 3.0, 7.0]))
    return SubtitleOptions(
        max_line_length=draw(st.sampled_from([4, 10, 42])),
        max_lines=draw(st.integers(1, 3)),
        max_seconds=most,
        min_seconds=draw(st.sampled_from([0.0, 0.8, 1.0])),
        max_pause_seconds=draw(st.sampled_from([0.0, 0.4, 0.8])),
        max_speed=draw(st.sampled_from([5.0, 20.0])),
    )


def clipped(words: list[Word]) -> list[Word]:
    """The same words, clipped to ascending times without overlaps."""
    starts = list(accumulate((word.start_ms for word in words), max))
    ends = [max(word.end_ms, start) for word, start in zip(words, starts, strict=True)]
    limits = [*starts, 10**12][1:]
    return [Word(w.text, s, min(e, n)) for w, s, e, n in zip(words, starts, ends, limits, strict=True)]


def divided(words: list[Word], cues: list[Cue]) -> list[list[Word]]:
    """Return the words of each cue. Fails if a word is lost, doubled or misplaced."""
    rest, parts = list(words), []
    for cue in cues:
        texts = " ".join(cue.lines).split()
        parts.append(rest[: len(texts)])
        rest = rest[len(texts) :]
        assert [word.text for word in parts[-1]] == texts
    assert not rest
    return parts


@given(timed_words(), options())
@settings(deadline=None, max_examples=300)
def test_cues_keep_every_limit_and_every_word(words: list[Word], limits: SubtitleOptions) -> None:
    cues = make_cues(words, limits)
    words = clipped(words)
    assert parse_vtt(to_vtt(cues)) == [(cue.start_ms, cue.end_ms, [*cue.lines]) for cue in cues]
    in_srt = [Read(cue.start_ms, cue.end_ms, [line.translate(ANGLES) for line in cue.lines]) for cue in cues]
    assert parse_srt(to_srt(cues)) == in_srt
    for part, cue in zip(divided(words, cues), cues, strict=True):
        assert 1 <= len(cue.lines) <= limits.max_lines
        assert all(len(line) <= limits.max_line_length or " " not in line for line in cue.lines)
        assert len(part) == 1 or max(map(len, cue.lines)) <= limits.max_line_length
        assert len(part) == 1 or part[-1].end_ms - part[0].start_ms <= 1000 * limits.max_seconds
        assert all(b.start_ms - a.end_ms <= 1000 * limits.max_pause_seconds for a, b in pairwise(part))
        # Where words have no time at all, each cue takes 1 ms from the next.
        assert part[0].start_ms <= cue.start_ms <= part[0].start_ms + len(cues)
        assert cue.end_ms - cue.start_ms <= 1000 * limits.max_seconds
        following = next((each.start_ms for each in cues if each.start_ms >= cue.end_ms), None)
        if following is None or following > cue.end_ms:
            shown, wanted = cue.end_ms - part[0].start_ms, 1000 * limits.min_seconds
            assert shown >= wanted, "there was room to show it longer"
    for cue, after in pairwise(cues):
        assert cue.start_ms < cue.end_ms <= after.start_ms


def reading_seconds(width: int, limits: SubtitleOptions) -> float:
    return max(limits.min_seconds, width / limits.max_speed)


def cheapest(words: list[Word], limits: SubtitleOptions) -> float:
    """Return the lowest cost of any division, by trying all."""
    places = range(1, len(words))
    divisions = (cuts for size in range(len(words)) for cuts in combinations(places, size))
    return min(division_cost([words[a:b] for a, b in pairwise([0, *cuts, len(words)])], limits) for cuts in divisions)


def parted_by(before: Word, after: Word, limits: SubtitleOptions) -> float:
    """Return the cost of a break between two words."""
    pause = (after.start_ms - before.end_ms) / 1000
    if pause > limits.max_pause_seconds:
        return 0
    return break_cost(before.text, after.text, min(pause / limits.max_pause_seconds, 1))


def division_cost(parts: list[list[Word]], limits: SubtitleOptions) -> float:
    """Compute the cost by its definition; infinite if a limit is exceeded."""
    cost = 0.0
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        text = " ".join(word.text for word in part)
        lines = textwrap.wrap(text, limits.max_line_length, break_long_words=False, break_on_hyphens=False)
        seconds = (part[-1].end_ms - part[0].start_ms) / 1000
        if len(part) > 1 and (
            len(lines) > limits.max_lines
            or max(map(len, lines)) > limits.max_line_length
            or seconds > limits.max_seconds
            or any(b.start_ms - a.end_ms > 1000 * limits.max_pause_seconds for a, b in pairwise(part))
        ):
            return float("inf")
        room = float("inf") if following is None else (following[0].start_ms - part[0].start_ms) / 1000
        needed = reading_seconds(len(text), limits)
        shown = min(max(seconds, min(needed, room)), limits.max_seconds)
        fullness = min(len(text) / limits.max_lines / limits.max_line_length, 1)
        cost += 1 + 0.5 * fullness**2 + 2 * max(needed - shown, 0)
        if following is not None:
            cost += 3 * parted_by(part[-1], following[0], limits)
    return cost


@st.composite
def sentences(draw: st.DrawFn) -> list[Word]:
    words, time = [], 0
    vocabulary = st.sampled_from(["a", "the", "harbour", "fishermen", "of", "cold.", "while,", "and", "we", "Dr."])
    for _ in range(draw(st.integers(1, 9))):
        time += draw(st.sampled_from([0, 0, 30, 200, 700, 1000]))
        length = draw(st.sampled_from([100, 300, 900]))
        words.append(Word(draw(vocabulary), time, time + length))
        time += length
    return words


@given(sentences())
@settings(deadline=None, max_examples=150)
def test_no_division_costs_less(words: list[Word]) -> None:
    for limits in (
        SubtitleOptions(max_line_length=16, max_seconds=3.0),
        SubtitleOptions(max_line_length=22, max_lines=1, max_speed=12.0),
    ):
        found = divided(words, make_cues(words, limits))
        assert division_cost(found, limits) == pytest.approx(cheapest(words, limits))


@given(sentences())
@settings(deadline=None, max_examples=150)
def test_no_lines_are_better(words: list[Word]) -> None:
    """Of the fewest lines the cheapest: even, and broken at good places."""
    limits = SubtitleOptions(max_line_length=18, max_lines=10, max_seconds=60.0, max_pause_seconds=10.0, min_seconds=0)

    def cost(lines: list[list[Word]]) -> tuple[int, float]:
        shares = [len(" ".join(word.text for word in line)) / 18 for line in lines]
        breaks = [parted_by(a[-1], b[0], limits) for a, b in pairwise(lines)]
        return len(lines), sum(share**2 for share in shares) + sum(breaks) if max(shares) <= 1 else float("inf")

    for part, cue in zip(divided(words, cues := make_cues(words, limits)), cues, strict=True):
        cuts = [c for size in range(len(part)) for c in combinations(range(1, len(part)), size)]
        ways = [[part[a:b] for a, b in pairwise([0, *each, len(part)])] for each in cuts]
        best = min(cost(way) for way in ways if cost(way)[1] < float("inf"))
        sizes = [0, *accumulate(len(line.split()) for line in cue.lines)]
        assert cost([part[a:b] for a, b in pairwise(sizes)]) == pytest.approx(best)


TALE = (
    "I went down to the harbour in the early morning, because the fishermen come back at that hour and sell what they "
    "have caught. It was cold. Nobody spoke for a while, and then an old man with a white beard began to tell us about "
    "the storm of the year before, in which he had lost his boat. We slept."
)


def test_sentences_and_phrases_stay_together() -> None:
    assert [cue.lines for cue in make_cues(evenly(TALE, 0.33))] == [
        ("I went down to the harbour", "in the early morning,"),
        ("because the fishermen come back at that", "hour and sell what they have caught."),
        ("It was cold.",),
        ("Nobody spoke for a while, and then an old", "man with a white beard began to tell us"),
        ("about the storm of the year before,", "in which he had lost his boat. We slept."),
    ]


def test_where_there_is_room_a_cue_stays_until_it_has_been_read() -> None:
    """20 characters in a second and 0.8 s at least, up to the next cue or the end of the audio."""
    words = spoken(("YES", 0, 0.2), ("NO", 5, 5.1), ("INCOMPREHENSIBILITIES" * 2, 5.95, 6.2), ("MAYBE", 8, 8.1))
    found = [(cue.start_ms, cue.end_ms) for cue in make_cues(words, duration_ms=8300)]
    assert found == [(0, 800), (5000, 5800), (5950, 8000), (8000, 8300)]
    assert make_cues(words)[-1].end_ms == 8800


def test_a_cue_ends_where_a_line_of_a_known_text_does() -> None:
    words = evenly("ONE TWO THREE FOUR FIVE")
    assert [cue.lines for cue in make_cues(words, ends={1, 2, 4})] == [("ONE TWO",), ("THREE",), ("FOUR FIVE",)]
    words[2] = words[2]._replace(text=" ")
    assert [cue.lines for cue in make_cues(words, ends={2})] == [("ONE TWO",), ("FOUR FIVE",)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_line_length", 3),
        ("max_line_length", 42.0),
        ("max_lines", 0),
        ("max_lines", True),
        ("max_seconds", float("nan")),
        ("max_seconds", float("inf")),
        ("min_seconds", 7.5),
        ("min_seconds", -0.1),
        ("max_pause_seconds", "1"),
        ("max_speed", 0),
    ],
)
def test_options_that_make_no_sense(name: str, value: object) -> None:
    with pytest.raises(DecodingError, match=f"subtitles: {name}: expected .*, found"):
        SubtitleOptions(**{name: value})


def test_a_cue_ends_at_a_pause_of_more_than_800_ms() -> None:
    words = spoken(("ONE", 0, 0.5), ("TWO", 1.3, 1.6), ("THREE", 2.401, 3))
    assert [cue.lines for cue in make_cues(words)] == [("ONE TWO",), ("THREE",)]


def test_a_word_longer_than_a_line_is_not_broken() -> None:
    cues = make_cues(evenly(f"A {'B' * 100} C"))
    assert [cue.lines for cue in cues] == [("A",), ("B" * 100,), ("C",)]


def test_scripts_without_spaces_get_none() -> None:
    cues = make_cues(evenly(" ".join("今天天气很好" * 16)))
    assert all(" " not in line and len(line) <= 21 for cue in cues for line in cue.lines)
    assert "".join(line for cue in cues for line in cue.lines) == "今天天气很好" * 16
    assert make_cues(evenly("我 爱 PYTHON 编 程"))[0].lines == (canonical_text("我爱 PYTHON 编程"),)


@pytest.mark.parametrize("text", ["今天天气很好", "오늘은 날씨가 아주 좋습니다"])
def test_wide_characters_take_two_columns(text: str) -> None:
    """As East Asian Width says: 21 of them fill a line of 42."""
    cues = make_cues(evenly(" ".join(text.replace(" ", "") * 16), 0.1))
    longest = max(len(line.replace(" ", "")) for cue in cues for line in cue.lines)
    assert 14 <= longest <= 21


def test_words_cannot_break_the_file() -> None:
    """White space would end a line or a cue, and markup would be taken as such."""
    words = spoken(
        (" A\n\nB\x00\x85 ", 0, 1), ("\n", 1, 2), ("", 2, 2.1), ("<b>&amp;", 1.5, 2), ("-->", 2, 2), ("{\\i}", 2, 2)
    )
    cues = make_cues(words)
    assert cues[0].lines == ("A B <b>&amp; --> {\\i}",)
    assert parse_vtt(to_vtt(cues)) == [Read(0, 2000, [*cues[0].lines])]
    assert "&lt;b&gt;&amp;amp;" in to_vtt(cues)
    assert parse_srt(to_srt(cues)) == [Read(0, 2000, ["A B \u2039b\u203a&amp; --\u203a (\\i)"])]


@pytest.mark.parametrize(
    ("start_ms", "srt", "vtt"),
    [(0, "00:00:00,000", "00:00:00.000"), (359_999_999, "99:59:59,999", "99:59:59.999")],
)
def test_clocks(start_ms: int, srt: str, vtt: str) -> None:
    cues = [Cue(start_ms=start_ms, end_ms=start_ms + 1, lines=("A",))]
    assert to_srt(cues).split()[1] == srt
    assert to_vtt(cues).split()[1] == vtt


def test_no_words_make_no_cues() -> None:
    assert make_cues([]) == []
    assert to_srt([]) == ""
    assert to_vtt([]) == "WEBVTT\n"
