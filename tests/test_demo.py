"""The demo: its recordings match its manifest, and its report adds up with any model."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from tests.samples import REFERENCES, SMALL_MODEL, SPOKEN

import unichoir
from unichoir.data.manifest import read_manifest
from unichoir.text.normalize import normalize_for_scoring
from unichoir.text.wer import ErrorCounts, word_errors

DEMO = Path(__file__).resolve().parents[1] / "demo"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, DEMO / "run.py", "--model", SMALL_MODEL, *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, encoding="utf-8", check=False, timeout=120)


def test_recordings_are_what_the_manifest_says() -> None:
    lines = [json.loads(line) for line in (DEMO / "clips.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) >= 8
    assert len({line["key"] for line in lines}) == len(lines)
    notes = (DEMO / "README.md").read_text(encoding="utf-8")
    for line in lines:
        assert all(line[name].strip() for name in ("txt", "about", "source", "licence"))
        assert line["duration"] == pytest.approx(soundfile.info(DEMO / line["wav"]).duration, abs=0.01)
        assert line["wav"] in notes
    played = {line["wav"] for line in lines}
    assert played == {f"audio/{path.name}" for path in (DEMO / "audio").iterdir()}
    assert max(line["duration"] for line in lines) > 60
    assert sum(path.stat().st_size for path in (DEMO / "audio").iterdir()) < 2e6
    assert len(read_manifest(DEMO / "clips.jsonl")) == len(lines)


def test_the_report_adds_up(tmp_path: Path) -> None:
    """Held against the library. A recording that is missing is named, and the others are done."""
    lines = [json.loads(line) for line in REFERENCES.read_text(encoding="utf-8").splitlines()][-2:]
    lines = [{**line, "wav": str(SPOKEN / line["wav"]), "about": f"About {line['key']}"} for line in lines]
    manifest = tmp_path / "two.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    done = run(manifest)
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 100
    model = unichoir.load_model(SMALL_MODEL)
    total = ErrorCounts()
    for line in lines:
        text = model.transcribe(line["wav"]).text
        counts = word_errors(normalize_for_scoring(line["txt"]), normalize_for_scoring(text))
        total += counts
        for expected in (f". About {line['key']} (", f"   said   {line['txt']}\n", f"   full   {text}\n"):
            assert expected in done.stdout
        assert re.search(f"-> {counts.errors} errors? in {counts.reference} words, ", done.stdout)
    full, stream = re.findall(r"rate ([\d.]+) % \((\d+) errors? in (\d+) words\)", " ".join(done.stdout.split()))
    assert tuple(map(float, full)) == (round(100 * total.rate, 1), total.errors, total.reference)
    assert int(stream[2]) == total.reference
    assert all(command in done.stdout for command in ("transcribe", "stream", "serve"))


def test_what_is_broken_is_told_without_a_traceback(tmp_path: Path) -> None:
    manifest = tmp_path / "one.jsonl"
    first = {"key": "gone", "wav": "gone.flac", "txt": "ONE"}
    second = {"key": "here", "wav": str(SPOKEN / "audio" / "clip-3.flac"), "txt": "NINE ONE EIGHT TWO"}
    manifest.write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n", encoding="utf-8")
    done = run(manifest)
    assert (done.returncode, done.stderr) == (1, "")
    assert "gone.flac" in done.stdout
    assert "2. here (" in done.stdout
    assert "NINE ONE EIGHT TWO" in done.stdout
    for arguments in ([tmp_path / "none.jsonl"], [manifest, "--model", "nonesuch"]):
        done = run(*arguments)
        assert done.returncode == 1
        assert re.fullmatch(r"error: .*\n", done.stderr)
