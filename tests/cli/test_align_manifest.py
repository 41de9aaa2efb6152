"""`unichoir align` with manifests: each result equals that of its recording alone, even if others fail."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.samples import CLIPS, WITH_SMALL_MODEL

ALIGN = ("align", *WITH_SMALL_MODEL)
RunCommand = Callable[..., tuple[int, str, str]]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Two clips with their texts, one with a different text, and two that cannot be aligned."""
    for clip in CLIPS[:2]:
        shutil.copy(clip, tmp_path)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    rows = [
        ("first", "clip-1.flac", "SIX OH FOUR FIVE NINE ONE TWO"),
        ("broken", "broken.wav", "SIX"),
        ("two/lines", "clip-2.flac", "Six four,\neight three."),
        ("figures", "clip-2.flac", "SIX 48"),
        ("other", "clip-2.flac", "OCTOBER TWENTY"),
    ]
    path = tmp_path / "manifest.jsonl"
    lines = [json.dumps({"key": key, "wav": wav, "txt": txt}) + "\n" for key, wav, txt in rows]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def test_each_result_is_that_of_its_recording_alone(run_command: RunCommand, manifest: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    code, out, err = run_command(*ALIGN, manifest, "--output-dir", output, "--format", "ctm,textgrid,json")
    assert (code, out) == (1, "")
    warning, *failures = err.splitlines()
    assert warning.startswith("warning: other: confidence 0.")
    assert [line.split(": ")[:2] for line in failures] == [["error", "broken"], ["error", "figures"]]
    assert str(tmp_path / "broken.wav") in failures[0]
    assert "'48'" in failures[1]
    results = [json.loads(line) for line in (output / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [result["key"] for result in results] == ["first", "broken", "two/lines", "figures", "other"]
    text = tmp_path / "text.txt"
    text.write_text("Six four,\neight three.", encoding="utf-8")
    alone = (*ALIGN, tmp_path / "clip-2.flac", text)
    assert results[2]["words"] == json.loads(run_command(*alone)[1])["words"]
    ctm = [line for line in (output / "results.ctm").read_text(encoding="utf-8").splitlines() if "two/" in line]
    expected = run_command(*alone, "--format", "ctm")[1].replace(str(tmp_path / "clip-2.flac"), "two/lines")
    assert ctm == expected.splitlines()
    assert sorted(path.name for path in (output / "textgrid").iterdir()) == [
        "first.TextGrid", "other.TextGrid", "two%2Flines.TextGrid",
    ]  # fmt: skip
    grid = (output / "textgrid" / "two%2Flines.TextGrid").read_text(encoding="utf-8")
    assert grid == run_command(*alone, "--format", "textgrid")[1]
    assert 'text = "Six four,"' in grid


def test_a_run_goes_on_where_it_was(run_command: RunCommand, manifest: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    arguments = (*ALIGN, manifest, "--output-dir", output)
    assert run_command(*arguments)[0] == 1
    parts = {path: path.stat() for path in sorted(output.glob("parts/*/*.jsonl"))}
    assert len(parts) == 5, "one for each utterance of a small manifest"
    missing = list(parts)[2]
    missing.unlink()
    shutil.copy(tmp_path / "clip-1.flac", tmp_path / "broken.wav")
    code, _, err = run_command(*arguments, "--format", "srt", "--retry-failed")
    assert (code, [line for line in err.splitlines() if line.startswith("error")]) == (1, [err.splitlines()[-1]])
    assert "figures" in err
    assert missing.exists()
    untouched = [path for path, was in parts.items() if path.stat().st_mtime_ns == was.st_mtime_ns]
    assert [json.loads(path.read_text(encoding="utf-8"))["key"] for path in untouched] == ["first", "other"]
    # Another text is another job.
    manifest.write_text(manifest.read_text(encoding="utf-8").replace("TWENTY", "THIRTY"), encoding="utf-8")
    code, _, err = run_command(*arguments)
    assert code == 1
    assert "different 'texts'" in err


def test_what_is_wrong_for_all_is_said_once(run_command: RunCommand, manifest: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    code, _, err = run_command(*ALIGN, manifest, "--output-dir", output, "--language", "en")
    assert (code, len(err.splitlines())) == (1, 1)
    assert "no language tokens" in err
    for wrong in (["--text", "SIX"], ["--output", "x.json"], [manifest]):
        code, _, err = run_command(*ALIGN, manifest, *wrong, "--output-dir", output)
        assert code == 2
        assert "cannot be used with --output-dir" in err
    clip = tmp_path / "clip-2.flac"
    assert run_command(*ALIGN, clip, "--text", "SIX", "--retry-failed")[0] == 2
    assert run_command(*ALIGN, clip, "--text", "SIX", "--format", "ctm,srt")[0] == 2


def test_a_recording_from_standard_input(run_command: RunCommand, tmp_path: Path) -> None:
    clip = CLIPS[1]
    arguments = (*WITH_SMALL_MODEL, "--text", "SIX FOUR EIGHT THREE", "--format", "ctm")
    code, out, err = run_command("align", "-", *arguments, stdin=clip.read_bytes())
    assert (code, err) == (0, "")
    assert out == run_command("align", clip, *arguments)[1].replace(str(clip), "-")
    code, _, err = run_command("align", "-", *arguments, stdin=b"RIFF")
    assert (code, len(err.splitlines())) == (1, 1)
