"""`unichoir stream` from end to end with a small model: simulated recordings, invalid input, signals."""

import json
import math
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.samples import CLIPS, REFERENCES, SMALL_MODEL, WITH_SMALL_MODEL

from unichoir.api import load_model
from unichoir.audio.io import load_audio
from unichoir.cli._shared.stream_output import TextLines
from unichoir.cli.stream import Session, play
from unichoir.data.manifest import read_manifest
from unichoir.recognition.latency import LatencyReport
from unichoir.recognition.options import EndpointRules, StreamingOptions
from unichoir.text.normalize import normalize_for_scoring
from unichoir.text.wer import ErrorCounts, word_errors
from unichoir.transcript.results import StreamResult

RATE = 16000
CLIP = CLIPS[0]
COMMAND = [sys.executable, "-m", "unichoir", "stream", *WITH_SMALL_MODEL, "--threads", "1", "--simulate"]
LINE = re.compile(r"\[(\d+):(\d\d\.\d) - (\d+):(\d\d\.\d)\] (.+)")
Run = Callable[..., tuple[int, str, str]]
Finals = Callable[..., list[StreamResult]]


def test_json_of_known_words(run: Run, finals_of: Finals) -> None:
    errors = ErrorCounts()
    for utterance in read_manifest(REFERENCES):
        path = Path(utterance.wav)
        samples = load_audio(path, sample_rate=RATE)
        code, out, err = run("--simulate", path, "--speed", 0, "--format", "json", "--threads", 1)
        assert (code, err) == (0, "")
        results = [json.loads(line) for line in out.splitlines()]
        finals = [result for result in results if result["is_final"]]
        assert len(results) > len(finals)
        assert finals == json.loads(json.dumps([final.to_dict() for final in finals_of(samples)]))
        ends = [0, *(final["end_ms"] for final in finals)]
        assert [final["start_ms"] for final in finals] == ends[:-1]
        assert ends[-1] == round(len(samples) / 16)
        text = " ".join(final["text"] for final in finals)
        errors += word_errors(normalize_for_scoring(utterance.txt), normalize_for_scoring(text))
    assert errors.rate < 0.2


def test_lines_of_text(run: Run, finals_of: Finals, long_speech: Path) -> None:
    options = ["--chunk-size", 8, "--num-left-chunks", 6, "--beam-size", 3, "--decoding", "ctc_prefix_beam_search"]
    rules = ["--silence-after-speech", 0.2, "--silence-before-speech", 0, "--max-utterance", 5]
    code, out, err = run("--simulate", long_speech, "--speed", 0, "--threads", 1, *options, *rules)
    assert (code, err) == (0, "")
    expected = finals_of(
        long_speech,
        StreamingOptions(
            chunk_size=8,
            num_left_chunks=6,
            beam_size=3,
            mode="ctc_prefix_beam_search",
            endpoint=EndpointRules(silence_after_speech=0.2, silence_before_speech=None, max_utterance=5.0),
        ),
    )
    spoken = [final for final in expected if final.words]
    lines = out.splitlines()
    assert len(lines) == len(spoken) >= 6
    for line, final in zip(lines, spoken, strict=True):
        found = LINE.fullmatch(line)
        assert found
        start, end = (60 * int(found[place]) + float(found[place + 1]) for place in (1, 3))
        assert start == pytest.approx(final.words[0].start_ms / 1000, abs=0.0501)
        assert end == pytest.approx(final.words[-1].end_ms / 1000, abs=0.0501)
        assert found[5] == final.text


def test_rules_can_be_off(run: Run, tmp_path: Path) -> None:
    samples = load_audio(CLIP, sample_rate=RATE)
    soundfile.write(tmp_path / "a.wav", np.concatenate([samples, np.zeros(2 * RATE), samples]), RATE)
    arguments = ["--simulate", tmp_path / "a.wav", "--speed", 0]
    assert len(run(*arguments)[1].splitlines()) == 2
    off = ["--silence-after-speech", 0, "--silence-before-speech", 0, "--max-utterance", 0]
    assert len(run(*arguments, *off)[1].splitlines()) == 1


