"""Hotwords: the automaton against a search for every phrase at every position, and the parsing of lists."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.search.spelled import SpelledTokenizer

from unichoir.errors import DecodingError, TokenizerError
from unichoir.search.hotwords import DEFAULT_BOOST, ContextGraph, Hotword, parse_hotwords, read_hotwords
from unichoir.text.tokenizer import BpeTokenizer, CharTokenizer, train_bpe

TOKENS = ["<blank>", "<unk>", "<sos/eos>", "\u2581", "\u2581a", "\u2581b", "a", "b", "中", "国", "<|en|>", "<0xE4>"]
DROPPED = {"<blank>", "<sos/eos>", "<|en|>", "\u2581"}
TOKENIZER = SpelledTokenizer(TOKENS)


def spaced(tokens: Sequence[str]) -> tuple[list[str], list[bool]]:
    """The tokens that are written, and whether a word may end and begin before each and after the last."""
    written, borders, border = [], [], True
    for token in tokens:
        if token == "\u2581":
            border = True
        elif token not in DROPPED:
            borders.append(border or token.startswith("\u2581") or token in "中国")
            written.append(token)
            border = token in "中国"
    return written, [*borders, True]


def bonus_by_search(tokens: Sequence[str], phrases: Sequence[tuple[str, float]]) -> float:
    """Every phrase at every place; each token counts with the highest boost of the phrases that cover it."""
    written, borders = spaced(tokens)
    boosts = [0.0] * len(written)
    for phrase, boost in phrases:
        wanted, inner = spaced(phrase.split())
        size = len(wanted)
        for start in range(len(written) - size + 1):
            if written[start : start + size] != wanted:
                continue
            # A phrase that writes a space beside its byte asks for that border.
            begins = borders[start] or phrase.split()[0] == "<0xE4>"
            ends = borders[start + size] or phrase.split()[-1] == "<0xE4>"
            if begins and ends and borders[start + 1 : start + size] == inner[1:size]:
                boosts[start : start + size] = [max(boost, each) for each in boosts[start : start + size]]
    return sum(boosts)


def bonus_by_graph(graph: ContextGraph, tokens: Sequence[str]) -> float:
    state, total = graph.start(), 0.0
    for token in tokens:
        state, added = graph.extend(state, TOKENS.index(token))
        total += added
    return total + graph.finish(state)


@st.composite
def phrases_and_text(draw: st.DrawFn) -> tuple[list[tuple[str, float]], list[str]]:
    """Phrases of few tokens, and texts that are often made of them."""
    letters = draw(st.sampled_from([["\u2581a", "a"], ["\u2581a", "\u2581b", "a", "b", "\u2581"], TOKENS[3:]]))
    token = st.sampled_from(letters)
    phrase = st.lists(token, min_size=1, max_size=5).filter(lambda pieces: spaced(pieces)[0])
    phrases = draw(st.lists(phrase, min_size=1, max_size=6))
    boosts = [draw(st.sampled_from([0.5, 1.0, 3.0])) for _ in phrases]
    parts = draw(st.lists(st.one_of(st.sampled_from(phrases), st.lists(token, max_size=3)), max_size=6))
    text = [piece for part in parts for piece in part]
    return [(" ".join(pieces), boost) for pieces, boost in zip(phrases, boosts, strict=True)], text


@settings(max_examples=400, deadline=None)
@given(case=phrases_and_text())
@example(case=([("\u2581a a", 1.0), ("\u2581a", 3.0), ("\u2581a a \u2581b", 0.5)], ["\u2581a", "a", "\u2581b", "b"]))
@example(
    case=([("\u2581b", 1.0), ("\u2581a \u2581b \u2581a", 1.0)], ["\u2581a", "\u2581b", "\u2581b"])
)  # one in another
@example(case=([("\u2581 <0xE4>", 0.5)], ["\u2581", "<0xE4>", "<0xE4>"]))
@example(  # one in a beginning of another in a beginning of a third
    case=(
        [("\u2581a \u2581b 中 国", 1.0), ("\u2581b 中 中", 1.0), ("中", 1.0)],
        ["\u2581a", "\u2581b", "中", "\u2581b"],
    )
)
def test_every_beginning_of_a_text_has_the_bonus_of_a_search(case: tuple[list[tuple[str, float]], list[str]]) -> None:
    phrases, text = case
    graph = ContextGraph(parse_hotwords(phrases), TOKENIZER)
    for end in range(len(text) + 1):
        expected = bonus_by_search(text[:end], phrases)
        assert bonus_by_graph(graph, text[:end]) == pytest.approx(expected, abs=1e-9), text[:end]


def test_a_phrase_counts_while_it_is_written_and_is_taken_back_where_it_breaks() -> None:
    graph = ContextGraph([Hotword("\u2581a b \u2581b", 2.0)], TOKENIZER)
    state, steps = graph.start(), []
    for token in ["\u2581b", "\u2581a", "b", "\u2581a", "b", "\u2581b", "\u2581a"]:
        state, added = graph.extend(state, TOKENS.index(token))
        steps.append(added)
    #                                  broken: begun again    complete; another begins
    assert steps == pytest.approx([0, 2, 2, -4 + 2, 2, 2, 2])
    assert graph.finish(state) == pytest.approx(-2)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_beginning_counts_as_the_phrase_of_the_highest_boost(backwards: bool) -> None:
    phrases = [Hotword("\u2581a b", 2.0), Hotword("\u2581a a", 0.5)]
    graph = ContextGraph(phrases[::-1] if backwards else phrases, TOKENIZER)
    state, first = graph.extend(graph.start(), TOKENS.index("\u2581a"))
    assert first == pytest.approx(2)
    assert graph.extend(state, TOKENS.index("b"))[1] == pytest.approx(2)
    assert graph.extend(state, TOKENS.index("a"))[1] == pytest.approx(2 * 0.5 - 2)


@pytest.mark.parametrize(
    ("phrase", "text", "count"),
    [
        ("CAT", "CAT", 3),
        ("CAT", "A CAT SAT", 3),
        ("CAT", "CATS", 0),
        ("CAT", "A BOBCAT", 0),
        ("cat sat", "A CAT SAT", 7 - 1),
        ("CAT SAT", "A CATSAT", 0),
        ("中国", "我爱中国人", 2),
        ("中国 CAT", "中国 CAT", 5),
        ("国", "CAT国CAT", 1),
        ("CAT", "国CAT国", 3),
    ],
)
def test_words_are_whole(phrase: str, text: str, count: int) -> None:
    tokenizer = CharTokenizer(["<blank>", "<unk>", "<sos/eos>", "\u2581", *"ABCEFOST", *"中国我爱人"])
    graph = ContextGraph([Hotword(phrase, 1.0)], tokenizer)
    state, total = graph.start(), 0.0
    for token in tokenizer.encode(text):
        state, added = graph.extend(state, token)
        total += added
    assert total + graph.finish(state) == pytest.approx(count)


def test_pieces_of_words(tmp_path: Path) -> None:
    tokenizer = train_bpe(["THE HOTEL HOT THE HOT DOG HOTEL"] * 3, 22, tmp_path)
    graph = ContextGraph([Hotword("the hot", 1.0)], tokenizer)
    for text, expected in [("THE HOT DOG", "THE HOT"), ("THE HOT", "THE HOT"), ("THE HOTEL", "")]:
        state, total = graph.start(), 0.0
        for token in tokenizer.encode(text):
            state, added = graph.extend(state, token)
            total += added
        assert total + graph.finish(state) == pytest.approx(len(tokenizer.encode(expected)) if expected else 0)


def test_what_cannot_be_written() -> None:
    tokenizer = CharTokenizer(["<blank>", "<unk>", "<sos/eos>", "\u2581", *"ABC"])
    with pytest.raises(DecodingError, match=re.escape("hotwords: 'CAB ÄB': this model's vocabulary cannot write 'Ä'")):
        ContextGraph([Hotword("CAB"), Hotword("CAB ÄB")], tokenizer)
    with pytest.raises(TokenizerError, match=r"bpe\.model"):
        ContextGraph([Hotword("CAB")], BpeTokenizer([*TOKENS, "\u2581CAB"], None))


def test_many_phrases_take_nodes_for_what_differs() -> None:
    tokenizer = CharTokenizer(["<blank>", "<unk>", "<sos/eos>", "\u2581", *"0123456789"])
    graph = ContextGraph([Hotword(f"{number:04}") for number in range(10_000)], tokenizer)
    # The root and the border before them, a tree of digits, and the border after each.
    assert len(graph) == 2 + 10 + 100 + 1000 + 10_000 + 10_000


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes("\ufeff# people\nAnna  Schmidt\r\n\n   BOB :2.5\nBOB\t:2.5\n  # none\n中国 :1\n".encode())
    assert read_hotwords(path) == (Hotword("Anna Schmidt", DEFAULT_BOOST), Hotword("BOB", 2.5), Hotword("中国", 1.0))
    assert read_hotwords(path, boost=7)[0] == Hotword("Anna Schmidt", 7)
    path.write_bytes(b"")
    assert read_hotwords(path) == ()


@pytest.mark.parametrize(
    ("content", "where", "what"),
    [
        (b"A\n\xff\n", "line 2", "not UTF-8"),
        (b"A :loud\n", "line 1", "':loud' is not a boost"),
        (b"A\nB :\n", "line 2", "':' is not a boost"),
        (b"A :0\n", "line 1", "expected a boost above 0"),
        (b"A :-1\n", "line 1", "expected a boost above 0"),
        (b"A :nan\n", "line 1", "expected a boost above 0"),
        (b"A :1e9\n", "line 1", "at most 100"),
        (b"#\n\n:2\n", "line 3", "'' has no text"),
        (b"A :1\n# B\nA :2\n", "line 3", "'A' has the boost 2 here and 1 in line 1"),
    ],
)
def test_a_wrong_file(tmp_path: Path, content: bytes, where: str, what: str) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    with pytest.raises(DecodingError, match=re.escape(what)) as caught:
        read_hotwords(path)
    assert str(caught.value).startswith(f"{path}, {where}: ")
    with pytest.raises(DecodingError, match="none: No such file"):
        read_hotwords(tmp_path / "none")


def test_a_list() -> None:
    expected = (Hotword("a"), Hotword("b c", 2.0), Hotword("d", 3), Hotword("e", 1.5))
    assert parse_hotwords(["a", ("b c", 2.0), Hotword("d", 3), "e :1.5"]) == expected
    assert parse_hotwords(iter(())) == ()
    assert hash(expected) == hash(parse_hotwords(expected))


@pytest.mark.parametrize(
    "wrong",
    [
        "a b",
        [7],
        [""],
        [" "],
        [("a", 0)],
        [("a", math.inf)],
        [("a", "2")],
        [("a", True)],
        [("a", 1, 2)],
        [(3, 1)],
        ["x :y"],
        {"a": 2.0},
        7,
    ],
)
def test_a_wrong_list(wrong: list[object]) -> None:
    with pytest.raises(DecodingError):
        parse_hotwords(wrong)  # type: ignore[arg-type]
