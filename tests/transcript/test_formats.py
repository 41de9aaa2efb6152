"""Formats of transcripts, read back with praatio, OpenAI's client, and the rules of NIST and Whisper."""

import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.audio import TranscriptionVerbose
from praatio import textgrid

from unichoir.transcript.formats import FORMATS, Format, speech_segments, write_transcript
from unichoir.transcript.results import Alternative, Token, Transcript, Word, mean_confidence
from unichoir.transcript.subtitles import SubtitleOptions

HOSTILE = [
    *(
        "a\tb",
        "a\nb",
        "a\r\n\r\n2\r\n00:00:01,000 --> 00:00:02,000\r\nforged",
        "-->",
        "<b>x</b>",
        "&amp;",
        '"',
        '""',
        '\\"',
    ),
    *(
        'x"\n        intervals [9]:\n xmin = 0',
        ";;",
        "<ALT_BEGIN>",
        "<alt>",
        "{\\an8}",
        "\x00",
        "\x1b[2J",
        "\x85",
        "\u2028",
        " ",
        "A\\n",
    ),
]


def visible(text: str) -> list[str]:
    """Return the words as in every format: white space and control characters only separate them."""
    return "".join(each if each.isprintable() or each.isspace() or ord(each) > 0x9F else " " for each in text).split()


def make_transcript(words: list[Word], duration_ms: int | None = None) -> Transcript:
    text = " ".join(word.text for word in words)
    tokens = tuple(
        Token(
            id=place, text="\u2581" + word.text, start_ms=word.start_ms, end_ms=word.end_ms, confidence=word.confidence
        )
        for place, word in enumerate(words)
    )
    ids = tuple(token.id for token in tokens)
    return Transcript(
        text=text,
        tokens=tokens,
        words=tuple(words),
        score=-1.5,
        confidence=mean_confidence(words),
        nbest=(Alternative(text=text, tokens=ids, score=-1.5),),
        duration_ms=duration_ms if duration_ms is not None else max((word.end_ms for word in words), default=0) + 500,
    )


def spoken(text: str, step: int = 300, start: int = 100) -> list[Word]:
    return [
        Word(text=word, start_ms=start + place * step, end_ms=start + place * step + 250, confidence=0.9)
        for place, word in enumerate(text.split())
    ]


SIMPLE = make_transcript([*spoken("GOOD MORNING."), *spoken("HOW ARE YOU", start=3000)], 5000)


@st.composite
def transcripts(draw: st.DrawFn) -> Transcript:
    """Words in order, with any text and some invalid times: overlapping or without length."""
    words, time = [], draw(st.integers(0, 3000))
    texts = st.sampled_from(HOSTILE) | st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
    for _ in range(draw(st.integers(0, 12))):
        time += draw(st.sampled_from([0, 0, 100, 900]))
        length = draw(st.sampled_from([0, 1, 300]))
        words.append(Word(text=draw(texts), start_ms=time, end_ms=time + length, confidence=draw(st.floats(0, 1))))
        time += draw(st.sampled_from([length, length, 0]))
    return make_transcript(words, draw(st.sampled_from([time, time + 1000, 0])))


def is_visible(word: Word) -> bool:
    return bool(visible(word.text))


def squeezed(text: str) -> str:
    """Remove the spaces, which may differ next to CJK characters."""
    return "".join(text.split())


class CtmWord(NamedTuple):
    file: str
    channel: str
    start: float
    duration: float
    word: str
    confidence: float


def parse_ctm(content: str) -> list[CtmWord]:
    """Parse CTM by sclite's rules: comments begin with ;; and blanks separate six fields."""
    found = []
    assert not content or content.endswith("\n")
    for line in content.split("\n")[:-1]:
        assert not line.startswith(";;")
        file, channel, start, duration, word, confidence = re.split("[ \t]+", line)
        assert re.fullmatch(r"\d+\.\d{3}", start)
        assert not re.fullmatch("<ALT.*>", word, re.IGNORECASE), "is taken as the mark of alternatives"
        found.append(CtmWord(file, channel, float(start), float(duration), word, float(confidence)))
        assert found[-1].duration >= 0
        assert 0 <= found[-1].confidence <= 1
    return found


