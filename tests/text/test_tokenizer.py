"""Tokenizers on real transcripts and random text, against sentencepiece's own decoding, on malformed vocabularies."""

import builtins
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from unichoir.errors import TokenizerError
from unichoir.text.normalize import canonical_text, split_words
from unichoir.text.tokenizer import (
    SPACE,
    BpeTokenizer,
    CharTokenizer,
    Tokenizer,
    build_char_units,
    load_tokenizer,
    read_units,
    train_bpe,
)

ENGLISH = [
    "THE BIRCH CANOE SLID ON THE SMOOTH PLANKS",
    "GLUE THE SHEET TO THE DARK BLUE BACKGROUND",
    "IT'S EASY TO TELL THE DEPTH OF A WELL",
    "THESE DAYS A CHICKEN LEG IS A RARE DISH",
    "RICE IS OFTEN SERVED IN ROUND BOWLS",
    "THE JUICE OF LEMONS MAKES FINE PUNCH",
]
MIXED = ["我 们爱 PYTHON编程", "今天天气很好 OK", "播放 HELLO WORLD 这首歌"]


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> BpeTokenizer:
    return train_bpe(ENGLISH, 80, tmp_path_factory.mktemp("bpe"))


@pytest.fixture(scope="module")
def mixed_bpe(tmp_path_factory: pytest.TempPathFactory) -> BpeTokenizer:
    return train_bpe(ENGLISH + MIXED, 100, tmp_path_factory.mktemp("mixed"))


def transcripts(fixtures: Path, language: str) -> list[str]:
    return (fixtures / "transcripts" / f"{language}.txt").read_text(encoding="utf-8").splitlines()


def words_by_start(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    groups: list[list[int]] = []
    for index in ids:
        if tokenizer.is_word_start(index) or not groups:
            groups.append([])
        groups[-1].append(index)
    return [tokenizer.decode(group) for group in groups]


@pytest.mark.parametrize("language", ["english", "arabic", "mandarin"])
def test_characters_round_trip_on_real_transcripts(fixtures: Path, language: str) -> None:
    texts = transcripts(fixtures, language)
    tokenizer = CharTokenizer(build_char_units(texts))
    for text in texts:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert words_by_start(tokenizer, ids) == split_words(text)


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_bpe_round_trip_on_real_transcripts(fixtures: Path, tmp_path: Path, model_type: Any) -> None:
    texts = transcripts(fixtures, "english")
    tokenizer = train_bpe(texts, 300, tmp_path, model_type=model_type)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "bpe.model"))
    assert tokenizer.vocab_size == 300
    for text in texts:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text == reference.decode([tokenizer.tokens[index] for index in ids])
        assert [tokenizer.tokens[index] for index in ids] == reference.encode(text, out_type=str)
        assert words_by_start(tokenizer, ids) == text.split()


@given(st.data())
@settings(deadline=None)
def test_bpe_decodes_any_pieces_as_sentencepiece_does(bpe: BpeTokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(3, bpe.vocab_size - 1), max_size=12))
    reference = sentencepiece.SentencePieceProcessor(model_proto=bpe.model)
    assert bpe.decode(ids) == " ".join(reference.decode([bpe.tokens[index] for index in ids]).split())


@given(st.text(alphabet="AEN' \t我爱，の!", max_size=16))
@settings(deadline=None)
def test_mixed_text_round_trips_to_its_canonical_form(mixed_bpe: BpeTokenizer, text: str) -> None:
    characters = CharTokenizer(build_char_units(["AEN' 我爱，の!"]))
    ids = characters.encode(text)
    assert characters.decode(ids) == canonical_text(text)
    assert [word for word in words_by_start(characters, ids) if word] == split_words(text)
    known = text.translate(dict.fromkeys(map(ord, "，の!")))
    assert mixed_bpe.decode(mixed_bpe.encode(known)) == canonical_text(known)
    assert words_by_start(mixed_bpe, mixed_bpe.encode(known)) == split_words(known)


def test_mixed_chinese_and_english_tokens(mixed_bpe: BpeTokenizer) -> None:
    characters = CharTokenizer(build_char_units(MIXED))
    ids = characters.encode("我 们爱 ok编程")
    assert [characters.tokens[index] for index in ids] == ["我", "们", "爱", SPACE, "O", "K", "编", "程"]
    assert characters.decode(ids) == "我们爱 OK 编程"
    for text in MIXED:
        assert mixed_bpe.decode(mixed_bpe.encode(text)) == canonical_text(text)
    assert not any(len(token) > 1 and any("\u4e00" <= c <= "\u9fff" for c in token) for token in mixed_bpe.tokens)


def test_special_tokens_unknowns_and_case(bpe: BpeTokenizer) -> None:
    for tokenizer in (CharTokenizer(build_char_units(ENGLISH)), bpe):
        assert (tokenizer.blank_id, tokenizer.unk_id, tokenizer.sos_id, tokenizer.eos_id) == (0, 1, 2, 2)
        ids = tokenizer.encode("The juice")
        assert ids == tokenizer.encode("THE JUICE")
        assert tokenizer.decode([2, 0, *ids, 0, 2]) == "THE JUICE"
        assert tokenizer.unk_id in tokenizer.encode("é")
        assert "<unk>" in tokenizer.decode(tokenizer.encode("é"))
        assert tokenizer.encode(f" {SPACE} ") == []
        for index in (-1, tokenizer.vocab_size):
            with pytest.raises(TokenizerError, match=str(index)):
                tokenizer.decode([index])
            with pytest.raises(TokenizerError, match=str(index)):
                tokenizer.is_word_start(index)


