"""`unichoir lm`: from texts and manifests to a language model and its weights, with a small model and clips."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.samples import REFERENCES, SMALL_MODEL, SPOKEN, WITH_SMALL_MODEL

import unichoir
from unichoir.errors import DecodingError
from unichoir.recognition.options import DecodingOptions
from unichoir.search.language_model import weights_file
from unichoir.text.wer import word_errors

Command = Callable[..., tuple[int, str, str]]
SAID = [json.loads(line) for line in REFERENCES.read_text("utf-8").splitlines()]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(reference["txt"] + "\n" for reference in SAID) + "\n  \n", encoding="utf-8")
    return path


def test_text_manifests_and_gzip_give_the_same_bytes(run_command: Command, tmp_path: Path, text: Path) -> None:
    compressed = tmp_path / "text.txt.gz"
    compressed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + text.read_bytes().replace(b"\n", b"\r\n")))  # of Windows
    kaldi = tmp_path / "kaldi"
    kaldi.mkdir()
    (kaldi / "wav.scp").write_text("".join(f"{each['key']} {each['wav']}\n" for each in SAID))
    (kaldi / "text").write_text("".join(f"{each['key']} {each['txt']}\n" for each in SAID))
    outputs = [tmp_path / name for name in ("text.arpa", "manifest.arpa", "kaldi.arpa", "a.arpa.gz", "b.arpa.gz")]
    for source, output in zip([text, REFERENCES, kaldi, text, compressed], outputs, strict=True):
        code, _, err = run_command("lm", "train", source, "--output", output)
        assert code == 0
        assert f"{output}: written" in err
    first, second, third, *packed = [output.read_bytes() for output in outputs]
    assert first == second == third == gzip.decompress(packed[0])
    assert packed[0] == packed[1]
    assert f"ngram 1={3 + len({word for each in SAID for word in each['txt'].split()})}\n".encode() in first
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [text.name, compressed.name, kaldi.name, *(output.name for output in outputs)]
    )


def test_words_and_tokens_as_the_model_writes_them(run_command: Command, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("One two, caf\u00e9 three!\n", encoding="utf-8")
    train = "lm", "train", tmp_path / "text.txt", "--order", 2, "--output"
    model = WITH_SMALL_MODEL
    assert run_command(*train, tmp_path / "words", "--normalize")[0] == 0
    assert run_command(*train, tmp_path / "model", "--normalize", *model)[0] == 0
    assert run_command(*train, tmp_path / "tokens", "--normalize", *model, "--level", "token")[0] == 0

    def words(name: str) -> set[str]:
        lines = (tmp_path / name).read_text("utf-8").splitlines()
        return {word for line in lines if "\t" in line for word in line.split("\t")[1].split()} - {
            "<s>",
            "</s>",
            "<unk>",
        }

    assert words("words") == {"ONE", "TWO", "CAF\u00c9", "THREE"}
    assert words("model") == {"ONE", "TWO", "THREE"}
    assert {"\u2581ONE", "\u2581TWO", "\u2581THREE"} < words("tokens")


def test_tuning_keeps_the_best_of_its_table(run_command: Command, tmp_path: Path, text: Path) -> None:
    lm = tmp_path / "lm.arpa.gz"
    assert run_command("lm", "train", text, "--order", 2, "--output", lm)[0] == 0
    mode = "ctc_prefix_beam_search"
    tune = ("lm", "tune", SMALL_MODEL, REFERENCES, "--lm", lm)
    code, out, err = run_command(*tune, "--decoding", mode, "--beam-size", 4)
    assert code == 0
    kept = json.loads(weights_file(lm).read_bytes())[mode]
    rates = [float(rate) for line in out.splitlines()[2:] for rate in re.findall(r"\d+\.\d\d", line)]
    assert 100 * kept["tuned"]["word_errors"] / kept["tuned"]["words"] == pytest.approx(min(rates), abs=0.005)
    assert kept["tuned"]["word_errors"] <= kept["tuned"]["word_errors_without"]
    assert len(set(rates)) > 1
    # The weights are found beside the file, and give that many errors.
    model = unichoir.load_model(SMALL_MODEL, language_model=lm)
    options = DecodingOptions(mode=mode, beam_size=4)
    errors = sum(
        word_errors(each["txt"], model.transcribe(SPOKEN / each["wav"], options=options).text).errors for each in SAID
    )
    assert errors == kept["tuned"]["word_errors"]
    assert f"length_bonus {kept['length_bonus']:g}" in err


def test_a_language_model_decides_what_is_recognised(run_command: Command, tmp_path: Path) -> None:
    lm = tmp_path / "lm.arpa"
    (tmp_path / "text.txt").write_text("SIX SIX SIX SIX\n", encoding="utf-8")
    assert run_command("lm", "train", tmp_path / "text.txt", "--output", lm)[0] == 0
    model = unichoir.load_model(SMALL_MODEL, language_model=lm)
    clip = SPOKEN / SAID[1]["wav"]
    strong = DecodingOptions(lm_weight=50.0, length_bonus=0.0)
    assert model.transcribe(clip, options=DecodingOptions(lm_weight=0.0)).text == SAID[1]["txt"]
    assert set(model.transcribe(clip, options=strong).text.split()) <= {"SIX"}
    with pytest.raises(DecodingError, match="ctc_greedy_search doesn't use a language model"):
        model.transcribe(clip, decoding="ctc_greedy_search")


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (b"ONE\n\xff\n", [], "text.txt:2: not UTF-8"),
        (b"\n", [], "text.txt: no text"),
        (b"ONE\n", ["--order", "6"], "text.txt: order 6: no sentence is that long"),
        (b"ONE\n", ["--order", "1"], "--order"),
        (b"ONE\n", ["--level", "token"], "--model"),
    ],
)
def test_what_cannot_be_trained_leaves_nothing(
    run_command: Command, tmp_path: Path, content: bytes, arguments: list[str], message: str
) -> None:
    source, output = tmp_path / "text.txt", tmp_path / "lm.arpa"
    source.write_bytes(content)
    code, _, err = run_command("lm", "train", source, "--output", output, *arguments)
    assert code != 0
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


def test_texts_and_folders_that_are_damaged_or_missing(run_command: Command, tmp_path: Path) -> None:
    def message(name: str, output: Path = tmp_path / "o") -> str:
        code, _, err = run_command("lm", "train", tmp_path / name, "--output", output)
        assert code != 0
        return err

    packed = gzip.compress(b"ONE TWO\n" * 100)
    (tmp_path / "cut.txt.gz").write_bytes(packed[:30])
    (tmp_path / "bad.txt.gz").write_bytes(packed[:10] + b"\xff" * 30)
    assert "cut.txt.gz: truncated" in message("cut.txt.gz")
    assert "bad.txt.gz: truncated or damaged" in message("bad.txt.gz")
    assert "nowhere.txt" in message("nowhere.txt")
    # Where to write is tried before what to read.
    assert "nowhere/o" in message("cut.txt.gz", tmp_path / "nowhere" / "o")
    assert {path.name for path in tmp_path.iterdir()} == {"cut.txt.gz", "bad.txt.gz"}
