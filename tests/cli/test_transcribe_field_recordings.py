"""`unichoir transcribe` with real-world recordings, names and streams: nothing is lost without a message."""

import io
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.samples import CLIPS, REFERENCES, WITH_SMALL_MODEL

RunCommand = Callable[..., tuple[int, str, str]]
TRANSCRIBE = ("transcribe", *WITH_SMALL_MODEL)
RATE = 16000


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """The texts of the clips."""
    lines = [json.loads(line) for line in REFERENCES.read_text().splitlines()]
    said = {Path(line["wav"]).name: line["txt"] for line in lines}
    return [said[clip.name] for clip in CLIPS]


def sound(place: int) -> np.ndarray:
    return soundfile.read(CLIPS[place], dtype="int16")[0]


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """A WAV whose header promises twice as many samples as the file has."""
    content = io.BytesIO()
    soundfile.write(content, sound(0), RATE, format="WAV", subtype="PCM_16")
    data = bytearray(content.getvalue())
    data[40:44] = struct.pack("<I", 4 * len(sound(0)))
    (tmp_path / "cut.wav").write_bytes(data)
    return tmp_path / "cut.wav"


def test_what_is_missing_is_said_and_the_rest_transcribed(run_command: RunCommand, cut: Path, texts: list[str]) -> None:
    seconds = len(sound(0)) / RATE
    line = f"{cut}: truncated: the audio ends at {seconds:.3f} s of {2 * seconds:.3f} s"
    for output_format in ("json", "verbose_json"):
        code, out, err = run_command(*TRANSCRIBE, cut, "--format", output_format)
        assert (code, err) == (0, f"warning: {line}\n")
        assert json.loads(out)["text"] == texts[0]
        assert json.loads(out)["warnings"] == [line]
    assert run_command(*TRANSCRIBE, cut, CLIPS[1], "--strict") == (1, f"{CLIPS[1]}: {texts[1]}\n", f"error: {line}\n")
    assert "warnings" not in json.loads(run_command(*TRANSCRIBE, CLIPS[0], "--format", "json")[1])


def test_align_says_what_is_missing(run_command: RunCommand, cut: Path, texts: list[str]) -> None:
    align = ("align", *WITH_SMALL_MODEL, cut, "--text", texts[0])
    code, out, err = run_command(*align)
    assert code == 0
    assert "truncated" in err
    assert len(json.loads(out)["warnings"]) == 1
    code, out, err = run_command(*align, "--strict")
    assert (code, out) == (1, "")
    assert "truncated" in err


@pytest.fixture
def call(tmp_path: Path) -> Path:
    """Two speakers on two channels: clip 1, then clip 2 on the other channel, then clip 3 on the first again."""
    first, second, third = sound(0), sound(1), sound(2)
    hum = np.random.default_rng(0).normal(0, 5, (2, len(first) + len(second) + len(third) + RATE)).astype(np.int16)
    hum[0, : len(first)] += first
    hum[1, len(first) : len(first) + len(second)] += second
    hum[0, -len(third) :] += third
    soundfile.write(tmp_path / "call.wav", hum.T, RATE)
    return tmp_path / "call.wav"


def test_each_channel_by_itself(run_command: RunCommand, call: Path, texts: list[str], tmp_path: Path) -> None:
    soundfile.write(tmp_path / "left.wav", soundfile.read(call, dtype="int16")[0][:, 0], RATE)
    alone = run_command(*TRANSCRIBE, tmp_path / "left.wav")[1].strip()
    assert alone.startswith(texts[0])
    texts = [*texts[:2], alone.removeprefix(texts[0]).strip()]  # which the small model may hear otherwise
    each = (*TRANSCRIBE, call, "--channel", "each")
    code, out, err = run_command(*each)
    assert (code, err) == (0, "")
    assert out.splitlines() == [f"[1] {texts[0]}", f"[2] {texts[1]}", f"[1] {texts[2]}"]
    for channel, words in ((1, f"{texts[0]} {texts[2]}"), (2, texts[1])):
        assert run_command(*TRANSCRIBE, call, "--channel", channel)[1] == f"{words}\n"
    formats = "json,verbose_json,srt,vtt,tsv,ctm,textgrid"
    assert run_command(*each, "--format", formats, "--output-dir", tmp_path)[0] == 0
    found = json.loads((tmp_path / "call.json").read_text())
    assert [(part["channel"], part["text"]) for part in found["segments"]] == list(
        zip([1, 2, 1], texts[:3], strict=True)
    )
    assert [word["text"] for word in found["words"] if word["channel"] == 2] == texts[1].split()
    verbose = json.loads((tmp_path / "call.verbose.json").read_text())["segments"]
    assert [part["channel"] for part in verbose] == [1, 2, 1]
    assert all(part["tokens"] for part in verbose)
    assert [row.split("\t")[2:] for row in (tmp_path / "call.tsv").read_text().splitlines()[1:]] == [
        [texts[0], "1"],
        [texts[1], "2"],
        [texts[2], "1"],
    ]
    rows = [row.split() for row in (tmp_path / "call.ctm").read_text().splitlines()]
    assert [row[4] for row in rows if row[1] == "2"] == texts[1].split()
    assert [row[1] for row in rows] == sorted(row[1] for row in rows)
    assert "[2] " in (tmp_path / "call.srt").read_text()
    assert "[2] " in (tmp_path / "call.vtt").read_text()
    grid = (tmp_path / "call.TextGrid").read_text()
    assert all(f'name = "{tier}"' in grid for tier in ("words 1", "segments 1", "words 2", "segments 2"))


