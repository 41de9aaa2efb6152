"""ARPA files that are damaged in one place each: the error says where; and KenLM's own binaries."""

import gzip
import sys
from pathlib import Path

import pytest

from unichoir.errors import CheckpointError, UnichoirError
from unichoir.search.arpa import open_model

ARPA = """\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-1.0\t<unk>
-99\t<s>\t-0.3
-0.5\ta\t-0.2
-0.6\tb\t-0.4
-0.7\t</s>

\\2-grams:
-0.2\t<s> a
-0.3\ta b
-0.4\tb </s>

\\end\\
"""


def opened(path: Path, content: bytes) -> list[str]:
    path.write_bytes(content)
    return open_model(str(path))[1]


def test_words(tmp_path: Path) -> None:
    assert opened(tmp_path / "lm.arpa", ARPA.encode()) == ["a", "b"]
    assert opened(tmp_path / "windows.arpa", ARPA.replace("\n", "\r\n").encode()) == ["a", "b"]
    assert opened(tmp_path / "comment.arpa", b"# made by hand\n\n" + ARPA.encode()) == ["a", "b"]
    assert opened(tmp_path / "lm.arpa.gz", gzip.compress(ARPA.encode())) == ["a", "b"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\\data\\", "hello", r"line 1: expected \\data\\, found 'hello'"),
        ("ngram 1=5", "ngram 1=6", "line 11: expected a log-probability"),
        ("ngram 1=5", "ngram 1=4", "line 9: .*missing </s>"),
        ("ngram 2=3", "ngram 2=2", r"line 1[45]: Expected .end."),
        ("ngram 1=5", "ngram 1=-5", "line 2: expected 'ngram N=COUNT', found 'ngram 1=-5'"),
        ("ngram 1=5", "ngram 1=50000000000", "line 2: 50000000000 n-grams do not fit"),
        ("ngram 2=3", "ngram 7=3", "line 3: orders must be"),
        ("ngram 1=5\nngram 2=3\n", "", "no counts"),
        ("-0.5\ta", "nan\ta", "line 8: .*found 'nan"),
        ("-0.5\ta", "-inf\ta", "line 8: .*found '-inf"),
        ("-0.5\ta", "0.5\ta", "line 8: Positive log probability 0.5"),
        ("-0.3\ta b", "nan\ta b", 'line 14: Could not parse "nan"'),
        ("a b", "c b", "line 14: Word c was not seen in the unigrams"),
        ("\ta\t", "\t\udcff\t", "line 8: expected a log-probability"),
        ("\\end\\\n", "", "End of file"),
        (ARPA[130:], "", "line 15: End of file"),
        (ARPA[60:], "", "truncated, 2 of 5 unigrams"),
        (ARPA[14:], "", "line 2: expected 'ngram N=COUNT'"),
        (ARPA[28:], "", "no .1-grams"),
        (ARPA, "", "no .data.: not an ARPA file, or truncated"),
    ],
)
def test_damaged_files(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in ARPA
    path = tmp_path / "lm.arpa"
    with pytest.raises(CheckpointError, match=message) as error:
        opened(path, ARPA.replace(old, new).encode("utf-8", "surrogateescape"))
    assert str(error.value).startswith(str(path))


def test_contexts_that_are_missing(tmp_path: Path) -> None:
    trigram = ARPA.replace("2=3\n", "2=3\nngram 3=1\n").replace("\\end\\", "\\3-grams:\n-0.1\tb a b\n\n\\end\\")
    with pytest.raises(CheckpointError, match="context of every 3-gram should appear"):
        opened(tmp_path / "lm.arpa", trigram.encode())


def test_a_model_of_single_words(tmp_path: Path) -> None:
    unigrams = ARPA.replace("ngram 2=3\n", "")
    unigrams = unigrams[: unigrams.index("\\2-grams")] + "\\end\\\n"
    with pytest.raises(CheckpointError, match="single words; KenLM reads orders 2 to 6"):
        opened(tmp_path / "lm.arpa", unigrams.encode())


def test_a_model_of_nothing(tmp_path: Path) -> None:
    counts, words = "\\data\\\nngram 1=3\nngram 2=1\n\n", "\\1-grams:\n-1\t<unk>\n-99\t<s>\n-0.1\t</s>\n\n"
    empty = f"{counts}{words}\\2-grams:\n-0.1\t<s> </s>\n\n\\end\\\n"
    with pytest.raises(CheckpointError, match="without words"):
        opened(tmp_path / "lm.arpa", empty.encode())


def test_files_that_are_not_there_or_cut(tmp_path: Path, fixtures: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.arpa: No such file"):
        open_model(str(tmp_path / "nowhere.arpa"))
    with pytest.raises(CheckpointError, match="Is a directory"):
        open_model(str(tmp_path))
    with pytest.raises(CheckpointError, match=r"cut\.gz: truncated or damaged"):
        opened(tmp_path / "cut.gz", gzip.compress(ARPA.encode())[:60])
    with pytest.raises(CheckpointError, match=r"bad\.gz: truncated or damaged"):
        opened(tmp_path / "bad.gz", gzip.compress(b"")[:10] + b"\xff" * 60)
    binary = (fixtures / "ngram" / "lmplz.binary").read_bytes()
    for size in (40, 100, len(binary) // 2, len(binary) - 10):
        with pytest.raises(CheckpointError, match=r"cut\.binary"):
            opened(tmp_path / "cut.binary", binary[:size])


def test_binaries_are_the_arpa_they_were_built_from(fixtures: Path) -> None:
    # `build_binary probing lmplz.arpa lmplz.binary`, KenLM 0.3.0
    model, words = open_model(str(fixtures / "ngram" / "lmplz.binary"))
    same, expected = open_model(str(fixtures / "ngram" / "lmplz.arpa"))
    assert words == expected
    for sentence in (fixtures / "ngram" / "text.txt").read_text(encoding="utf-8").splitlines():
        assert model.score(sentence) == same.score(sentence)


def test_without_kenlm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kenlm", None)
    with pytest.raises(UnichoirError, match=r"pip install 'unichoir\[lm\]'"):
        opened(tmp_path / "lm.arpa", ARPA.encode())