Spoken = tuple[float, float, str]


def parse_textgrid(content: str) -> tuple[list[Spoken], list[Spoken], float]:
    """Parse a TextGrid by Praat's manual: only free numbers, quoted texts (quotes doubled inside) and flags count."""
    free = re.findall(r'"(?:[^"]|"")*"|<[^>\n]*>|(?<!\S)-?\d+(?:\.\d+)?(?!\S)', content)
    values = iter(each[1:-1].replace('""', '"') if each[0] == '"' else each for each in free)
    assert [next(values) for _ in range(3)] == ["ooTextFile", "TextGrid", "0"]
    end = float(next(values))
    assert [next(values), next(values)] == ["<exists>", "2"]
    tiers = []
    for name in ("words", "segments"):
        assert [next(values), next(values), next(values), float(next(values))] == ["IntervalTier", name, "0", end]
        count = int(next(values))
        tiers.append([(float(next(values)), float(next(values)), next(values)) for _ in range(count)])
    assert not list(values)
    return tiers[0], tiers[1], end


def read_textgrid(content: str, folder: Path) -> tuple[list[Spoken], list[Spoken], float]:
    """Read a TextGrid with praatio, which also splits intervals where a text looks like a separator."""
    path = folder / "read.TextGrid"
    path.write_text(content, encoding="utf-8", newline="\n")
    grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=True, reportingMode="error")
    assert grid.tierNames == ("words", "segments")
    words, segments = ([tuple(entry) for entry in grid.getTier(name).entries] for name in grid.tierNames)
    return words, segments, grid.maxTimestamp


def test_every_format_of_a_simple_transcript() -> None:
    """Word for word."""
    assert write_transcript(SIMPLE, "text", "a.wav") == "GOOD MORNING. HOW ARE YOU\n"
    assert write_transcript(SIMPLE, "srt", "a.wav") == (
        "1\n00:00:00,100 --> 00:00:00,900\nGOOD MORNING.\n\n2\n00:00:03,000 --> 00:00:03,850\nHOW ARE YOU\n"
    )
    assert write_transcript(SIMPLE, "vtt", "a.wav") == (
        "WEBVTT\n\n00:00:00.100 --> 00:00:00.900\nGOOD MORNING.\n\n00:00:03.000 --> 00:00:03.850\nHOW ARE YOU\n"
    )
    assert write_transcript(SIMPLE, "tsv", "a.wav") == (
        "start\tend\ttext\n100\t650\tGOOD MORNING.\n3000\t3850\tHOW ARE YOU\n"
    )
    assert write_transcript(SIMPLE, "ctm", "my file.wav") == (
        "my_file.wav 1 0.100 0.250 GOOD 0.900\nmy_file.wav 1 0.400 0.250 MORNING. 0.900\n"
        "my_file.wav 1 3.000 0.250 HOW 0.900\n"
        "my_file.wav 1 3.300 0.250 ARE 0.900\nmy_file.wav 1 3.600 0.250 YOU 0.900\n"
    )
    content = json.loads(write_transcript(SIMPLE, "json", "a.wav"))
    assert content == {"file": "a.wav", **SIMPLE.to_dict()}


def test_verbose_json_is_what_openais_client_reads() -> None:
    content = json.loads(write_transcript(SIMPLE, "verbose_json", "a.wav"))
    read = TranscriptionVerbose.model_validate(content, strict=True)
    assert (read.duration, read.text) == (5.0, "GOOD MORNING. HOW ARE YOU")
    assert read.segments is not None
    assert [(each.id, each.start, each.end, each.text) for each in read.segments] == [
        (0, 0.1, 0.65, "GOOD MORNING."),
        (1, 3.0, 3.85, "HOW ARE YOU"),
    ]
    assert [each.tokens for each in read.segments] == [[0, 1], [2, 3, 4]]
    assert [each.seek for each in read.segments] == [10, 300]
    assert read.segments[0].avg_logprob == pytest.approx(math.log(0.9))
    (first, *_), (*_, last) = (segment["words"] for segment in content["segments"])
    assert first == {"word": "GOOD", "start": 0.1, "end": 0.35, "confidence": 0.9}
    assert last == {"word": "YOU", "start": 3.6, "end": 3.85, "confidence": 0.9}


