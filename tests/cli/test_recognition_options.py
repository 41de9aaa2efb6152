"""The effects of the shared groups of options: words change, and options without effect are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.samples import CLIPS, SMALL_MODEL, WITH_SMALL_MODEL

from unichoir.recognition.vad_options import VadOptions
from unichoir.search.hotwords import Hotword
from unichoir.text.written import WrittenForm

MISHEARD, DIGITS = CLIPS[4], CLIPS[0]
COMMANDS: dict[str, tuple[Any, ...]] = {
    "transcribe": ("transcribe", *WITH_SMALL_MODEL, MISHEARD),
    "stream": ("stream", *WITH_SMALL_MODEL, "--simulate", MISHEARD, "--speed", 0),
}
ARPA = """\\data\\
ngram 1=9
ngram 2=1

\\1-grams:
-9.0\t<unk>
-99\t<s>\t0
-1.0\t</s>
-1.0\tOCTOBER\t0
-0.3\tTWENTY\t0
-0.3\tFOUR\t0
-0.3\tACTOBER\t0
-0.3\tP\t0
-5.0\tTWENTTY\t0

\\2-grams:
-0.5\t<s> OCTOBER

\\end\\
"""
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def phrases(tmp_path: Path) -> Path:
    path = tmp_path / "phrases.txt"
    path.write_text("october\ntwenty :2\n")
    return path


@pytest.fixture
def arpa(tmp_path: Path) -> Path:
    path = tmp_path / "words.arpa"
    path.write_text(ARPA)
    return path


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "dev.jsonl"
    path.write_text(json.dumps({"key": "a", "wav": str(MISHEARD), "txt": "OCTOBER TWENTY FOUR"}) + "\n")
    return path


def last_words(run_command: Run, *arguments: Any) -> str:
    code, out, err = run_command(*arguments)
    assert code == 0, err
    return out.strip().rpartition("] ")[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_hotwords(run_command: Run, phrases: Path, command: str) -> None:
    arguments = COMMANDS[command]
    assert last_words(run_command, *arguments).startswith("ACTOBER P TWENT")
    assert last_words(run_command, *arguments, "--hotwords", phrases) == "OCTOBER TWENTY FOUR"
    weak = last_words(run_command, *arguments, "--hotwords", phrases, "--hotwords-boost", 0.001)
    assert weak.startswith("ACTOBER")  # TWENTY has its own boost


@pytest.mark.parametrize("word", ["TWENTY", "TWENTTY"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_language_model(run_command: Run, arpa: Path, command: str, word: str) -> None:
    """It decides between two words that are as good to the model."""
    if word == "TWENTTY":
        arpa.write_text(ARPA.replace("-0.3\tTWENTY", "-5.0\tTWENTY").replace("-5.0\tTWENTTY", "-0.3\tTWENTTY"))
    arguments = (*COMMANDS[command], "--lm", arpa, "--lm-weight", 1)
    assert last_words(run_command, *arguments).endswith(f" {word} FOUR")
    assert last_words(run_command, *arguments[:-1], 0) == last_words(run_command, *COMMANDS[command])


@pytest.mark.parametrize("options", [("--hotwords", "phrases"), ("--lm", "arpa", "--lm-weight", "1")])
def test_evaluate(
    run_command: Run, request: pytest.FixtureRequest, manifest: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    name, fixture, *more = options
    given = (name, request.getfixturevalue(fixture), *more)
    code, _, err = run_command("evaluate", SMALL_MODEL, manifest, *given, "--output", tmp_path / "out")
    assert code == 0, err
    [line] = (tmp_path / "out" / "utterances.jsonl").read_text().splitlines()
    assert "TWENTY FOUR" in line.partition("hyp")[2]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["language_model"] == (str(given[1]) if name == "--lm" else None)
    assert results["scores"][0]["hotwords"] == (2 if name == "--hotwords" else 0)


def test_a_set_of_which_nothing_can_be_read_has_no_figures(run_command: Run, manifest: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone.jsonl"
    gone.write_text('{"key": "a", "wav": "gone.wav", "txt": "ONE"}\n')
    code, out, err = run_command("evaluate", SMALL_MODEL, gone, manifest)
    assert code != 0
    assert "gone: none of its 1 recordings can be read" in err
    assert "dev" in out
    assert "gone" not in out


def test_numbers_are_written(run_command: Run) -> None:
    assert last_words(run_command, "transcribe", *WITH_SMALL_MODEL, DIGITS, "--itn", "en") == "6045912"
    stream = ("stream", *WITH_SMALL_MODEL, "--simulate", DIGITS, "--speed", 0)
    assert last_words(run_command, *stream, "--itn", "en") == "6045912"


@pytest.mark.parametrize("vad", ["silero", "ctc"])
def test_where_nobody_speaks(run_command: Run, tmp_path: Path, vad: str) -> None:
    speech, rate = soundfile.read(DIGITS, dtype="float32")
    quiet = np.zeros(25 * rate, np.float32)
    soundfile.write(tmp_path / "long.wav", np.concatenate([quiet, speech, quiet]), rate)
    arguments = ("transcribe", *WITH_SMALL_MODEL, tmp_path / "long.wav")
    code, out, err = run_command(*arguments, "--vad", vad, "--format", "json")
    assert code == 0, err
    words = json.loads(out)["words"]
    assert "".join(word["text"][0] for word in words) == "SOFFNOT"  # SIX OH FOUR FIVE NINE ONE TWO
    assert all(25_000 <= word["start_ms"] < word["end_ms"] <= 25_000 + 1000 * len(speech) / rate for word in words)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--hotwords-boost", 1), "needs --hotwords"),
        (("--hotwords", "missing.txt"), "missing.txt: No such file or directory"),
        (("--hotwords", MISHEARD), "clip-5.flac, line 1: not UTF-8"),
        (("--lm", "none", "--lm-weight", 1), "has no effect with --lm none"),
        (("--lm", "none", "--length-bonus", 1), "has no effect with --lm none"),
        (("--lm", "none", "--oov-penalty", 1), "has no effect with --lm none"),
        (("--lm", "missing.arpa"), "missing.arpa"),
        (("--language", "zh"), "this model has no language tokens"),
        (("--punctuation", "missing"), "missing"),
    ],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_has_no_effect_is_refused(run_command: Run, command: str, options: tuple[Any, ...], message: str) -> None:
    code, out, err = run_command(*COMMANDS[command], *options)
    assert code != 0
    assert message in " ".join(err.replace("\u2502", " ").split())
    assert not out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--vad", "none", "--vad-threshold", 0.3), "none has no settings"),
        (("--max-segment", 0.5), "0, or at least 1"),
    ],
)
def test_what_makes_no_sense_for_long_recordings(run_command: Run, options: tuple[Any, ...], message: str) -> None:
    code, _, err = run_command(*COMMANDS["transcribe"], *options)
    assert code != 0
    assert message in err


def test_a_server_has_them_all(run_command: Run, monkeypatch: pytest.MonkeyPatch, phrases: Path, arpa: Path) -> None:
    started: list[Any] = []
    monkeypatch.setattr("unichoir.serving.server.serve", lambda *given, **_: started.append(given))
    options = ("--hotwords", phrases, "--lm", arpa, "--lm-weight", 0.7, "--itn", "en", "--max-hotwords", 7)
    long = ("--vad", "ctc", "--min-silence", 0.3, "--max-segment", 12, "--reencode", "--max-upload-mb", 3)
    code, _, err = run_command("serve", *WITH_SMALL_MODEL, *options, *long)
    assert code == 0, err
    [(recognizer, settings)] = started
    for chosen in (settings.decoding, settings.streaming):
        assert chosen.hotwords == (Hotword("october"), Hotword("twenty", 2.0))
        assert chosen.lm_weight == 0.7
        assert chosen.written == WrittenForm(itn="en")
        assert recognizer.search.scorer(chosen) is not None
    assert settings.max_hotwords == 7
    assert settings.max_upload_bytes == 3 << 20
    assert (settings.streaming.reencode, settings.decoding.reencode) == (True, None)  # recordings are encoded whole
    assert (settings.decoding.vad, settings.decoding.max_segment_seconds) == ("ctc", 12.0)
    assert settings.decoding.vad_options == VadOptions(min_silence_seconds=0.3, speech_pad_seconds=0.15)
