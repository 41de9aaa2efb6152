"""Models of the Hugging Face hub, from a server with its API: downloaded, checked, cached, and used offline."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.bundle.hub_server import COMMIT, Hub
from tests.samples import CLIPS, SMALL_MODEL

from unichoir import api
from unichoir.bundle.hub import fetch_model, find_directory, is_on_hub
from unichoir.bundle.sums import SUMS_FILE, write_sums
from unichoir.errors import UnichoirError

CLIP = CLIPS[0]
BIG_FILE, BIG_SIZE = "large.onnx.data", 32 << 20
"""Weights of which huggingface_hub has written a part when half of them have come: it writes 10 MB at once."""
TEXT = "SIX OH FOUR FIVE NINE ONE TWO"
LOAD = """
import json, sys
import unichoir
from unichoir.errors import UnichoirError
clip, *names = sys.argv[1:]
results = {}
for name in names:
    try:
        results[name] = unichoir.load_model(name, 1).transcribe(clip).text
    except UnichoirError as error:
        results[name] = f"{type(error).__name__}: {error}"
        print(name, repr(error.__cause__), file=sys.stderr)
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make one repository for each case from a small model."""
    root = tmp_path_factory.mktemp("hub")
    for name in ("small", "gated", "private", "tampered", "truncated", "missing", "stray", "uncached", "resumed"):
        shutil.copytree(SMALL_MODEL, root / "org" / name)
    for name in ("final.pt", "pytorch_model.bin", "notes.txt"):
        (root / "org/small" / name).write_text("never to be fetched")
    content = bytearray((root / "org/tampered/encoder.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (root / "org/tampered/encoder.onnx").write_bytes(content)
    (root / "org/truncated/decoder.onnx").write_bytes((root / "org/truncated/decoder.onnx").read_bytes()[:-1000])
    (root / "org/missing/ctc.onnx").unlink()
    lines = (root / "org/stray" / SUMS_FILE).read_text().splitlines(keepends=True)
    (root / "org/stray" / SUMS_FILE).write_text("".join(line for line in lines if "bpe.model" not in line))
    with (root / "org/resumed" / BIG_FILE).open("wb") as file:
        file.truncate(BIG_SIZE)
    write_sums(root / "org/resumed")
    (root / "org/small/more").mkdir()
    for name in ("config.json", "decoder.onnx"):
        (root / "org/small/more" / name).write_text("in a folder, so of no model")
    (root / "org/other").mkdir()
    (root / "org/other/config.json").write_text("{}")
    (root / "org/other/model.safetensors").write_text("of other software")
    return root


@pytest.fixture
def hub(repositories: Path) -> Iterator[Hub]:
    hub = Hub(repositories)
    with hub.running():
        yield hub


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache that all tests in this file share."""
    return tmp_path_factory.mktemp("cache")