def test_praat_reads_the_textgrid(tmp_path: Path) -> None:
    words, segments, end = read_textgrid(write_transcript(SIMPLE, "textgrid", "a.wav"), tmp_path)
    assert end == 5.0
    assert words == [
        (0, 0.1, ""),
        (0.1, 0.35, "GOOD"),
        (0.35, 0.4, ""),
        (0.4, 0.65, "MORNING."),
        (0.65, 3, ""),
        (3, 3.25, "HOW"),
        (3.25, 3.3, ""),
        (3.3, 3.55, "ARE"),
        (3.55, 3.6, ""),
        (3.6, 3.85, "YOU"),
        (3.85, 5, ""),
    ]
    assert [each for each in segments if each[2]] == [(0.1, 0.65, "GOOD MORNING."), (3, 3.85, "HOW ARE YOU")]


@pytest.mark.parametrize("word", [each for each in HOSTILE if "intervals [" not in each and visible(each)])
def test_praat_reads_any_word(word: str, tmp_path: Path) -> None:
    transcript = make_transcript([Word(text=word, start_ms=0, end_ms=900, confidence=1.0)], 900)
    content = write_transcript(transcript, "textgrid", "a.wav")
    assert read_textgrid(content, tmp_path) == parse_textgrid(content)
    assert parse_textgrid(content)[0] == [(0.0, 0.9, " ".join(visible(word)))]


@given(transcript=transcripts())
@settings(deadline=None, max_examples=150)
def test_no_word_is_lost_or_forges_anything(transcript: Transcript) -> None:
    words = [word for word in transcript.words if is_visible(word)]
    expected = ["_".join(visible(word.text)) for word in words]
    found = parse_ctm(write_transcript(transcript, "ctm", "a b.wav"))
    assert {each.file for each in found} <= {"a_b.wav"}
    assert [re.sub(r"^\[(alt.*)\]$", r"<\1>", each.word, flags=re.IGNORECASE) for each in found] == expected
    assert [each.start for each in found] == [word.start_ms / 1000 for word in words]

    head, *rows = write_transcript(transcript, "tsv", "a b.wav").split("\n")[:-1]
    assert head == "start\tend\ttext"
    fields = [row.split("\t") for row in rows]
    assert all(len(each) == 3 and int(each[0]) <= int(each[1]) and each[2] == each[2].strip() for each in fields)
    assert squeezed("".join(each[2] for each in fields)) == squeezed("".join("".join(visible(w.text)) for w in words))

    content = write_transcript(transcript, "textgrid", "a b.wav")
    intervals, segments, end = parse_textgrid(content)
    assert [label.split() for _, _, label in intervals if label] == [visible(word.text) for word in words]
    for tier in (intervals, segments):
        assert [tier[0][0], tier[-1][1]] == [0, end]
        assert all(before[1] == after[0] for before, after in pairwise(tier))
        assert all(start < stop for start, stop, _ in tier)

    assert write_transcript(transcript, "text", "a").count("\n") == 1
    for each in ("json", "verbose_json"):
        line = write_transcript(transcript, each, 'a"\n.wav')
        assert line.count("\n") == 1
        assert json.loads(line)["file"] == 'a"\n.wav'


@pytest.mark.parametrize("word", HOSTILE)
@pytest.mark.parametrize("output_format", ["srt", "vtt"])
def test_subtitles_stay_one_cue(output_format: Format, word: str) -> None:
    """The rest of their form is tested with the module that writes it."""
    content = write_transcript(
        make_transcript([Word(text=word, start_ms=0, end_ms=900, confidence=1.0), *spoken("END", start=950)]),
        output_format,
        "a.wav",
        SubtitleOptions(max_line_length=200),
    )
    assert content.count("-->") == 1
    assert content.count("\n\n") == (output_format == "vtt")
    assert content.splitlines()[-1].endswith("END")
    assert "<" not in content
    assert output_format == "vtt" or "{" not in content


