"""Which modules are imported when, checked in fresh processes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from unichoir.cli import COMMANDS, make_app

REPORT = "\nimport json, sys\nprint(json.dumps(sorted(sys.modules)), file=sys.stderr)"

# As `unichoir` without the training extras.
WITHOUT_TORCH = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "safetensors", "yaml", "sentencepiece", "onnx", "onnxscript"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
sys.argv = ["unichoir", *sys.argv[1:]]
from unichoir.cli import main
main()
"""


def modules_after(code: str, *arguments: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", code + REPORT, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_import_unichoir_is_light() -> None:
    assert not modules_after("import unichoir") & {"torch", "onnxruntime", "numpy", "typer", "rich"}


def test_help_is_light() -> None:
    code = (
        "import sys\nsys.argv = ['unichoir', '--help']\nfrom unichoir.cli import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code"
    )
    assert not modules_after(code) & {"torch", "onnxruntime", "numpy", "soundfile"}


def test_transcribing_needs_no_torch(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 16000), 16000)
    code = (
        "import sys\nsys.argv = ['unichoir', 'transcribe', *sys.argv[1:]]\nfrom unichoir.cli import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code"
    )
    found = modules_after(code, str(path), "--model", str(tiny_model))
    assert "onnxruntime" in found
    assert not found & {"torch", "onnx", "safetensors", "yaml", "sentencepiece"}
    assert not found & {"ssl", "tarfile"}, "only pulling a model needs a client for the web and archives"
    assert not found & {"rich", "numpy.ma"}, "nobody sees a progress bar, and nothing has masked arrays"
    assert {name for name in found if re.fullmatch(r"unichoir\.cli\.[a-z]\w+", name)} == {"unichoir.cli.transcribe"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_alone_has_the_help_that_it_has_among_all(name: str) -> None:
    one, every = (CliRunner().invoke(app, [name, "--help"]) for app in (make_app([name]), make_app()))
    assert one.exit_code == every.exit_code == 0
    assert one.output == every.output
    assert "Usage:" in one.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "config.yaml", "--train", "a", "--dev", "b", "--output", "c"],
        ["export", "checkpoint", "model"],
        ["transcribe", "a.wav", "--model", "{checkpoint}"],
        ["evaluate", "{checkpoint}", "{manifest}"],
    ],
)
def test_commands_say_which_extras_they_need(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    manifest = tmp_path / "set.jsonl"
    manifest.write_text('{"key": "a", "wav": "a.wav", "txt": "A"}\n', encoding="utf-8")
    arguments = [each.format(checkpoint=tmp_path, manifest=manifest) for each in arguments]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "needs an extra: pip install 'unichoir[train]'" in line


def test_models_are_listed_without_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "models"], capture_output=True, text=True, check=True, timeout=60
    )
    assert "moe-1b" in done.stdout
    assert "unichoir[train]" in done.stderr
