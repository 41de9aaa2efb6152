# ruff: noqa: RUF001 - typographic characters are what some rules are about
"""The rules of docs/training/corpora.md, one line each."""

import pytest

from unichoir.corpora import transcripts


@pytest.mark.parametrize(
    ("rule", "published", "transcript"),
    [
        (transcripts.as_published, "  MISTER  QUILTER'S\tMANNER ", "MISTER QUILTER'S MANNER"),
        (transcripts.mandarin, "绿 是 阳春 烟 景", "绿是阳春烟景"),
        (transcripts.mandarin, "听beat it", "听 BEAT IT"),
        (transcripts.without_punctuation, "Don’t – “stop”, René!", "DON'T STOP RENÉ"),
        (transcripts.without_punctuation, "你好\uff0c世界\u3002 \uff21\uff30\uff30", "你好世界 APP"),
        (transcripts.without_punctuation, "...", ""),
        (transcripts.gigaspeech, "YES <COMMA> IT'S <QUESTIONMARK>", "YES IT'S"),
        (transcripts.gigaspeech, "A <PERIOD> B <EXCLAMATIONPOINT>", "A B"),
        (transcripts.gigaspeech, "<NOISE>", None),
        (transcripts.gigaspeech, "<SIL>", None),
        (transcripts.gigaspeech, "<OTHER>", None),
        (transcripts.gigaspeech, "<PERIOD>", ""),
        (transcripts.an4, "<s> RUBOUT G M E F </s> ", "RUBOUT G M E F"),
        (transcripts.an4, "YES", "YES"),
    ],
)
def test_rule(rule, published: str, transcript: str | None) -> None:
    assert rule(published) == transcript
