"""A full disk: one line names the file, existing files are kept, and the command succeeds once there is room."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.test_shard import make_manifest
from tests.corpora import layouts

from unichoir.data.manifest import read_manifest

Run = Callable[..., tuple[int, str, str]]
Limit = Callable[[int], None]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run_without_room(run_command: Run, limit_files: Limit, size: int, file: Path, *arguments: object) -> None:
    """Run the command while no file can exceed `size` bytes: it must fail and name `file` in its only line."""
    limit_files(size)
    code, out, err = run_command(*arguments)
    limit_files(-1)
    assert (code, out) == (1, "")
    # NumPy does not say why a write has failed; it is taken for a full disk.
    assert re.fullmatch(rf"error: {re.escape(str(file))}: (File too large|No space left on device)\n", err), err


def test_export(run_command: Run, limit_files: Limit, tmp_path: Path, tiny_checkpoint: Path, tiny_model: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(tiny_model, out)
    before = contents(out)
    run_without_room(run_command, limit_files, 20_000, out / "encoder.onnx", "export", tiny_checkpoint, out)
    assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_import_from_wenet(run_command: Run, limit_files: Limit, tmp_path: Path, fixtures: Path) -> None:
    out = tmp_path / "out"
    source = fixtures / "wenet_moe_tiny"
    run_without_room(run_command, limit_files, 20_000, out / "model.safetensors", "import-wenet", source, out)
    assert not list(tmp_path.iterdir())


def test_shards(run_command: Run, limit_files: Limit, tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path, "list", "abcd")
    command = ["shard", manifest, "--codec", "keep", "--no-shuffle", "--utterances", 2]
    assert run_command(*command, tmp_path / "whole")[0] == 0
    out = tmp_path / "out"
    size = (tmp_path / "whole" / "000000.tar").stat().st_size
    assert size < (tmp_path / "whole" / "000001.tar").stat().st_size
    run_without_room(run_command, limit_files, size, out / "000001.tar", *command, out)
    assert sorted(path.name for path in out.iterdir()) == ["000000.jsonl", "000000.tar", "journal.jsonl", "plan.json"]
    code, _, err = run_command(*command, out)
    assert code == 0
    assert "2 shards (1 of them from before)" in err
    assert contents(out) == contents(tmp_path / "whole")


def test_manifests(run_command: Run, limit_files: Limit, tmp_path: Path) -> None:
    layout = layouts.librispeech(tmp_path / "corpus")
    out = tmp_path / "out"
    command = ["prepare", layout.name, layout.folder, *layout.options, "--output", out]
    split = "train-clean-100"
    run_without_room(run_command, limit_files, 0, out / f"{split}.jsonl", *command)
    assert not list(out.rglob("*.jsonl"))
    assert run_command(*command)[0] == 0
    assert len(list(read_manifest(out / f"{split}.jsonl"))) == len(layout.splits[split])


def test_a_vocabulary(run_command: Run, limit_files: Limit, tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path, "list", "abcd")
    out = tmp_path / "tokenizer"
    command = ["tokenizer", "chars", manifest, "--output", out]
    assert run_command(*command)[0] == 0
    before = contents(out)
    run_without_room(run_command, limit_files, 10, out / "units.txt", *command)
    assert contents(out) == before


@pytest.mark.parametrize("size", [0, 100])
def test_results(run_command: Run, limit_files: Limit, tmp_path: Path, tiny_model: Path, size: int) -> None:
    manifest = make_manifest(tmp_path, "list", "ab")
    results = tmp_path / "results"
    command = ["evaluate", tiny_model, manifest, "--output", results]
    limit_files(size)
    code, _, err = run_command(*command)
    limit_files(-1)
    assert code == 1
    assert err.endswith(f"error: {results / 'results.json'}: File too large\n")
    assert not list(results.iterdir())
