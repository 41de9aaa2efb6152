"""`unichoir pull`, and commands that pull at first use, as processes with a real server."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.bundle.archive_server import ArchiveServer, make_archive
from tests.bundle.hub_server import Hub
from tests.samples import CLIPS

AISHELL = "aishell_u2pp_conformer_exp.tar.gz"
CLIP = str(CLIPS[0])
pytestmark = pytest.mark.slow
TRANSCRIBE = ("transcribe", "--model", "wenet/aishell", CLIP)
Run = Callable[..., tuple[int, str, str]]

WITHOUT_TORCH = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "yaml", "onnx", "onnxscript", "filelock", "huggingface_hub"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise SystemExit(f"{event} {arguments}")
sys.addaudithook(refuse)
sys.argv = ["unichoir", *sys.argv[1:]]
from unichoir.cli import main
main()
"""

QUICKLY = """
import os, shutil, sys
from unichoir.export import pull
def copied(checkpoint, output, **_):
    ignored = shutil.ignore_patterns("checkpoint", "pulled.json")
    shutil.copytree(os.environ["CONVERTED"], output, ignore=ignored)
    shutil.copyfile(checkpoint / "README.md", output / "README.md")
pull.export_onnx = copied
sys.argv = ["unichoir", *sys.argv[1:]]
from unichoir.cli import main
main()
"""
"""For tests of what comes before and after: the graphs, which take seconds to make, are those of `used`."""