def load(hub: Hub, cache: Path, *names: str, cwd: Path | None = None, **environment: str) -> dict[str, Any]:
    """Load models by name in a new process; return the text of the clip, or the error, for each."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(CLIP), *names],
        env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", **environment},
        cwd=cwd or cache,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    print(done.stderr)  # for the report of a failure
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads(done.stdout)
    return results


def test_a_model_is_fetched_checked_and_cached(hub: Hub, cache: Path, tmp_path: Path) -> None:
    assert load(hub, cache, "org/small", "org/small@v1") == dict.fromkeys(("org/small", "org/small@v1"), TEXT)
    snapshot = cache / "hub/models--org--small/snapshots" / COMMIT
    files = {path.name for path in SMALL_MODEL.iterdir()}
    assert {path.name for path in snapshot.iterdir()} == files
    downloads = [line for line in hub.log if line.startswith("GET /org/")]
    assert len(downloads) == len(files), "each file once"
    assert not any(name in line for line in hub.log for name in ("final.pt", "pytorch_model.bin", "notes.txt", "more/"))

    listing = [sys.executable, "-m", "unichoir", "models"]
    environment = {**os.environ, "HF_HOME": str(cache)}
    shown = subprocess.run(listing, env=environment, capture_output=True, text=True, check=True)
    assert re.search(r"^\s*org/small +12\.\d MB\s*$", shown.stdout, re.MULTILINE)

    hub.log.clear()
    assert load(hub, cache, f"org/small@{COMMIT}") == {f"org/small@{COMMIT}": TEXT}
    assert hub.log == [], "a commit never changes"
    (tmp_path / "org").mkdir()
    shutil.copytree(SMALL_MODEL, tmp_path / "org/uncached")
    assert load(hub, cache, "org/uncached", cwd=tmp_path) == {"org/uncached": TEXT}
    assert hub.log == [], "a folder of that name counts first"


def test_a_download_that_breaks_off_goes_on(hub: Hub, cache: Path) -> None:
    hub.interrupted.add(BIG_FILE)
    assert load(hub, cache, "org/resumed") == {"org/resumed": TEXT}
    first, second = (line for line in hub.log if line.startswith("GET") and BIG_FILE in line)
    assert "bytes=" not in first
    assert 0 < int(second.partition("bytes=")[2].rstrip("-")) < BIG_SIZE


def test_what_cannot_be_had_is_refused_with_the_reason(hub: Hub, cache: Path) -> None:
    hub.gated.add("org/gated")
    hub.private.add("org/private")
    expected = {
        "org/none": "it does not exist, or it is private",
        "org/private": "it does not exist, or it is private",
        "org/gated": "access must be granted",
        "org/small@v9": "no revision 'v9'",
        "org/other": "not a model of unichoir: it has no units.txt",
        "org/a--b": "Cannot have",
        "org/tampered": "encoder.onnx: truncated, damaged or changed",
        "org/truncated": "decoder.onnx: truncated, damaged or changed",
        "org/missing": "ctc.onnx: no such file, but SHA256SUMS lists it",
        "org/stray": "bpe.model: not listed in SHA256SUMS",
    }
    results = load(hub, cache, *expected)
    for name, reason in expected.items():
        assert results[name].startswith("CheckpointError: "), results[name]
        assert reason in results[name]
        assert name in results[name] or name.replace("/", "--") in results[name]
    assert not any("model.safetensors" in line for line in hub.log), "what is of other software is not downloaded"


def test_a_disk_that_is_full_is_an_error_of_one_line(hub: Hub, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: writing fails in the same way."""
    limit = (1 << 20, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    limited = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, {limit})\n" + LOAD
    done = subprocess.run(
        [sys.executable, "-c", limited, str(CLIP), "org/uncached"],
        env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "CheckpointError: org/uncached" in done.stdout
    assert "File too large" in done.stdout


def test_what_is_cached_is_used_without_the_hub(hub: Hub, cache: Path) -> None:
    assert load(hub, cache, "org/small", "org/small@v1") == dict.fromkeys(("org/small", "org/small@v1"), TEXT)
    hub.log.clear()
    assert load(hub, cache, "org/small", "org/uncached", HF_HUB_OFFLINE="1") == {
        "org/small": TEXT,
        "org/uncached": "CheckpointError: org/uncached (no such folder or included model, searched on the Hugging "
        "Face hub): the hub cannot be reached, or HF_HUB_OFFLINE is set, and the cache does not hold all of the model",
    }
    assert hub.log == []
    hub.shutdown()
    hub.server_close()
    results = load(hub, cache, "org/small", "org/small@v1", "org/uncached")
    assert results["org/small"] == results["org/small@v1"] == TEXT
    assert "the hub cannot be reached" in results["org/uncached"]


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("org/name", "org/name@main", "a-b.c/d_e.f@refs/pr/1"):
        assert is_on_hub(name)
    for name in (
        "name",
        "/org/name",
        "./name",
        "../name",
        "org/name/more",
        "org/",
        "org/name@",
        "org/n@../x",
        "org/n@a/../../x",
        "~/x",
    ):
        assert not is_on_hub(name)
        assert find_directory(name) == Path(name)
    (tmp_path / "org/name").mkdir(parents=True)
    assert find_directory("org/name") == Path("org/name")
    with pytest.raises(UnichoirError, match="not a name of the Hugging Face hub"):
        fetch_model("name")


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UnichoirError, match=r"org/name: no such folder .* pip install 'unichoir\[hub\]'"):
        api.find_model("org/name")


def test_other_machines_are_told_the_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("unichoir.bundle.hub.fetch_model", lambda name: tmp_path / COMMIT)
    (tmp_path / COMMIT).mkdir()
    assert api.portable_name("org/name@v1") == f"org/name@{COMMIT}"
    assert api.portable_name(api.DEFAULT_MODEL) == api.DEFAULT_MODEL
    monkeypatch.chdir(tmp_path)
    assert api.portable_name(COMMIT) == str(tmp_path / COMMIT)
    assert api.model_name("org/name@v1") == "org/name"
    assert api.model_name(None) == api.DEFAULT_MODEL
    assert api.model_name(COMMIT) == COMMIT
