"""`unichoir transcribe --format`: what is written, and where."""

import contextlib
import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.console import Console
from tests.samples import CLIPS, SMALL_MODEL, WITH_SMALL_MODEL

import unichoir
from unichoir.audio.io import load_audio
from unichoir.cli import transcribe
from unichoir.cli._shared.common import make_bar
from unichoir.transcript.formats import FORMATS, SUFFIXES, write_transcript
from unichoir.transcript.subtitles import SubtitleOptions

TRANSCRIBE = ("transcribe", *WITH_SMALL_MODEL)
RunCommand = Callable[..., tuple[int, str, str]]
RATE = 16000


@pytest.fixture(scope="module")
def transcripts(clips: list[Path]) -> dict[Path, unichoir.Transcript]:
    model = unichoir.load_model(SMALL_MODEL)
    return {clip: model.transcribe(clip) for clip in clips[:2]}


def test_one_file_to_standard_output(
    run_command: RunCommand, clips: list[Path], transcripts: dict[Path, unichoir.Transcript]
) -> None:
    """What a player gets: the words of the reference, in a cue that holds all of its times."""
    code, out, err = run_command(*TRANSCRIBE, clips[0], "--format", "srt")
    assert (code, err) == (0, "")
    number, times, text, *rest = out.split("\n")
    assert (number, text, rest) == ("1", "SIX OH FOUR FIVE NINE ONE TWO", [""])
    words = transcripts[clips[0]].words
    assert times == f"00:00:00,{words[0].start_ms:03} --> 00:00:0{words[-1].end_ms / 1000:.3f}".replace(".", ",")


@pytest.mark.parametrize("name", ["text", "json", "verbose_json", "ctm"])
def test_several_files_follow_each_other_where_lines_tell_them_apart(
    run_command: RunCommand, clips: list[Path], transcripts: dict[Path, unichoir.Transcript], name: str
) -> None:
    code, out, err = run_command(*TRANSCRIBE, *clips[:2], "--format", name)
    assert (code, err) == (0, "")
    for clip, transcript in transcripts.items():
        own = [line for line in out.splitlines() if str(clip) in line]
        assert "".join(f"{line}\n" for line in own).removeprefix(f"{clip}: ") == write_transcript(
            transcript, name, str(clip)
        )


