"""Results in other formats, written from the joined results without a cluster."""

import json
from pathlib import Path

from unichoir.fleet.formats import write_formats
from unichoir.fleet.results import Results
from unichoir.transcript.formats import FORMATS, write_transcript
from unichoir.transcript.results import Alternative, Token, Transcript, Word
from unichoir.transcript.subtitles import SubtitleOptions

SHOWN = SubtitleOptions(max_line_length=10)


def make_transcript(text: str) -> Transcript:
    words = tuple(
        Word(text=word, start_ms=200 * place, end_ms=200 * place + 150, confidence=0.5)
        for place, word in enumerate(text.split())
    )
    tokens = tuple(Token(id=3, text=word.text, start_ms=0, end_ms=9, confidence=0.5) for word in words)
    readings = tuple(Alternative(text=each, tokens=(3,), score=-1.0) for each in (text, "OTHER"))
    return Transcript(
        text=text,
        tokens=tokens,
        words=words,
        score=-1.0,
        confidence=0.5,
        nbest=readings,
        duration_ms=5000,
        language="en",
    )


KEYS = ["one", "a/../b c", "\u4f60", "x" * 300, "..", "E:*?\n"]
TRANSCRIPTS = {key: make_transcript(f"{word} AND SOME MORE") for key, word in zip(KEYS, "ABCDEF", strict=True)}


def write_results(folder: Path) -> None:
    results = [{"key": key, **transcript.to_dict()} for key, transcript in TRANSCRIPTS.items()]
    results.insert(2, {"key": "broken", "error": "cannot be decoded"})
    folder.mkdir()
    content = "".join(json.dumps(result, ensure_ascii=False) + "\n" for result in results)
    (folder / "results.jsonl").write_text(content, encoding="utf-8")


def test_every_format(tmp_path: Path) -> None:
    folder = tmp_path / "output"
    write_results(folder)
    write_formats(folder, FORMATS, SHOWN)
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}

    def joined(name: str) -> str:
        return files.pop(name).read_text(encoding="utf-8")

    files.pop("results.jsonl")
    assert joined("results.txt").splitlines() == [
        f"{'_'.join(key.split())} {transcript.text}" for key, transcript in TRANSCRIPTS.items()
    ]
    for name, each in (("results.ctm", "ctm"), ("results.verbose.jsonl", "verbose_json")):
        assert joined(name) == "".join(write_transcript(value, each, key) for key, value in TRANSCRIPTS.items())
    names = ["one", "a%2F..%2Fb c", "\u4f60", None, "..", "E%3A%2A%3F%0A"]
    for each, suffix in (("srt", ".srt"), ("vtt", ".vtt"), ("tsv", ".tsv"), ("textgrid", ".TextGrid")):
        for name, (key, transcript) in zip(names, TRANSCRIPTS.items(), strict=True):
            (file,) = [file for file in files if file.startswith(f"{each}/{name or 'xxx'}{suffix if name else ''}")]
            assert file.endswith(suffix)
            assert joined(file) == write_transcript(transcript, each, key, SHOWN)
    assert not files


def test_json_alone_writes_nothing_more(tmp_path: Path) -> None:
    write_results(tmp_path / "output")
    write_formats(tmp_path / "output", ["json"], SHOWN)
    assert [path.name for path in (tmp_path / "output").iterdir()] == ["results.jsonl"]


def test_what_a_killed_driver_left_is_removed(tmp_path: Path) -> None:
    Results(tmp_path / "output", [], {})
    (tmp_path / "output" / "srt").mkdir()
    for name in ("results.ctm.0f.tmp", "srt/a.srt.0f.tmp", "srt/a.srt"):
        (tmp_path / "output" / name).touch()
    Results(tmp_path / "output", [], {})
    assert sorted(path.name for path in (tmp_path / "output").rglob("*")) == ["a.srt", "job.json", "srt"]
