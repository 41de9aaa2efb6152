"""Tables, JSON and alignments of an evaluation made by hand, and the files of the command."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.console import Console

from unichoir.cli import make_app
from unichoir.evaluation.evaluate import Evaluation, SetScore, UtteranceScore
from unichoir.evaluation.report import to_json, to_markdown, to_table, write_report
from unichoir.network.load import LayerLoad
from unichoir.recognition.options import DecodingOptions
from unichoir.text.wer import ErrorCounts


@pytest.fixture
def evaluation() -> Evaluation:
    """`A B C D` heard as `A X D E F`: one substitution, one deletion, two insertions."""
    score = UtteranceScore(
        key="u1",
        reference="A B C D",
        hypothesis="A X D E F",
        words=ErrorCounts(substitutions=1, deletions=1, insertions=2, reference=4),
        characters=ErrorCounts(substitutions=1, deletions=1, insertions=2, reference=4),
        judged=((0.75, True), (0.5, False), (0.75, True), (0.125, False), (0.5, False)),
    )
    options = DecodingOptions(mode="attention", chunk_size=16, num_left_chunks=4)
    scores = (
        SetScore(name="an4/dev", options=options, utterances=(score, score), audio_seconds=8.0, seconds=1.0),
        SetScore(name="an4/dev", options=DecodingOptions(), utterances=(), audio_seconds=0.0, seconds=0.0),
    )
    return Evaluation(scores=scores, broken={"an4/dev": {"u2": "u2.wav: truncated"}, "other": {}})


def test_markdown(evaluation: Evaluation) -> None:
    lines = to_markdown(evaluation).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells == [
        "an4/dev",
        "attention",
        "16, left 4",
        "100.00",
        "2",
        "2",
        "4",
        "8",
        "100.00",
        "2",
        "2",
        "4",
        # A fifth of the words 0.125 away from what they are, two fifths 0.5 and 0.25. Cross entropies in bits: 0.971 of
        # two right words of five; found 0.2 * 0.193 + 0.4 * 1 + 0.4 * 0.415.
        "0.325",
        "0.38",
        "0.125",
    ]
    assert " full " in lines[3]
    assert [cell.strip() for cell in lines[3].strip("|").split("|")][-3:-1] == ["-", "-"]


def test_terminal_table_has_the_same_cells(evaluation: Evaluation) -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(to_table(evaluation))
    shown = console.export_text()
    for cell in ("an4/dev", "16, left 4", "100.00", "0.125", "0.325", "attention_rescoring"):
        assert cell in shown


def test_json(evaluation: Evaluation) -> None:
    content = to_json(evaluation, "some/model", {"layer": LayerLoad(frames=(3, 0, 1))})
    content = json.loads(json.dumps(content))
    assert content["model"] == "some/model"
    assert content["broken"] == {"an4/dev": {"u2": "u2.wav: truncated"}}
    first, second = content["scores"]
    assert first["wer"] == {"rate": 1.0, "substitutions": 2, "deletions": 2, "insertions": 4, "reference": 8}
    assert (first["set"], first["mode"], first["chunk_size"], first["num_left_chunks"]) == (
        "an4/dev",
        "attention",
        16,
        4,
    )
    assert (second["chunk_size"], second["utterances"], second["wer"]["rate"]) == (None, 0, 0)
    assert first["calibration"]["num_words"] == 10
    assert first["calibration"]["accuracy"] == pytest.approx(0.4)
    assert first["calibration"]["bins"][0] == {"count": 2, "confidence": 0.125, "accuracy": 0.0}
    assert second["calibration"] is None
    assert content["expert_load"]["layer"]["dead"] == [1]


def test_files_with_alignments(evaluation: Evaluation, tmp_path: Path) -> None:
    write_report(evaluation, tmp_path / "new" / "folder", "model")
    lines = (tmp_path / "new" / "folder" / "utterances.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2
    alignment = json.loads(lines[0])["alignment"]
    assert [reference for _, reference, _ in alignment if reference is not None] == ["A", "B", "C", "D"]
    assert [hypothesis for _, _, hypothesis in alignment if hypothesis is not None] == ["A", "X", "D", "E", "F"]
    assert sorted(kind for kind, _, _ in alignment if kind != "correct") == [
        "deletion", "insertion", "insertion", "substitution",
    ]  # fmt: skip
    text = (tmp_path / "new" / "folder" / "alignments.txt").read_text(encoding="utf-8")
    assert text.startswith("an4/dev, attention, 16, left 4: u1\nREF: A")


def test_command_writes_what_it_measured(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 16000), 16000)
    for name in ("one", "two"):
        entries = [{"key": "a", "wav": "a.wav", "txt": "HELLO"}, {"key": "gone", "wav": "gone.wav", "txt": "X"}]
        text = "".join(json.dumps(entry) + "\n" for entry in entries)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    command = ["evaluate", str(tiny_checkpoint), str(tmp_path / "one.jsonl"), str(tmp_path / "two.jsonl")]
    options = ["--decoding", "all", "--chunk-size", "full,2", "--threads", "1", "--expert-load"]
    make_app()([*command, *options, "--output", str(tmp_path / "out")], standalone_mode=False)
    written = capsys.readouterr()
    assert "gone left out" in written.err
    assert f"{tmp_path.name}/one: 1 left out in total" in written.err
    content = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert len(content["scores"]) == 2 * 2 * 4
    assert {score["set"] for score in content["scores"]} == {f"{tmp_path.name}/one", f"{tmp_path.name}/two"}
    assert sum(content["expert_load"]["encoder.blocks.0.feed_forward"]["frames"]) > 0
    assert written.out == (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