def test_all_formats_in_a_folder(
    run_command: RunCommand, clips: list[Path], transcripts: dict[Path, unichoir.Transcript], tmp_path: Path
) -> None:
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    arguments = (
        clips[0],
        tmp_path / "bad.wav",
        clips[1],
        "--format",
        ",".join(FORMATS),
        "--output-dir",
        tmp_path / "out",
    )
    code, out, err = run_command(*TRANSCRIBE, *arguments, "--max-line-length", 10, "--max-lines", 1)
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert "bad.wav" in err
    expected = {
        f"{clip.stem}{SUFFIXES[each]}": write_transcript(
            transcript, each, str(clip), SubtitleOptions(max_line_length=10, max_lines=1)
        )
        for clip, transcript in transcripts.items()
        for each in FORMATS
    }
    assert {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "out").iterdir()} == expected
    assert len(expected) == 2 * len(FORMATS)
    lines = [line for line in expected["clip-1.srt"].splitlines() if line.replace(" ", "").isalpha()]
    assert " ".join(lines) == transcripts[clips[0]].text
    assert max(map(len, lines)) <= 10


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (["--max-cue", "1"], SubtitleOptions(max_seconds=1.0)),
        (["--min-cue", "5"], SubtitleOptions(min_seconds=5.0)),
        (["--max-pause", "0.1"], SubtitleOptions(max_pause_seconds=0.1)),
        (["--max-speed", "2"], SubtitleOptions(max_speed=2.0)),
        (["--max-line-length", "9"], SubtitleOptions(max_line_length=9)),
    ],
)
def test_every_option_of_subtitles_does_something(
    run_command: RunCommand,
    clips: list[Path],
    tmp_path: Path,
    options: list[str],
    shown: SubtitleOptions,
) -> None:
    """Of two clips with a pause between them, so that there is one."""
    first, second = (load_audio(clip, sample_rate=RATE) for clip in clips[:2])
    path = tmp_path / "two.wav"
    soundfile.write(path, np.concatenate([first, np.zeros(RATE // 4, np.float32), second]), RATE)
    transcript = unichoir.load_model(SMALL_MODEL).transcribe(path)
    code, out, _ = run_command(*TRANSCRIBE, path, "--format", "vtt", *options)
    assert code == 0
    assert out == write_transcript(transcript, "vtt", "", shown) != write_transcript(transcript, "vtt", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "xml"], "--format: 'xml' is not one of text, json, verbose_json, srt, vtt, tsv, ctm, textgrid"),
        (["--format", "srt,"], "--format: '' is not one of"),
        (["--format", "srt,vtt"], "--format: several formats need --output-dir"),
        (["b.wav", "--format", "tsv"], "--format: tsv of several files needs --output-dir"),
        (["b.wav", "--format", "textgrid"], "--format: textgrid of several files needs --output-dir"),
        (["--max-lines", "2"], "--max-lines: needs --format srt or vtt"),
        (["--format", "ctm", "--max-cue", "5"], "--max-cue: needs --format srt or vtt"),
        (["--format", "srt", "--max-lines", "0"], "max_lines: expected a whole number from 1 to 10, found 0"),
        (["--format", "srt", "--max-cue", "nan"], "max_seconds: expected a number"),
        (
            ["--format", "srt", "--max-cue", "2", "--min-cue", "3"],
            "min_seconds: expected a number from 0 to 2, found 3",
        ),
    ],
)
def test_usage_errors(run_command: RunCommand, options: list[str], message: str) -> None:
    """They come before any file is opened."""
    code, out, err = run_command(*TRANSCRIBE, "a.wav", *options)
    assert (code, out) == (2, "")
    assert message in " ".join(err.replace("\u2502", " ").split())


def test_times_of_a_long_recording(run_command: RunCommand, clips: list[Path], tmp_path: Path) -> None:
    """Clips a minute apart: their cues are where they are, and what was said is not drawn out over the silence."""
    samples = np.zeros(150 * RATE, dtype=np.float32)
    for second, clip in ((10, clips[1]), (70, clips[2]), (130, clips[0])):
        speech = load_audio(clip, sample_rate=RATE)
        samples[second * RATE : second * RATE + len(speech)] = speech
    soundfile.write(tmp_path / "long.flac", samples, RATE)
    code, out, _ = run_command(*TRANSCRIBE, tmp_path / "long.flac", "--format", "verbose_json", "--vad", "ctc")
    assert code == 0
    found = json.loads(out)
    assert [segment["text"] for segment in found["segments"]] == [
        "SIX FOUR EIGHT THREE",
        "NINE ONE EIGHT TWO",
        "SIX OH FOUR FIVE NINE ONE TWO",
    ]
    for segment, start in zip(found["segments"], (10, 70, 130), strict=True):
        assert start <= segment["start"] < segment["end"] <= start + 3
    assert found["duration"] == 150


def test_progress_is_in_seconds_and_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the bar shows while a file is half done."""
    shown: list[str] = []
    bar = make_bar("s")
    monkeypatch.setattr(transcribe, "make_progress", lambda unit: bar)

    def recognise(source: str, progress: Callable[[float, float], None]) -> str:
        progress(1800.5, 3600.0)
        console = Console(width=100, file=io.StringIO())
        with console.capture() as capture:
            console.print(bar.make_tasks_table(bar.tasks))
        shown.append(capture.get())
        return source

    assert transcribe._transcribe_all(recognise, ["[a].wav", "b.wav"], lambda *_: None)
    overall, own = (" ".join(line.split()) for line in shown[1].splitlines())
    assert overall.split()[0] == "transcribing"
    assert "1/2 files" in overall
    assert own.split()[0] == "b.wav"
    assert "1800/3600 s" in own
    assert shown[0].splitlines()[1].split()[0] == "[a].wav"
    assert [task.completed for task in bar.tasks] == [2]


def test_a_terminal_shows_the_progress() -> None:
    """In a new process, whose standard error is a pseudo terminal; the text goes to a pipe."""
    primary, secondary = pty.openpty()
    command = [sys.executable, "-m", "unichoir", "transcribe", *WITH_SMALL_MODEL, *map(str, CLIPS[:2])]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=secondary, env={**os.environ, "TERM": "xterm-256color"}
    )
    os.close(secondary)
    shown = b""
    with contextlib.suppress(OSError):  # Linux's way to say that the other side is closed
        while part := os.read(primary, 65536):
            shown += part
    os.close(primary)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert [line.split(": ")[0] for line in text.decode().splitlines()] == [str(path) for path in CLIPS[:2]]
    plain = re.sub(rb"\x1b\[[\d;?]*[A-Za-z]", b"", shown)  # without colours and movements
    assert b"transcribing" in plain
    assert b"2/2 files" in plain