@pytest.mark.parametrize("name", ["a b\tc.wav", ";;a.wav", "", "\n"])
def test_names_in_ctm(name: str) -> None:
    (word,) = parse_ctm(write_transcript(make_transcript(spoken("ONE")), "ctm", name))
    assert word[1:] == ("1", 0.1, 0.25, "ONE", 0.9)


@pytest.mark.parametrize("output_format", FORMATS)
def test_nothing_said(output_format: Format, tmp_path: Path) -> None:
    for duration_ms in (0, 1234):
        content = write_transcript(make_transcript([], duration_ms), output_format, "a.wav")
        assert content == "" or content.endswith("\n")
        if output_format in ("srt", "ctm"):
            assert content == ""
        if output_format == "textgrid":
            end = max(duration_ms / 1000, 0.001)
            assert read_textgrid(content, tmp_path) == ([(0, end, "")], [(0, end, "")], end)
        if output_format == "verbose_json":
            assert TranscriptionVerbose.model_validate(json.loads(content)).segments == []


def test_segments_of_a_known_text(tmp_path: Path) -> None:
    """Where the lines are known they are the segments of all formats, and cues end with them."""
    words = spoken("ONE TWO THREE FOUR FIVE")
    transcript, lines = make_transcript(words), [words[:2], [], words[2:]]

    def written(output_format: Format) -> str:
        return write_transcript(transcript, output_format, "a.wav", segments=lines)

    assert [row.split("\t")[2] for row in written("tsv").splitlines()[1:]] == ["ONE TWO", "THREE FOUR FIVE"]
    assert re.findall("[A-Z ]{4,}", written("srt")) == ["ONE TWO", "THREE FOUR FIVE"]
    assert [each["text"] for each in json.loads(written("verbose_json"))["segments"]] == ["ONE TWO", "THREE FOUR FIVE"]
    assert json.loads(written("json"))["segments"] == [
        {"text": "ONE TWO", "start_ms": 100, "end_ms": 650, "confidence": pytest.approx(0.9)},
        {"text": "THREE FOUR FIVE", "start_ms": 700, "end_ms": 1550, "confidence": pytest.approx(0.9)},
    ]
    _, segments, _ = read_textgrid(written("textgrid"), tmp_path)
    assert [label for _, _, label in segments if label] == ["ONE TWO", "THREE FOUR FIVE"]


def test_segments_end_at_sentences_pauses_and_after_half_a_minute() -> None:
    words = [*spoken("IT IS COLD. WE WENT"), *spoken("IN", start=2700), *spoken("WORD " * 120, start=4000)]
    assert [len(segment) for segment in speech_segments(words)] == [3, 2, 1, 100, 20]
    assert [word for segment in speech_segments(words) for word in segment] == words


def test_the_written_form_comes_with_its_times(tmp_path: Path) -> None:
    """21 for TWENTY ONE is one word of all formats."""
    pytest.importorskip("wetext")
    from unichoir.text.written import WrittenForm
    from unichoir.transcript.rewriting import rewrite

    written = rewrite(make_transcript(spoken("WE HAVE TWENTY ONE DOGS")), WrittenForm(itn="en"))
    assert [(each.word, each.start, each.duration) for each in parse_ctm(write_transcript(written, "ctm", "a"))] == [
        ("WE", 0.1, 0.25),
        ("HAVE", 0.4, 0.25),
        ("21", 0.7, 0.55),
        ("DOGS", 1.3, 0.25),
    ]
    assert write_transcript(written, "srt", "a").splitlines()[2] == "WE HAVE 21 DOGS"
    assert write_transcript(written, "text", "a") == "WE HAVE 21 DOGS\n"
    segment = json.loads(write_transcript(written, "verbose_json", "a"))["segments"][0]
    assert (segment["text"], segment["tokens"]) == ("WE HAVE 21 DOGS", [0, 1, 2, 3, 4])
