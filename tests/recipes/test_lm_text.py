"""The texts of the English language model: written like transcripts, and never from dev or test sets."""

import importlib.util
import json
import lzma
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "recipes" / "english" / "lm_text.py"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"Mr. Aur\u00e9lie\u2019s, \u201cNo!\u201d"', "mister aurelie's no"),
        ("DON'T X I SIXTY-ONE", "don't x i sixty one"),
        ("'Tis the drum; Mrs. Drake's Dr.", "tis the drum missus drake's doctor"),
        ("In 1984 it was", ""),
        ("\u043e\u0434\u0438\u043d", ""),
        ("...", ""),
    ],
)
def test_as_transcripts_are_written(text: str, expected: str) -> None:
    spec = importlib.util.spec_from_file_location("lm_text", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.plain(text) == expected


def test_each_kind_has_its_file(tmp_path: Path) -> None:
    data, output = tmp_path / "data", tmp_path / "out"
    for name, lines in {
        "an4/train": [("X I SIXTY ONE", "en")],
        "an4/dev": [("SECRET", "en")],
        "an4/test": [("SECRET", "en")],
        "books/train": [("A BOOK", "en"), ("\u4e00", "zh")],
    }.items():
        path = data / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps({"txt": txt, "lang": lang}) + "\n" for txt, lang in lines))
    (data / "text").mkdir()
    (data / "text" / "common_voice_sentences_en.txt").write_text("Good morning, sir!\nRoom 12\n")
    with lzma.open(data / "text" / "stories.txt.xz", "wt") as file:
        file.write("Once upon a time.\n")
    done = subprocess.run([sys.executable, SCRIPT, data, output], capture_output=True, text=True, check=True)
    written = {path.stem: path.read_text().splitlines() for path in output.iterdir()}
    assert {kind: lines for kind, lines in written.items() if lines} == {
        "general": ["once upon a time", "a book"],
        "sentences": ["good morning sir"],
        "spelled": ["x i sixty one"],
    }
    assert "sentences.txt: common_voice_sentences_en.txt: 3 words, 1 sentences left out" in done.stdout
