"""Subtitles, read back by parsers that are stricter than any player."""

import html
import re
import textwrap
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unichoir.text.normalize import canonical_text
from unichoir.text.subtitles import Cue, make_cues, to_srt, to_vtt


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
    """In order, but otherwise as bad as it gets: without length, overlapping, far apart, very long."""
    alphabet = st.sampled_from("AB'&<>-é")
    words, time = [], draw(st.integers(0, 4_000_000))
    for _ in range(draw(st.integers(0, 40))):
        time += draw(st.sampled_from([0, 0, 0, 1, 80, 400, 799, 800, 801, 5000, 4_000_000]))
        length = draw(st.sampled_from([0, 1, 40, 300, 900, 6999, 7000, 7001, 20_000]))
        text = draw(st.text(alphabet, min_size=1, max_size=12) | st.sampled_from(["-->", "C" * 43, "D" * 90]))
        words.append(Word(text, time, time + length))
        time += draw(st.sampled_from([length, length, 0]))
    return words


def fits(words: list[Word]) -> bool:
    """By the definition: whether these may be one cue."""
    pauses = [after.start_ms - before.end_ms for before, after in pairwise(words)]
    lines = textwrap.wrap(" ".join(word.text for word in words), 42, break_long_words=False, break_on_hyphens=False)
    return (
        max(pauses, default=0) <= 800
        and words[-1].end_ms - words[0].start_ms <= 7000
        and len(lines) <= 2
        and max(map(len, lines)) <= 42
    )


@given(timed_words())
@settings(deadline=None, max_examples=300)
def test_cues_keep_every_rule_and_every_word(words: list[Word]) -> None:
    cues = make_cues(words)
    assert (
        parse_srt(to_srt(cues)) == parse_vtt(to_vtt(cues)) == [(cue.start_ms, cue.end_ms, [*cue.lines]) for cue in cues]
    )
    shown_until, rest = 0, list(words)
    for cue in cues:
        assert shown_until <= cue.start_ms < cue.end_ms
        shown_until = cue.end_ms
        num_words = len(" ".join(cue.lines).split())
        own, rest = rest[:num_words], rest[num_words:]
        assert [word.text for word in own] == " ".join(cue.lines).split()
        wrapped = textwrap.wrap(" ".join(cue.lines), 42, break_long_words=False, break_on_hyphens=False)
        assert list(cue.lines) == wrapped
        assert cue.end_ms - cue.start_ms <= 7000
        assert len(own) == 1 or fits(own)
        assert not rest or not fits([*own, rest[0]]), "a cue ends only where it has to"
        # It is shown while its words are said, as far as the cue before leaves room.
        assert cue.start_ms >= own[0].start_ms
    assert not rest


@given(st.lists(st.tuples(st.integers(0, 1500), st.integers(1, 1500)), max_size=40))
@settings(deadline=None)
def test_times_are_those_of_the_words_where_these_do_not_overlap(gaps_and_lengths: list[tuple[int, int]]) -> None:
    words, time = [], 0
    for gap, length in gaps_and_lengths:
        words.append(Word("WORD", time + gap, time + gap + length))
        time += gap + length
    rest = list(words)
    for cue in make_cues(words):
        own = rest[: len(" ".join(cue.lines).split())]
        del rest[: len(own)]
        assert (cue.start_ms, cue.end_ms) == (own[0].start_ms, own[-1].end_ms)


def test_a_cue_ends_at_a_pause_of_more_than_800_ms() -> None:
    words = spoken(("ONE", 0, 0.5), ("TWO", 1.3, 1.6), ("THREE", 2.401, 3))
    assert [cue.lines for cue in make_cues(words)] == [("ONE TWO",), ("THREE",)]


def test_lines_are_filled_and_cues_end_before_the_word_that_does_not_fit() -> None:
    cues = make_cues(evenly("FORTY TWO CHARACTERS ARE WHAT A LINE HOLDS" + " AB" * 14 + " NEXT", 0.1))
    assert cues == [
        Cue(
            start_ms=0,
            end_ms=2200,
            lines=("FORTY TWO CHARACTERS ARE WHAT A LINE HOLDS", " ".join(["AB"] * 14)),
        ),
        Cue(start_ms=2200, end_ms=2300, lines=("NEXT",)),
    ]


def test_a_word_longer_than_a_line_is_not_broken() -> None:
    cues = make_cues(evenly(f"A {'B' * 100} C"))
    assert [cue.lines for cue in cues] == [("A",), ("B" * 100,), ("C",)]


def test_scripts_without_spaces_get_none() -> None:
    cues = make_cues(evenly(" ".join("今天天气很好" * 16)))
    assert all(" " not in line and len(line) <= 42 for cue in cues for line in cue.lines)
    assert "".join(line for cue in cues for line in cue.lines) == "今天天气很好" * 16
    assert make_cues(evenly("我 爱 PYTHON 编 程"))[0].lines == (canonical_text("我爱 PYTHON 编程"),)


def test_words_cannot_break_the_file() -> None:
    """White space would end a line or a cue, and markup would be taken as such."""
    words = spoken((" A\n\nB ", 0, 1), ("\n", 1, 2), ("", 2, 2.1), ("<b>&amp;", 1.5, 2))
    for read in (parse_srt(to_srt(make_cues(words))), parse_vtt(to_vtt(make_cues(words)))):
        assert read == [Read(0, 2000, ["A B <b>&amp;"])]
    assert "&lt;b&gt;&amp;amp;" in to_vtt(make_cues(words))


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
