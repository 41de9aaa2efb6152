"""The command line from end to end, over a tiny exported model with random weights."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from tests.samples import CLIPS, REFERENCES

from unichoir import api
from unichoir.cli.models import count_parameters
from unichoir.cli.train import apply_overrides
from unichoir.cli.transcribe import plan_outputs
from unichoir.network.asr_model import AsrModel
from unichoir.network.config import NAMED_CONFIGS
from unichoir.search.options import MODES
from unichoir.text.wer import char_errors

RATE = 16000
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(run_command: Run) -> Run:
    """Run the command in this process; return exit code, standard output and standard error."""
    return run_command


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good and bad audio files."""
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(5)
    time = np.arange(RATE) / RATE
    sound = (0.3 * np.sin(2 * np.pi * (200 * time + 900 * time**2)) + 0.01 * rng.standard_normal(RATE)).astype(
        np.float32
    )
    soundfile.write(folder / "good.wav", sound, RATE)
    soundfile.write(folder / "again.flac", sound[::-1], RATE)
    soundfile.write(folder / "low.wav", sound, 8000)
    soundfile.write(folder / "high.wav", sound, 96000)
    soundfile.write(folder / "stereo.ogg", np.stack([sound, sound[::-1]], axis=1), RATE)
    soundfile.write(folder / "short.wav", sound[:800], RATE)
    soundfile.write(folder / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(folder / "samples0.wav", np.zeros(0), RATE)
    soundfile.write(folder / "nan.wav", np.where(np.arange(RATE) == 4000, np.nan, sound), RATE, subtype="FLOAT")
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("this is no audio")
    (folder / "truncated.wav").write_bytes((folder / "good.wav").read_bytes()[:20000])
    (folder / "truncated.flac").write_bytes((folder / "again.flac").read_bytes()[:9000])
    return folder


GOOD = ("good.wav", "again.flac", "low.wav", "high.wav", "stereo.ogg", "short.wav", "silent.wav")
BAD = {
    "samples0.wav": "no samples",
    "nan.wav": "not a finite number (at 0.250 s)",
    "empty.wav": "empty",
    "text.wav": "cannot be decoded",
    "missing.wav": "No such file",
}
CUT = ("truncated.wav", "truncated.flac")


def test_one_file_gives_its_text(run: Run, recordings: Path, tiny_model: Path) -> None:
    code, out, err = run("transcribe", recordings / "good.wav", "--model", tiny_model)
    assert (code, err) == (0, "")
    assert out == api.load_model(tiny_model).transcribe(recordings / "good.wav").text + "\n"
    assert len(out) > 1


@pytest.mark.parametrize("name", GOOD)
def test_json_of_good_files(run: Run, recordings: Path, tiny_model: Path, name: str) -> None:
    code, out, err = run("transcribe", recordings / name, "--model", tiny_model, "--format", "json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    seconds = soundfile.info(recordings / name).duration
    assert found["file"] == str(recordings / name)
    assert found["duration_ms"] == pytest.approx(1000 * seconds, abs=1)
    assert found["text"] == found["nbest"][0]["text"] == " ".join(word["text"] for word in found["words"])
    assert found["nbest"] == sorted(found["nbest"], key=lambda reading: -reading["score"])
    assert name != "short.wav" or found["text"] == ""
    for word in found["words"]:
        assert set(word) == {"text", "start_ms", "end_ms", "confidence"}
        assert 0 <= word["start_ms"] <= word["end_ms"] <= found["duration_ms"]
        assert 0 <= word["confidence"] <= 1


def test_bad_files_are_named_and_the_rest_is_done(run: Run, recordings: Path, tiny_model: Path) -> None:
    names = ["good.wav", *BAD, *CUT, "again.flac"]
    code, out, err = run("transcribe", *(recordings / name for name in names), "--model", tiny_model)
    assert code == 1
    done = [str(recordings / name) for name in ("good.wav", *CUT, "again.flac")]
    assert [line.split(": ")[0] for line in out.splitlines()] == done
    lines = err.splitlines()
    assert len(lines) == len(BAD) + len(CUT)
    for line, (name, message) in zip(lines, BAD.items(), strict=False):
        assert line.startswith(f"error: {recordings / name}: ")
        assert message in line
    for line, name in zip(lines[len(BAD) :], CUT, strict=True):
        assert line.startswith(f"warning: {recordings / name}: truncated: the audio ends at ")


def test_standard_input(run: Run, recordings: Path, tiny_model: Path) -> None:
    content = (recordings / "again.flac").read_bytes()
    expected = run("transcribe", recordings / "again.flac", "--model", tiny_model)
    assert run("transcribe", "-", "--model", tiny_model, stdin=content) == expected
    assert expected[0] == 0
    code, out, err = run("transcribe", "-", "--model", tiny_model)
    assert (code, out) == (1, "")
    assert "empty" in err
    assert run("transcribe", "-", "-", "--model", tiny_model)[0] == 2


def test_options_change_the_search(run: Run, recordings: Path, tiny_model: Path) -> None:
    def score(*options: object) -> float:
        out = run("transcribe", recordings / "good.wav", "--model", tiny_model, "--format", "json", *options)[1]
        return float(json.loads(out)["score"])

    scores = [score("--decoding", mode) for mode in MODES]
    scores += [score("--chunk-size", 2), score("--chunk-size", 2, "--num-left-chunks", 1), score("--ctc-weight", 2)]
    scores += [score("--reverse-weight", 1), score("--beam-size", 1)]
    assert len(set(scores)) >= len(scores) - 1  # one beam may find the same as ten


def test_fewer_experts(run: Run, recordings: Path, tiny_model: Path) -> None:
    """Of two experts a frame has one: another result, as with a model loaded so; three were never trained."""
    arguments = ("transcribe", recordings / "good.wav", "--model", tiny_model, "--format", "json")
    assert run(*arguments, "--top-k", 2) == run(*arguments)
    code, out, _ = run(*arguments, "--top-k", 1)
    assert code == 0
    found = json.loads(out)
    assert found["score"] != json.loads(run(*arguments)[1])["score"]
    assert found["score"] == api.load_model(tiny_model, top_k=1).transcribe(recordings / "good.wav").score
    code, _, err = run(*arguments, "--top-k", 3)
    assert (code, err) == (1, "error: top_k 3: this model supports 1 to 2 experts per frame\n")


@pytest.mark.slow
def test_a_checkpoint_in_int8(run: Run, recordings: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """What it writes is close to what the checkpoint writes."""
    code, _, err = run("export", tiny_checkpoint, tmp_path / "int8", "--quantize", "int8")
    assert code == 0
    assert "encoder: ONNX differs from torch by at most" in err
    code, out, _ = run("transcribe", recordings / "good.wav", "--model", tmp_path / "int8", "--threads", 1)
    assert code == 0
    exact = api.load_model(tiny_checkpoint, num_threads=1).transcribe(recordings / "good.wav").text
    # Random weights find letters in any sound; most must be the same ones.
    assert char_errors(exact, out.strip()).rate < 0.3


@pytest.mark.parametrize(
    "arguments",
    [
        ["--decoding", "best"],
        ["--chunk-size", "-1"],
        ["--beam-size", "0"],
        ["--num-left-chunks", "2"],
        ["--format", "xml"],
        ["--threads", "0"],
        ["--nonesuch"],
    ],
)
def test_usage_errors(run: Run, recordings: Path, tiny_model: Path, arguments: list[str]) -> None:
    code, out, err = run("transcribe", recordings / "good.wav", "--model", tiny_model, *arguments)
    assert (code, out) == (2, "")
    assert "Usage:" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{set}", "--decoding", "attention,best"], 2, "'best' is not one of"),
        (["{set}", "--chunk-size", "full,x"], 2, "'x' is neither"),
        (["{set}", "--num-left-chunks", "1"], 2, "chunk_size"),
        (["{set}", "--expert-load", "--jobs", "2"], 2, "one process"),
        (["{set}", "--expert-load"], 1, "error: expert load: only available for torch checkpoints"),
        (["{set}", "{set}"], 1, "given twice"),
        (["missing.jsonl"], 1, "error: missing.jsonl: No such file"),
    ],
)
def test_evaluate_refuses(
    run: Run, tiny_model: Path, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "set.jsonl").write_text('{"key": "a", "wav": "a.wav", "txt": "A"}', encoding="utf-8")
    arguments = [each.format(set=tmp_path / "set.jsonl") for each in arguments]
    found = run("evaluate", tiny_model, *arguments)
    assert found[:2] == (code, "")
    assert message in found[2]


def test_output_dir(run: Run, recordings: Path, tiny_model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "good.flac").write_bytes((recordings / "again.flac").read_bytes())
    out_dir = tmp_path / "a" / "b"
    files = [recordings / "good.wav", recordings / "nan.wav", other / "good.flac"]
    code, out, err = run("transcribe", *files, "--model", tiny_model, "--format", "json", "--output-dir", out_dir)
    assert (code, out) == (1, "")
    assert "nan.wav" in err
    assert sorted(path.name for path in out_dir.iterdir()) == ["good-2.json", "good.json"]
    assert json.loads((out_dir / "good-2.json").read_text(encoding="utf-8"))["file"] == str(other / "good.flac")
    run("transcribe", recordings / "good.wav", "--model", tiny_model, "--output-dir", out_dir)
    text = run("transcribe", recordings / "good.wav", "--model", tiny_model)[1]
    assert (out_dir / "good.txt").read_text(encoding="utf-8") == text


def test_output_names_never_collide(tmp_path: Path) -> None:
    files = ["a.wav", "x/A.mp3", "a-2.wav", "y/a.wav", "-", "stdin.wav"]
    names = [paths["text"].name for paths in plan_outputs(files, tmp_path, ["text"])]
    assert names == ["a.txt", "A-3.txt", "a-2.txt", "a-4.txt", "stdin.txt", "stdin-2.txt"]
    assert len({name.casefold() for name in names}) == len(files)
    paths = plan_outputs(["b.wav", "b.verbose.wav"], tmp_path, ["json", "verbose_json"])
    assert [path.name for each in paths for path in each.values()] == [
        *("b.json", "b.verbose.json"),
        *("b.verbose-2.json", "b.verbose-2.verbose.json"),
    ]


def test_unusable_models_are_one_line(run: Run, recordings: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_text("{}")
    for model in ("nonesuch", tmp_path, damaged):
        code, out, err = run("transcribe", recordings / "good.wav", "--model", model)
        assert (code, out) == (1, "")
        assert err.startswith("error: ")
        assert str(model) in err
        assert err.count("\n") == 1


def test_output_that_cannot_be_written_is_one_line(
    run: Run, recordings: Path, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    code, _, err = run(
        "transcribe", recordings / "good.wav", "--model", tiny_model, "--output-dir", tmp_path / "file" / "x"
    )
    assert code == 1
    assert err == f"error: {tmp_path / 'file' / 'x'}: Not a directory\n"


def test_a_reader_that_stops_reading_is_no_error(recordings: Path, tiny_model: Path) -> None:
    command = [sys.executable, "-m", "unichoir", "transcribe", *[str(recordings / "good.wav")] * 3]
    process = subprocess.Popen(
        [*command, "--model", str(tiny_model)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=60) == 1


def test_version_and_help(run: Run) -> None:
    assert run("--version")[1].startswith("unichoir ")
    for command in ([], ["transcribe"], ["evaluate"], ["train"], ["export"], ["models"], ["cmvn"], ["tokenizer"]):
        code, out, _ = run(*command, "--help")
        assert code == 0
        assert "Usage:" in out
    assert "unichoir transcribe recording.flac" in run("transcribe", "--help")[1]


def test_models_lists_every_configuration(run: Run) -> None:
    code, out, _ = run("models")
    assert code == 0
    for name in NAMED_CONFIGS:
        assert name in out


def test_parameters_are_those_of_a_real_model() -> None:
    config = NAMED_CONFIGS["moe-tiny"].with_vocab_size(40)
    model = AsrModel(config)
    sizes = count_parameters(config)
    assert sizes.total == sum(parameter.numel() for parameter in model.parameters())
    experts = sum(parameter.numel() for name, parameter in model.named_parameters() if ".experts." in name)
    assert sizes.active == sizes.total - experts // 2  # 2 of 4 experts


def test_tokenizer_and_cmvn(run: Run, recordings: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "set.jsonl"
    texts = {"good.wav": "HELLO WORLD", "again.flac": "HELLO THERE", "nan.wav": "WORLD"}
    lines = [json.dumps({"key": name, "wav": str(recordings / name), "txt": text}) for name, text in texts.items()]
    manifest.write_text("\n".join(lines), encoding="utf-8")
    assert run("tokenizer", "chars", manifest, "--output", tmp_path / "chars")[0] == 0
    units = (tmp_path / "chars" / "units.txt").read_text(encoding="utf-8").split()
    assert set("HELOWRDT") <= set(units)
    assert run("tokenizer", "train-bpe", manifest, "--output", tmp_path / "bpe", "--vocab-size", 16)[0] == 0
    assert (tmp_path / "bpe" / "bpe.model").exists()
    assert len((tmp_path / "bpe" / "units.txt").read_text(encoding="utf-8").splitlines()) == 16
    code, _, err = run("tokenizer", "train-bpe", manifest, "--output", tmp_path / "bpe", "--vocab-size", 5000)
    assert code == 1
    assert err.startswith("error: cannot train BPE")
    code, _, err = run("cmvn", manifest, tmp_path / "new" / "cmvn.json")
    assert code == 0
    assert "nan.wav left out" in err
    statistics = json.loads((tmp_path / "new" / "cmvn.json").read_text(encoding="utf-8"))
    assert statistics["frame_num"] == 2 * 98
    assert len(statistics["mean_stat"]) == 80


def test_overrides() -> None:
    content = {"model": "moe-tiny", "trainer": {"max_steps": 3, "seed": 1}}
    changed = apply_overrides(content, ["trainer.max_steps=5", "model.encoder.num_blocks=1", "cmvn=a=b.json"])
    assert changed == {
        "model": {"name": "moe-tiny", "encoder": {"num_blocks": 1}},
        "trainer": {"max_steps": 5, "seed": 1},
        "cmvn": "a=b.json",
    }
    assert content == {"model": "moe-tiny", "trainer": {"max_steps": 3, "seed": 1}}


def test_from_training_to_text(run: Run, tmp_path: Path) -> None:
    """Vocabulary, two updates, evaluation, transcription: by commands alone."""
    manifest = REFERENCES
    assert run("tokenizer", "chars", manifest, "--output", tmp_path / "chars")[0] == 0
    config = {
        "tokenizer": str(tmp_path / "chars"),
        "model": {
            "encoder": {
                "dim": 32, "num_blocks": 1, "num_heads": 2, "conv_kernel": 7, "subsampling_channels": 4,
                "feed_forward": {"hidden_dim": 16, "num_experts": 2, "top_k": 1},
            },
            "decoder": {"num_blocks": 1, "num_reverse_blocks": 1, "num_heads": 2, "feed_forward": {"hidden_dim": 16}},
        },
        "trainer": {"max_steps": 100, "num_threads": 1},
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    arguments = [
        "train",
        tmp_path / "config.yaml",
        "--train",
        manifest,
        "--dev",
        manifest,
        "--output",
        tmp_path / "exp",
    ]
    code, _, err = run(*arguments, "--set", "trainer.max_steps=2")
    assert code == 0, err
    code, _, err = run(*arguments, "--set", "trainer.nonesuch=2")
    assert code == 1
    assert "unknown key 'nonesuch'" in err
    code, out, err = run("evaluate", tmp_path / "exp" / "average", manifest, "--threads", 1)
    assert code == 0, err
    assert "attention_rescoring" in out
    code, _, err = run("transcribe", CLIPS[0], "--model", tmp_path / "exp" / "average")
    assert code == 0, err