def test_latency_is_told_on_demand(run: Run) -> None:
    code, out, err = run("--simulate", CLIP, "--speed", 0, "--latency")
    assert code == 0
    assert LINE.fullmatch(out.strip())
    assert re.findall(r"^([a-z ]*[a-z]) +(\d+)(?: +\d+){3}$", err, flags=re.MULTILINE) == [
        ("first partial", "1"),
        ("partial behind audio", "3"),
        ("final after speech", "1"),
        ("final after the input", "1"),
    ]
    (factor, spent), *_ = re.findall(
        r"^real-time factor (\d+\.\d{3}): 2\.4 s of audio recognised in (\d+\.\d\d) s$", err, flags=re.MULTILINE
    )
    assert float(factor) == pytest.approx(float(spent) / 2.35, abs=0.003)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--chunk-size", "0"], "--chunk-size"),
        (["--chunk-size", "26"], "--chunk-size"),
        (["--num-left-chunks", "-1"], "--num-left-chunks"),
        (["--num-left-chunks", "500"], "at most 93"),
        (["--decoding", "attention"], "--decoding"),
        (["--beam-size", "0"], "--beam-size"),
        (["--silence-after-speech", "0.01"], "--silence-after-speech"),
        (["--silence-before-speech", "-1"], "--silence-before-speech"),
        (["--max-utterance", "0.5"], "--max-utterance"),
        (["--max-utterance", "nan"], "utterance"),
        (["--speed", "-1"], "--speed"),
        (["--speed", "inf"], "--speed"),
        (["--speed", "nan"], "--speed"),
        (["--device", "0"], "--device"),
        (["--format", "xml"], "--format"),
        (["--threads", "0"], "--threads"),
        (["another.wav"], "unexpected"),
    ],
)
def test_usage_errors(run: Run, arguments: list[str], message: str) -> None:
    code, out, err = run("--simulate", CLIP, *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_speed_needs_a_recording(run: Run) -> None:
    code, _, err = run("--speed", 1)
    assert code == 2
    assert "needs --simulate" in err


def test_unusable_inputs_are_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("this is no audio")
    for name, message in {"missing.wav": "No such file", "text.wav": "cannot be decoded", ".": "directory"}.items():
        code, out, err = run("--simulate", tmp_path / name)
        assert (code, out) == (1, "")
        assert err.startswith(f"error: {tmp_path / name}: ")
        assert message in err
        assert err.count("\n") == 1
    code, _, err = run("--simulate", CLIP, "--model", tmp_path)
    assert (code, err.startswith(f"error: {tmp_path}: ")) == (1, True)


def test_help_teaches(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for example in ("unichoir stream --simulate recording.flac", "unichoir stream --device USB", "unichoir[mic]"):
        assert example in out


@pytest.mark.parametrize("length", [100, 3 * RATE])
def test_sound_without_words_is_no_line(run: Run, tmp_path: Path, length: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(length), RATE)
    assert run("--simulate", tmp_path / "a.wav", "--speed", 0) == (0, "", "")
    _, out, _ = run("--simulate", tmp_path / "a.wav", "--speed", 0, "--format", "json")
    last = json.loads(out.splitlines()[-1])
    assert (last["is_final"], last["text"], last["end_ms"]) == (True, "", round(length / 16))


class Clock:
    """A clock that advances only by sleeping, and by what is added to it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.mark.parametrize("speed", [0.5, 1.0, 4.0])
def test_a_recording_is_played_in_its_time(speed: float) -> None:
    clock, samples = Clock(), np.arange(RATE * 5 // 4)
    played = []
    for block, arrived in play(samples, RATE, speed, lambda: False, clock, clock.sleep):
        played.append(block)
        assert clock.now >= arrived == pytest.approx(100 + sum(map(len, played)) / RATE / speed)
        if len(played) == 5:
            clock.now += 0.35 / speed  # whoever takes the blocks is late: they have been arriving all the same
    np.testing.assert_array_equal(np.concatenate(played), samples)
    assert [len(block) for block in played] == [1600] * 12 + [800]
    assert clock.now == pytest.approx(100 + 1.25 / speed)
    assert max(clock.slept) <= 0.1


def test_a_recording_can_be_played_at_once_and_be_stopped() -> None:
    clock, samples = Clock(), np.arange(RATE)
    assert [now for _, now in play(samples, RATE, 0, lambda: False, clock, clock.sleep)] == [100.0] * 10
    assert clock.slept == []
    assert len(list(play(samples, RATE, 1, lambda: clock.now > 100.45, clock, clock.sleep))) == 4
    clock.now = 100.0
    assert list(play(samples, RATE, 1e-4, lambda: clock.now > 100.45, clock, clock.sleep)) == []
    assert clock.now < 100.6  # though the first block would have been due after 1000 s


@pytest.mark.parametrize("delay", [0.0, 0.25])
def test_latencies_of_a_recogniser_that_takes_no_time(finals_of: Finals, delay: float) -> None:
    """By a clock that only the coming of blocks moves they follow from the sizes of blocks and chunks.

    delay: how long blocks lie there before they are taken, in s, as when recognition is slower than speech.
    """
    clock, samples = Clock(), load_audio(CLIP, sample_rate=RATE)
    end = len(samples) / RATE

    def arrival(ms: float) -> float:
        """When the block of 100 ms that contains this moment arrives; the last block is shorter."""
        return min(math.ceil(ms / 100) / 10, end)

    def blocks() -> Iterator[tuple[np.ndarray, float]]:
        for start in range(0, len(samples), RATE // 10):
            arrived = 100 + min(start / RATE + 0.1, end)
            clock.now = arrived + delay
            yield samples[start : start + RATE // 10], arrived

    session = Session(load_model(SMALL_MODEL, num_threads=1).create_stream(), TextLines(), clock)
    assert session.run(blocks(), RATE) is None
    (final,) = finals_of(CLIP)
    # To encode up to 640 ms, 45 ms more must have been heard.
    shown = [arrival(640 * chunk + 45) + delay for chunk in (1, 2, 3)]
    expected = LatencyReport(
        first_partial=(shown[0] - arrival(final.words[0].start_ms),),
        partial_lag=tuple(at - arrival(640 * chunk) for chunk, at in enumerate(shown, start=1)),
        final_after_speech=(end + delay - arrival(final.words[-1].end_ms),),
        final_after_input=(delay,),
    )
    assert session.report().startswith(expected.to_text())
    assert session.report().endswith("real-time factor 0.000: 2.4 s of audio recognised in 0.00 s")


def test_ctrl_c_ends_the_input_and_not_the_words(finals_of: Finals, long_speech: Path) -> None:
    command = [*COMMAND, str(long_speech), "--format", "json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        for line in process.stdout:
            assert not json.loads(line)["is_final"]
            if json.loads(line)["text"]:
                break
        process.send_signal(signal.SIGINT)
        rest = [json.loads(line) for line in process.stdout]
        assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 0
    last = rest[-1]
    assert last["is_final"]
    assert last["nbest"][0]["words"]
    assert last["end_ms"] < 1000 * soundfile.info(long_speech).duration
    heard = load_audio(long_speech, sample_rate=RATE)[: 16 * last["end_ms"]]
    assert [result["text"] for result in rest if result["is_final"]] == [final.text for final in finals_of(heard)]


def test_a_reader_that_stops_reading_is_no_error(long_speech: Path) -> None:
    command = [*COMMAND, str(long_speech), "--speed", "0", "--format", "json", "--latency"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stderr:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 1
