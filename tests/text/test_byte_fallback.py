"""Vocabularies with bytes and languages: all of Unicode round trips, compared with sentencepiece."""

from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from unichoir.errors import TokenizerError
from unichoir.text.normalize import canonical_text, split_words
from unichoir.text.tokenizer import SPACE, BpeTokenizer, CharTokenizer, build_char_units, load_tokenizer, train_bpe
from unichoir.text.units import BYTE_TOKENS, SPECIAL_TOKENS, language_of, special_units

TEXTS = ["Glue the sheet to the DARK blue background", "今天天气很好 OK", "مرحبا بك في المدرسة", "我们爱 Python 编程"]
anything = st.one_of(
    st.text(max_size=20),
    st.text(alphabet="aT今天龘م \u2581\u3000\n<0xE4>|,。é\u0301\U0001f600\u0000", max_size=20),
    st.sampled_from(["<unk>", "<blank> a", "<0xE4>", "<|en|> hello", "\u2581", "\ufffd", "\ufeff x"]),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bpe")
    train_bpe(TEXTS, 310, folder, languages=("en", "zh-TW"), byte_fallback=True, min_count=2)
    return folder


@pytest.fixture(scope="module")
def bpe(folder: Path) -> BpeTokenizer:
    tokenizer = load_tokenizer(folder)
    assert isinstance(tokenizer, BpeTokenizer)
    return tokenizer


@pytest.fixture(scope="module")
def chars() -> CharTokenizer:
    return CharTokenizer(build_char_units(TEXTS, min_count=2, byte_fallback=True))


@pytest.mark.parametrize("kind", ["bpe", "chars"])
def test_any_text_comes_back(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(kind)

    @given(anything)
    @settings(deadline=None, max_examples=300)
    def there_and_back(text: str) -> None:
        ids = tokenizer.encode(text)
        assert tokenizer.unk_id not in ids
        assert tokenizer.decode(ids) == canonical_text(text.replace(SPACE, " "))

    there_and_back()


def test_a_vocabulary_of_one_case_gets_text_in_that_case_and_spells_the_rest() -> None:
    tokenizer = CharTokenizer(build_char_units(["ABC"], byte_fallback=True))
    assert tokenizer.decode(tokenizer.encode("bad ß 龘")) == "BAD SS 龘"


def test_pieces_are_those_of_sentencepiece(folder: Path, bpe: BpeTokenizer) -> None:
    reference = sentencepiece.SentencePieceProcessor(model_file=str(folder / "bpe.model"))
    for text in ("the background", "zebra quiz é", "مرحبا العالم"):
        pieces = [bpe.tokens[index] for index in bpe.encode(text)]
        assert pieces == reference.encode(text, out_type=str)
        assert bpe.decode(bpe.encode(text)) == reference.decode_pieces(pieces)


def test_frequent_characters_are_tokens_and_rare_ones_bytes(bpe: BpeTokenizer) -> None:
    assert bpe.tokens[: 5 + 256] == [*SPECIAL_TOKENS, "<|en|>", "<|zh-TW|>", *BYTE_TOKENS]
    assert bpe.vocab_size == 310
    spelled = [bpe.tokens[index] for index in bpe.encode("天气")]
    assert spelled == ["天", *(f"<0x{byte:02X}>" for byte in "气".encode())]


@pytest.mark.parametrize("kind", ["bpe", "chars"])
def test_whatever_bytes_a_model_recognises_decode_as_python_decodes_them(
    kind: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(kind)
    ids = st.lists(st.one_of(st.integers(0, tokenizer.vocab_size - 1), st.sampled_from(tokenizer.encode("天气好"))))

    @given(ids)
    @settings(deadline=None, max_examples=300)
    def decodes(ids: list[int]) -> None:
        silent = {"<blank>", "<sos/eos>", "<|en|>", "<|zh-TW|>"}
        runs: list[bytes | str] = [""]
        for index in ids:
            token = tokenizer.tokens[index]
            if token in BYTE_TOKENS:
                byte = bytes([BYTE_TOKENS.index(token)])
                runs = [*runs[:-1], runs[-1] + byte] if isinstance(runs[-1], bytes) else [*runs, byte]
            elif token not in silent:
                runs.append(token)
        texts = [run.decode("utf-8", "ignore") if isinstance(run, bytes) else run for run in runs]
        text = "".join(texts).replace(SPACE, " ")
        assert tokenizer.decode(ids) == canonical_text(text)
        words = tokenizer.decode_words(ids)
        assert [word for word, _ in words] == split_words(text)
        for word, places in words:
            assert word in "".join(split_words(tokenizer.decode([ids[place] for place in places])))

    decodes()


def test_words_know_their_tokens(bpe: BpeTokenizer) -> None:
    ids = [bpe.languages["en"], *bpe.encode("the 龘天 a")]
    words = bpe.decode_words(ids)
    assert [word for word, _ in words] == ["the", "龘", "天", "a"]
    assert [[bpe.decode([ids[place] for place in places])] for _, places in words] == [["the"], ["龘"], ["天"], ["a"]]
    assert len(words[1][1]) == 3
    assert all(0 not in places for _, places in words)


def test_an_unfinished_character_is_not_there_yet(bpe: BpeTokenizer) -> None:
    *begun, last = bpe.encode("天龘")
    assert [bpe.decode(ids) for ids in (begun[:1], begun[:2], begun, [*begun, last])] == ["天", "天", "天", "天龘"]


def test_decoding_needs_no_sentencepiece(folder: Path, bpe: BpeTokenizer, tmp_path: Path) -> None:
    (tmp_path / "units.txt").write_bytes((folder / "units.txt").read_bytes())
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.decode(bpe.encode("the 龘 background")) == "the 龘 background"
    assert tokenizer.languages == {"en": 3, "zh-TW": 4}


@pytest.mark.parametrize("code", ["", "EN", "english", "e", "en us", "en|"])
def test_what_is_no_language_code_is_refused(code: str) -> None:
    with pytest.raises(TokenizerError, match="expected a code"):
        special_units([code])


def test_a_language_comes_once() -> None:
    with pytest.raises(TokenizerError, match="'en' was given twice"):
        special_units(["en", "zh", "en"])


def test_only_language_tokens_are_languages() -> None:
    tokens = ["<|en|>", "<|zh-Hant|>", "<|notimestamps|>", "<|EN|>", "<en>", "en", "<unk>", "<|0.00|>"]
    assert [language_of(token) for token in tokens] == ["en", "zh-Hant", *[None] * 6]


def test_the_command(tmp_path: Path, run_command: Callable[..., tuple[int, str, str]]) -> None:
    manifest = tmp_path / "train.jsonl"
    manifest.write_text('{"key": "a", "wav": "a.wav", "txt": "aab"}\n')
    options = ["--min-count", 2, "--languages", "en, ar", "--byte-fallback", "--output", tmp_path / "units"]
    code, _, err = run_command("tokenizer", "chars", manifest, *options)
    assert code == 0, err
    tokenizer = load_tokenizer(tmp_path / "units")
    assert tokenizer.tokens == [*SPECIAL_TOKENS, "<|en|>", "<|ar|>", *BYTE_TOKENS, SPACE, "a"]
    code, _, err = run_command("tokenizer", "chars", manifest, "--languages", "english", "--output", tmp_path / "no")
    assert code != 0
    assert "language 'english': expected a code such as en or zh-TW" in err
    assert not (tmp_path / "no").exists()
