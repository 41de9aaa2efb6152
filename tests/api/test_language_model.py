"""The language model in a model directory: used by default, for recordings and streams alike."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import unichoir
from unichoir.bundle.sums import check_sums
from unichoir.errors import CheckpointError, DecodingError

Command = Callable[..., tuple[int, str, str]]
RATE = 16000
CTC = "ctc_prefix_beam_search"
STRONG = {"lm_weight": 1.0, "length_bonus": 30.0, "oov_penalty": 0.0}
"""Every word counts more than what is heard."""


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    return np.random.default_rng(3).normal(0, 0.1, 3 * RATE).astype(np.float32)


@pytest.fixture
def lm(run_command: Command, tmp_path: Path) -> Path:
    """A language model in lower case, for a model in upper case."""
    (tmp_path / "text.txt").write_text("ab ab ab\nab cd\n", encoding="utf-8")
    code, _, err = run_command("lm", "train", tmp_path / "text.txt", "--output", tmp_path / "small.bin")
    assert code == 0, err
    (tmp_path / "small.bin.json").write_text(json.dumps({CTC: STRONG}), encoding="utf-8")
    return tmp_path / "small.bin"


@pytest.fixture
def directory(run_command: Command, tiny_model: Path, tmp_path: Path, lm: Path) -> Path:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    code, _, err = run_command("lm", "add", folder, lm)
    assert code == 0, err
    return folder


def test_recordings_and_streams_use_it_alike(directory: Path, tiny_model: Path, lm: Path, samples: np.ndarray) -> None:
    texts = {}
    for name, model in {
        "default": unichoir.load_model(directory, 1),
        "given": unichoir.load_model(tiny_model, 1, language_model=lm),
        "none": unichoir.load_model(directory, 1, language_model="none"),
        "None": unichoir.load_model(directory, 1, language_model=None),
        "without": unichoir.load_model(tiny_model, 1),
    }.items():
        offline = unichoir.DecodingOptions(mode=CTC, chunk_size=8, num_left_chunks=4)
        streaming = unichoir.StreamingOptions(mode=CTC, chunk_size=8, num_left_chunks=4, endpoint=None)
        *_, last = model.stream([samples], sample_rate=RATE, options=streaming)
        texts[name] = model.transcribe(samples, sample_rate=RATE, options=offline).text
        assert last.text == texts[name]
    assert texts["default"] == texts["given"]
    assert texts["none"] == texts["None"] == texts["without"]
    assert len(texts["none"].split()) < len(texts["default"].split())


def test_modes_that_cannot_use_it_go_without(directory: Path, tiny_model: Path, lm: Path, samples: np.ndarray) -> None:
    default, without = unichoir.load_model(directory, 1), unichoir.load_model(tiny_model, 1)
    given = unichoir.load_model(tiny_model, 1, language_model=lm)
    for mode in ("ctc_greedy_search", "attention"):
        options = unichoir.DecodingOptions(mode=mode)
        expected = without.transcribe(samples, sample_rate=RATE, options=options).text
        assert default.transcribe(samples, sample_rate=RATE, options=options).text == expected
        with pytest.raises(DecodingError, match=f"{mode} doesn't use a language model"):
            given.transcribe(samples, sample_rate=RATE, options=options)
        with pytest.raises(DecodingError, match=f"{mode} doesn't use a language model"):
            unichoir.DecodingOptions(mode=mode, oov_penalty=1.0)
    off = unichoir.DecodingOptions(mode=CTC, lm_weight=0.0, length_bonus=0.0)
    plain = unichoir.DecodingOptions(mode=CTC)
    assert (
        default.transcribe(samples, sample_rate=RATE, options=off).text
        == without.transcribe(samples, sample_rate=RATE, options=plain).text
    )


@pytest.mark.parametrize("name", ["lm.bin", "lm.bin.json"])
def test_damage_is_refused_by_name(directory: Path, name: str) -> None:
    content = (directory / name).read_bytes()
    (directory / name).write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match=f"{name}: truncated, damaged or changed"):
        unichoir.load_model(directory)
    (directory / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: no such file"):
        unichoir.load_model(directory, language_model="none")


def test_without_sums_damage_shows_when_it_is_first_used(directory: Path, samples: np.ndarray) -> None:
    (directory / "SHA256SUMS").unlink()
    content = (directory / "lm.bin").read_bytes()
    (directory / "lm.bin").write_bytes(content[: len(content) // 2])
    model = unichoir.load_model(directory)
    model.transcribe(samples, sample_rate=RATE, decoding="ctc_greedy_search")
    with pytest.raises(CheckpointError, match=r"lm\.bin: .*truncated"):
        model.transcribe(samples, sample_rate=RATE)


def test_adding(run_command: Command, directory: Path, lm: Path, tmp_path: Path) -> None:
    check_sums(directory)
    assert (directory / "lm.bin").read_bytes() == lm.read_bytes()
    assert (directory / "lm.bin.json").read_bytes() == (tmp_path / "small.bin.json").read_bytes()
    (tmp_path / "small.bin.json").unlink()
    assert run_command("lm", "add", directory, lm)[0] == 0
    assert not (directory / "lm.bin.json").exists(), "weights of another model are none of its own"
    check_sums(directory)
    arpa = tmp_path / "lm.arpa"
    assert run_command("lm", "train", tmp_path / "text.txt", "--output", arpa)[0] == 0
    code, _, err = run_command("lm", "add", directory, arpa)
    assert code == 1
    assert "lm.arpa: not a packed language model" in err
    (tmp_path / "text.txt").write_text("\u043e\u0434\u0438\u043d\n", encoding="utf-8")
    assert run_command("lm", "train", tmp_path / "text.txt", "--output", lm)[0] == 0
    code, _, err = run_command("lm", "add", directory, lm)
    assert code == 1
    assert "cannot be written by the model" in err
    check_sums(directory)


def test_tuning_writes_into_the_directory(
    run_command: Command, directory: Path, tiny_model: Path, tmp_path: Path, shared_clip: Path
) -> None:
    manifest = tmp_path / "dev.jsonl"
    manifest.write_text(json.dumps({"key": "a", "wav": str(shared_clip), "txt": "AB CD"}) + "\n", encoding="utf-8")
    arguments = ("--decoding", CTC, "--beam-size", 2, "--chunk-size", "full,16")
    code, out, err = run_command("lm", "tune", directory, manifest, *arguments)
    assert code == 0, err
    kept = json.loads((directory / "lm.bin.json").read_bytes())[CTC]
    assert kept["tuned"]["chunk_sizes"] == [None, 16]
    assert kept["tuned"]["words"] == 2 * 2, "of both chunk sizes"
    assert "| WER %: weight, bonus |" in out
    check_sums(directory)
    assert unichoir.load_model(directory)
    code, _, err = run_command("lm", "tune", tiny_model, manifest)
    assert code == 1
    assert "no language model to tune" in err


@pytest.fixture
def shared_clip(tmp_path: Path, samples: np.ndarray) -> Path:
    import soundfile

    soundfile.write(tmp_path / "clip.wav", samples[:RATE], RATE)
    return tmp_path / "clip.wav"


def test_evaluating_with_and_without(run_command: Command, directory: Path, tmp_path: Path, shared_clip: Path) -> None:
    manifest = tmp_path / "dev.jsonl"
    manifest.write_text(json.dumps({"key": "a", "wav": str(shared_clip), "txt": "AB CD"}) + "\n", encoding="utf-8")
    used = {}
    for choice in ("default", "none"):
        output = tmp_path / choice
        code, _, err = run_command(
            "evaluate", directory, manifest, "--decoding", "all", "--lm", choice, "--output", output
        )
        assert code == 0, err
        used[choice] = json.loads((output / "results.json").read_bytes())["language_model"]
    assert used == {"default": str(directory / "lm.bin"), "none": None}


def test_training_says_what_it_keeps(run_command: Command, tmp_path: Path) -> None:
    (tmp_path / "books.txt").write_text("one two three\none two four\n" * 5 + "two five\n", encoding="utf-8")
    (tmp_path / "orders.txt").write_text("six two\n", encoding="utf-8")
    train = ("lm", "train", tmp_path / "books.txt", "--output", tmp_path / "lm.bin", "--order", 2, "--min-count", 2)
    code, _, err = run_command(*train, "--mix", f"0.1:{tmp_path / 'orders.txt'}", "--prune", 1e-3)
    assert code == 0, err
    # five is rare; six is not, for its text is small
    assert "kept: 1-grams: 8" in err
    for wrong, message in {
        "orders.txt": "expected WEIGHT:TEXT",
        "x:orders.txt": "expected WEIGHT:TEXT",
        "0:orders.txt": "expected WEIGHT:TEXT",
        "1:orders.txt": "leave nothing",
    }.items():
        code, _, err = run_command(*train, "--mix", wrong)
        assert code == 2
        assert message in err