def test_save_and_load(bpe: BpeTokenizer, tmp_path: Path) -> None:
    characters = CharTokenizer(build_char_units(MIXED))
    for name, tokenizer in (("char", characters), ("bpe", bpe)):
        tokenizer.save(tmp_path / name)
        loaded = load_tokenizer(tmp_path / name)
        assert type(loaded) is type(tokenizer)
        assert loaded.tokens == tokenizer.tokens
        assert loaded.encode("WORLD") == tokenizer.encode("WORLD")
        assert pickle.loads(pickle.dumps(loaded)).encode("WORLD") == tokenizer.encode("WORLD")


def test_same_texts_train_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        train_bpe(ENGLISH + MIXED, 100, tmp_path / name)
    for file in ("bpe.model", "units.txt"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_bpe_without_sentencepiece_decodes_and_says_what_encoding_needs(
    bpe: BpeTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bpe.save(tmp_path / "with")
    shutil.copytree(tmp_path / "with", tmp_path / "without", ignore=shutil.ignore_patterns("bpe.model"))
    ids = bpe.encode(ENGLISH[0])
    without_model = load_tokenizer(tmp_path / "without")
    assert without_model.decode(ids) == ENGLISH[0]
    with pytest.raises(TokenizerError, match=r"needs bpe\.model"):
        without_model.encode(ENGLISH[0])

    original = builtins.__import__

    def no_sentencepiece(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == "sentencepiece":
            raise ImportError(name)
        return original(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", no_sentencepiece)
    with_model = load_tokenizer(tmp_path / "with")
    assert with_model.decode(ids) == ENGLISH[0]
    with pytest.raises(TokenizerError, match=r"pip install sentencepiece"):
        with_model.encode(ENGLISH[0])


def test_wenet_units_load(fixtures: Path) -> None:
    tokenizer = load_tokenizer(fixtures / "wenet_moe_tiny")
    assert isinstance(tokenizer, CharTokenizer)
    assert (tokenizer.blank_id, tokenizer.unk_id, tokenizer.sos_id, tokenizer.eos_id) == (0, 1, 2, 2)
    assert tokenizer.decode([2, 3, 4, 0]) == "t3t4"


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["<blk>", "<sos/eos>", "<unk>", "A"], (0, 2, 1, 1)),
        (["A", "<eps>", "<unk>", "<eos>", "<sos>"], (1, 2, 4, 3)),
        (["<blank>", "<unk>", "A", "B"], (0, 1, 3, 3)),
    ],
)
def test_special_tokens_are_found_by_name(tokens: list[str], expected: tuple[int, int, int, int]) -> None:
    tokenizer = CharTokenizer(tokens)
    assert (tokenizer.blank_id, tokenizer.unk_id, tokenizer.sos_id, tokenizer.eos_id) == expected


def test_units_in_any_order_with_any_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "units.txt"
    path.write_bytes(b"\xef\xbb\xbfA 2\r\n<blank>\t0\r\n<unk> 1")
    assert read_units(path) == ["<blank>", "<unk>", "A"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<blank> 0\n<unk> 1\nA 1\n", "line 3: id 1 was given before, in line 2"),
        (b"<blank> 0\n<unk> 1\nA 3\n", "line 3: id 3, but no line has id 2"),
        (b"<blank> 0\n<unk>\n", "line 2: expected a token and its id"),
        (b"<blank> 0\n<unk> 1 2\n", "line 2: expected a token and its id"),
        (b"<blank> 0\n<unk> -1\n", "line 2: expected a token and its id"),
        (b"<blank> 0\n<unk> \xc2\xb2\n", "line 2: expected a token and its id"),
        (b"<blank> 0\n\n<unk> 1\n", "line 2: expected a token and its id"),
        (b"<blank> 0\n\xff 1\n", "line 2: not UTF-8"),
        (b"", "line 1: expected a token and its id"),
        (b"<unk> 0\nA 1\n", "no token named <blank>"),
        (b"<blank> 0\nA 1\n", "no token named <unk>"),
        (b"<blank> 0\n<unk> 1\nA 2\nA 3\n", "token 'A' occurs twice"),
    ],
)
def test_malformed_units_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "units.txt"
    path.write_bytes(content)
    with pytest.raises(TokenizerError) as raised:
        load_tokenizer(tmp_path)
    assert str(path) in str(raised.value)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_vocabulary_and_broken_model(bpe: BpeTokenizer, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="No such file"):
        load_tokenizer(tmp_path)
    bpe.save(tmp_path)
    (tmp_path / "bpe.model").write_bytes(b"not a model")
    with pytest.raises(TokenizerError, match="not a sentencepiece model"):
        load_tokenizer(tmp_path).encode("A")


@pytest.mark.parametrize(("texts", "size"), [(ENGLISH, 3), (ENGLISH, 5000), (["你好"], 50), ([], 50)])
def test_impossible_bpe_training_is_one_line(tmp_path: Path, texts: list[str], size: int) -> None:
    with pytest.raises(TokenizerError) as raised:
        train_bpe(texts, size, tmp_path)
    assert "\n" not in str(raised.value)


def test_character_vocabulary() -> None:
    assert build_char_units(["BA A", "你"]) == ["<blank>", "<unk>", "<sos/eos>", SPACE, "A", "B", "你"]
    assert build_char_units(["BA A"], min_count=2) == ["<blank>", "<unk>", "<sos/eos>", SPACE, "A"]
    with pytest.raises(TokenizerError, match="no text"):
        build_char_units(["  "])
