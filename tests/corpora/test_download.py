"""`unichoir prepare --download` from a local server with the files of the corpora's hosts."""

import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.corpora import layouts

from unichoir.data.manifest import read_manifest

pytest.importorskip("lhotse")

Run = Callable[..., tuple[int, str, str]]


class Mirror:
    """A server of files by path; `requests` are (path, first requested byte)."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, int]] = []
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = mirror.files.get(self.path.lstrip("/"))
                first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
                mirror.requests.append((self.path.lstrip("/"), first))
                if content is None:
                    self.send_error(404)
                elif first >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                else:
                    self.send_response(206)
                    self.send_header("Content-Length", str(len(content) - first))
                    self.end_headers()
                    self.wfile.write(content[first:])

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/corpora/"

    def add(self, name: str, folder: Path, *members: str) -> bytes:
        """Add a gzipped tar of members of a folder."""
        archive = folder.parent / Path(name).name
        with tarfile.open(archive, "w:gz") as tar:
            for member in members:
                tar.add(folder / member, arcname=member)
        content = archive.read_bytes()
        archive.unlink()
        self.files[f"corpora/{name}"] = content
        return content


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    served = Mirror()
    thread = threading.Thread(target=served.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield served
    served.server.shutdown()
    served.server.server_close()
    thread.join()


def test_librispeech_split_by_split(tmp_path: Path, mirror: Mirror, run_command: Run) -> None:
    layout = layouts.librispeech(tmp_path / "made")
    for split in ("dev-clean", "test-clean"):
        mirror.add(f"12/{split}.tar.gz", tmp_path / "made", f"LibriSpeech/{split}")
    arguments = ("prepare", "librispeech", tmp_path / "got", "--download", "--mirror", mirror.url)
    wanted = ("--split", "dev-clean", "--split", "test-clean")
    code, out, err = run_command(*arguments, *wanted)
    assert (code, out) == (0, ""), err
    assert [path for path, _ in mirror.requests] == ["corpora/12/dev-clean.tar.gz", "corpora/12/test-clean.tar.gz"]
    for split in ("dev-clean", "test-clean"):
        found = read_manifest(tmp_path / "got" / "LibriSpeech" / f"{split}.jsonl")
        assert [one.key for one in found] == [one.key for one in layout.splits[split]]
    assert run_command(*arguments, *wanted)[0] == 0
    assert len(mirror.requests) == 2  # what is complete is not fetched again


def test_a_download_that_was_stopped_goes_on(tmp_path: Path, mirror: Mirror, run_command: Run) -> None:
    layout = layouts.thchs30(tmp_path / "made")
    content = mirror.add("18/data_thchs30.tgz", tmp_path / "made", "data_thchs30")
    (tmp_path / "got").mkdir()
    (tmp_path / "got" / "data_thchs30.tgz").write_bytes(content[:1000])
    code, _, err = run_command("prepare", "thchs30", tmp_path / "got", "--download", "--mirror", mirror.url)
    assert code == 0, err
    assert mirror.requests == [("corpora/18/data_thchs30.tgz", 1000)]
    for split, spoken in layout.splits.items():
        assert [one.key for one in read_manifest(tmp_path / f"got/thchs/{split}.jsonl")] == [one.key for one in spoken]


def test_aishell_is_an_archive_of_archives(tmp_path: Path, mirror: Mirror, run_command: Run) -> None:
    layout = layouts.aishell(tmp_path / "made")
    wav = tmp_path / "made" / "data_aishell" / "wav"
    speakers = sorted(wav.glob("*/*"))
    for speaker in speakers:
        with tarfile.open(wav / f"{speaker.name}.tar.gz", "w:gz") as tar:
            tar.add(speaker, arcname=f"{speaker.parent.name}/{speaker.name}")
    published = ["data_aishell/transcript", *(f"data_aishell/wav/{speaker.name}.tar.gz" for speaker in speakers)]
    mirror.add("33/data_aishell.tgz", tmp_path / "made", *published)
    layouts.write(tmp_path / "made" / "resource_aishell" / "speaker.info", "0002 F")
    mirror.add("33/resource_aishell.tgz", tmp_path / "made", "resource_aishell")
    code, _, err = run_command("prepare", "aishell", tmp_path / "got", "--download", "--mirror", mirror.url)
    assert code == 0, err
    for split, spoken in layout.splits.items():
        found = read_manifest(tmp_path / "got" / "aishell" / f"{split}.jsonl")
        assert sorted(one.key for one in found) == sorted(one.key for one in spoken)


def test_an4(tmp_path: Path, mirror: Mirror, run_command: Run) -> None:
    layouts.an4(tmp_path / "made" / "an4")
    mirror.add("an4_sphere.tar.gz", tmp_path / "made", "an4")
    arguments = ("prepare", "an4", tmp_path / "got", "--download", "--mirror", mirror.url)
    assert run_command(*arguments)[0] == 0
    assert len(read_manifest(tmp_path / "got/an4/dev.jsonl")) == 100
    assert run_command(*arguments)[0] == 0
    assert len(mirror.requests) == 1


@pytest.mark.parametrize("name", ["librispeech", "aishell", "thchs30", "an4"])
def test_a_host_without_the_corpus_is_named(name: str, tmp_path: Path, mirror: Mirror, run_command: Run) -> None:
    code, _, err = run_command("prepare", name, tmp_path / "got", "--download", "--mirror", mirror.url)
    assert code == 1
    assert "404" in err
    assert mirror.url.rstrip("/") in err


def test_a_damaged_archive_is_an_error(tmp_path: Path, mirror: Mirror, run_command: Run) -> None:
    mirror.files["corpora/an4_sphere.tar.gz"] = b"<html>sorry</html>"
    code, _, err = run_command("prepare", "an4", tmp_path / "got", "--download", "--mirror", mirror.url)
    assert code == 1
    assert "an4_sphere.tar.gz failed" in err


@pytest.mark.parametrize(
    ("name", "options", "host"),
    [
        ("aishell2", (), "aishelltech.com"),
        ("wenetspeech", (), "wenet.org.cn"),
        ("gigaspeech", (), "SpeechColab/GigaSpeech"),
        ("commonvoice", ("--language", "de"), "datacollective.mozillafoundation.org"),
    ],
)
def test_where_those_are_that_must_be_asked_for(
    name: str, options: tuple[str, ...], host: str, tmp_path: Path, run_command: Run
) -> None:
    code, _, err = run_command("prepare", name, tmp_path, "--download", *options)
    assert code == 1
    assert "cannot be downloaded automatically" in err
    assert host in err