def begin(
    server: ArchiveServer | None, cache: Path, *arguments: str, code: str = "", **more: str
) -> "subprocess.Popen[str]":
    variables = server.variables if server else {}
    command = [sys.executable, *(["-c", code] if code else ["-m", "unichoir"]), *arguments]
    environment = {**os.environ, **variables, "UNICHOIR_CACHE": str(cache), "COLUMNS": "120", **more}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def end(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Wait for the end; return the exit code and what was written."""
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def run(
    server: ArchiveServer | None, cache: Path, *arguments: str, code: str = "", **more: str
) -> tuple[int, str, str]:
    return end(begin(server, cache, *arguments, code=code, **more))


@pytest.fixture
def server(fixtures: Path) -> Iterator[ArchiveServer]:
    server = ArchiveServer()
    server.archives[AISHELL] = make_archive(fixtures / "wenet_moe_tiny")
    with server.running():
        yield server


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory, fixtures: Path) -> tuple[Path, tuple[int, str, str], ArchiveServer]:
    """A cache that the first use of a name has filled, what that said, and the server, which is gone."""
    server, cache = ArchiveServer(), tmp_path_factory.mktemp("used") / "cache"
    server.archives[AISHELL] = make_archive(fixtures / "wenet_moe_tiny")
    server.cuts = [100_000]
    with server.running():
        return cache, run(server, cache, *TRANSCRIBE), server


Used = tuple[Path, tuple[int, str, str], ArchiveServer]


@pytest.fixture
def quickly(used: Used) -> dict[str, str]:
    """What makes `run` quick."""
    return {"code": QUICKLY, "CONVERTED": str(used[0] / "models/wenet/aishell")}


def test_the_first_use_of_a_name_pulls_it(used: Used) -> None:
    cache, (code, out, err), server = used
    assert code == 0, err
    assert out.strip()
    lines = err.splitlines()
    assert lines[0] == f"wenet/aishell: not in the cache ({cache}), so it is pulled now"
    size = len(server.archives[AISHELL])
    assert lines[1] == f"wenet/aishell: downloading {server.url}/listed/{AISHELL} ({size / 1000:.0f} kB)"
    assert "the connection broke off after 100 kB of 554 kB; going on at 100 kB" in lines[2]
    assert [wanted for _, wanted, _ in server.log] == ["", "bytes=100000-"]


def test_the_words_are_those_of_a_direct_conversion(
    used: Used, fixtures: Path, tmp_path: Path, run_command: Run
) -> None:
    assert run_command("import-wenet", fixtures / "wenet_moe_tiny", tmp_path / "checkpoint")[0] == 0
    assert run_command("export", tmp_path / "checkpoint", tmp_path / "model", "--quantize", "int8")[0] == 0
    code, out, _ = run_command("transcribe", "--model", tmp_path / "model", CLIP)
    assert code == 0
    assert out == used[1][1]


def test_a_cached_model_needs_no_network_and_no_torch(used: Used) -> None:
    cache, (_, text, _), _ = used
    assert run(None, cache, *TRANSCRIBE, code=WITHOUT_TORCH) == (0, text, "")


def test_a_cache_can_be_moved_and_can_be_read_only(used: Used, tmp_path: Path) -> None:
    cache, (_, text, _), _ = used
    moved = shutil.copytree(cache, tmp_path / "moved")
    for path in (moved, *moved.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert run(None, moved, *TRANSCRIBE) == (0, text, "")
    for path in (moved, *moved.rglob("*")):
        path.chmod(0o755)
    for path in moved.rglob("*"):
        if path.is_file():
            assert str(cache).encode() not in path.read_bytes(), path


def test_models_lists_what_can_be_pulled(used: Used, tmp_path: Path) -> None:
    code, out, err = run(None, used[0], "models")
    assert (code, err) == (0, "")
    assert re.search(r"^ +wenet/aishell +191 MB +1\.\d MB +zh, AISHELL-1 *$", out, re.MULTILINE)
    assert re.search(r"^ +wenet/gigaspeech +504 MB +- +en, GigaSpeech XL *$", out, re.MULTILINE)
    for stated in ("CC-BY-4.0", "WER % test-clean 3.32 / 3.80, test-other 8.67 / 10.38", "CER % test 4.63 / 5.05"):
        assert stated in out
    assert "wenet/gigaspeech: whole recordings / chunks of 8 encoder frames; decoding mode not stated" in out


def test_upcycling_begins_with_the_checkpoint(quickly: dict[str, str], tmp_path: Path, fixtures: Path) -> None:
    server = ArchiveServer()
    server.archives["librispeech_u2pp_conformer_exp.tar.gz"] = make_archive(fixtures / "wenet_dense")
    with server.running():
        command = ("upcycle", "wenet/librispeech", str(tmp_path / "experts"), "--experts", "4")
        code, _, err = run(server, tmp_path / "cache", *command, **quickly)
    assert code == 0, err
    assert "experts: 4 experts, top 2" in err
    assert (tmp_path / "experts/model.safetensors").exists()
    assert (tmp_path / "cache/models/wenet/librispeech/checkpoint/model.safetensors").exists()


def test_converting_says_which_extra_it_needs(tmp_path: Path) -> None:
    for arguments in (TRANSCRIBE, ("pull", "wenet/aishell")):
        code, out, err = run(None, tmp_path / "cache", *arguments, code=WITHOUT_TORCH)
        assert (code, out) == (1, "")
        assert "needs an extra: pip install 'unichoir[export]' (no " in err.splitlines()[-1]
    assert not (tmp_path / "cache").exists(), "nothing is fetched that cannot be converted"


def test_two_at_once_pull_it_once(server: ArchiveServer, tmp_path: Path, quickly: dict[str, str]) -> None:
    server.held = threading.Event()
    cache = tmp_path / "cache"
    first = begin(server, cache, *TRANSCRIBE, **quickly)
    assert server.reached.wait(120)
    second = begin(server, cache, *TRANSCRIBE, **quickly)
    assert second.stderr is not None
    lines = [second.stderr.readline() for _ in range(2)]
    assert lines[1] == "wenet/aishell: another process is pulling it; waiting for that\n"
    server.held.set()
    code, text, err = end(first)
    assert code == 0, err
    assert end(second) == (0, text, "")
    assert len(server.log) == 1


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_download_goes_on(
    server: ArchiveServer, tmp_path: Path, how: signal.Signals, quickly: dict[str, str]
) -> None:
    server.held = threading.Event()
    cache = tmp_path / "cache"
    stopped = begin(server, cache, "pull", "wenet/aishell", **quickly)
    assert server.reached.wait(120)
    part = cache / "downloads/wenet/aishell/archive"
    assert stopped.stderr is not None
    assert any("25 % of 554 kB" in line for line in iter(stopped.stderr.readline, ""))
    stopped.send_signal(how)
    code, _, err = end(stopped)
    assert code != 0
    assert "Traceback" not in err
    server.held.set()
    server.held = None
    there = part.stat().st_size
    code, out, err = run(server, cache, "pull", "wenet/aishell", **quickly)
    assert (code, out) == (0, "--model wenet/aishell\n"), err
    assert [(wanted, status) for _, wanted, status in server.log] == [("", 200), (f"bytes={there}-", 206)]
    assert not part.exists()
    assert not list((cache / "models/wenet").glob(".*"))


def test_a_repository_in_wenets_layout_is_pulled_first(tmp_path: Path, fixtures: Path, quickly: dict[str, str]) -> None:
    shutil.copytree(fixtures / "wenet_moe_tiny", tmp_path / "hub/org/exp")
    (tmp_path / "hub/org/exp/units.txt").rename(tmp_path / "hub/org/exp/words.txt")
    (tmp_path / "hub/org/exp/optimizer.pt").write_text("of no use here")
    hub = Hub(tmp_path / "hub")
    with hub.running():
        more = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        use = ("transcribe", "--model", "org/exp", CLIP)
        code, _, err = run(None, tmp_path / "cache", *use, **more)
        assert code == 1
        assert "it is a checkpoint of WeNet: convert it once, with `unichoir pull org/exp`" in err
        assert not any("final.pt" in line for line in hub.log), "no pickle is fetched to recognise"
        code, out, err = run(None, tmp_path / "cache", "pull", "org/exp", **more, **quickly)
        assert (code, out) == (0, "--model org/exp\n"), err
        assert not any("optimizer.pt" in line for line in hub.log if line.startswith("GET"))
    code, out, err = run(None, tmp_path / "cache", *use, **more)
    assert (code, err) == (0, "")
    assert out.strip()
    listed = run(None, tmp_path / "cache", "models", **more)[1]
    assert re.search(r"^ +org/exp +1\.\d MB +org/exp@[0-9a-f]{40} *$", listed, re.MULTILINE)
    assert "From the Hugging Face hub, in its cache" not in listed