@pytest.mark.parametrize("channel", ["0", "-1", "left", "1.5"])
def test_no_channel(run_command: RunCommand, channel: str) -> None:
    code, out, err = run_command(*TRANSCRIBE, CLIPS[0], "--channel", channel)
    assert (code, out) == (2, "")
    assert "is neither mix nor each nor a number from 1" in " ".join(err.replace("│", " ").split())


def test_a_channel_that_there_is_not(run_command: RunCommand) -> None:
    expected = f"error: {CLIPS[0]}: no channel 2: the recording has 1\n"
    assert run_command(*TRANSCRIBE, CLIPS[0], "--channel", 2) == (1, "", expected)


def unichoir(command: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell command in which `unichoir` stands for the command with the small model."""
    start = f'"{sys.executable}" -m unichoir transcribe {" ".join(WITH_SMALL_MODEL)}'
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    environment["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
    return subprocess.run(
        ["bash", "-c", command.replace("unichoir", start)], capture_output=True, env={**environment, **variables}
    )


posix = pytest.mark.skipif(os.name != "posix", reason="a POSIX shell")


@posix
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_names_are_bytes(tmp_path: Path, texts: list[str], locale: str) -> None:
    for name in (b"n\xe9.flac", "ñ.flac".encode()):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(CLIPS[0].read_bytes())
    done = unichoir(f'cd "{tmp_path}"; unichoir *.flac --format json,text --output-dir out', LC_ALL=locale)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    written = sorted(os.listdir(os.fsencode(tmp_path) + b"/out"))
    assert written == sorted([b"n\xe9.txt", b"n\xe9.json", "ñ.txt".encode(), "ñ.json".encode()])
    done = unichoir(f'cd "{tmp_path}"; unichoir *.flac {CLIPS[1]}', LC_ALL=locale)
    assert (done.returncode, done.stderr) == (0, b"")
    assert [line.split(b": ")[1].decode() for line in done.stdout.splitlines()] == [texts[0], texts[0], texts[1]]


@posix
def test_pipes_and_standard_input(texts: list[str]) -> None:
    done = unichoir(f'cat "{CLIPS[1]}" | unichoir <(cat "{CLIPS[0]}") -')
    assert (done.returncode, done.stderr) == (0, b"")
    assert [line.rsplit(b": ")[-1].decode() for line in done.stdout.splitlines()] == texts[:2]


@posix
def test_closed_standard_streams(tmp_path: Path, texts: list[str]) -> None:
    done = unichoir(f'unichoir - "{CLIPS[0]}" <&-')
    assert (done.returncode, done.stderr) == (1, b"error: standard input: is closed\n")
    assert done.stdout.decode() == f"{CLIPS[0]}: {texts[0]}\n"
    done = unichoir(f'unichoir "{CLIPS[0]}" >&-')
    assert (done.returncode, done.stderr) == (1, b"error: standard output: is closed\n")
    done = unichoir(f'unichoir "{CLIPS[0]}" --output-dir "{tmp_path}" >&- 2>&- <&-')
    assert done.returncode == 0
    assert (tmp_path / f"{CLIPS[0].stem}.txt").read_text() == f"{texts[0]}\n"


@posix
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")
def test_a_full_disk_under_standard_output() -> None:
    done = unichoir(f'unichoir "{CLIPS[0]}" >/dev/full')
    assert (done.returncode, done.stderr.splitlines()) == (1, [b"error: [Errno 28] No space left on device"])


def test_what_cannot_be_written_is_named_and_the_rest_done(
    run_command: RunCommand, tmp_path: Path, texts: list[str]
) -> None:
    long = tmp_path / f"{'n' * 250}.flac"  # with .TextGrid it is too long
    long.write_bytes(CLIPS[0].read_bytes())
    out_dir = tmp_path / "out"
    code, out, err = run_command(*TRANSCRIBE, long, CLIPS[1], "--format", "text,textgrid", "--output-dir", out_dir)
    assert (code, out) == (1, "")
    assert err == f"error: {out_dir / long.stem}.TextGrid: File name too long\n"
    names = {f"{'n' * 250}.txt", f"{CLIPS[1].stem}.txt", f"{CLIPS[1].stem}.TextGrid"}
    assert {path.name for path in out_dir.iterdir()} == names
    assert (out_dir / f"{CLIPS[1].stem}.txt").read_text() == f"{texts[1]}\n"


@posix
def test_a_named_pipe_as_output_stays_one(run_command: RunCommand, tmp_path: Path, texts: list[str]) -> None:
    pipe, found = tmp_path / "pipe", list[str]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    align = ("align", *WITH_SMALL_MODEL, CLIPS[0], "--text", texts[0], "--format", "text", "--output", pipe)
    assert run_command(*align) == (0, "", "")
    reader.join()
    assert found == [f"{texts[0]}\n"]
