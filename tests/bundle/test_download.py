"""Downloads from a real server that breaks off, changes its files, and says what isn't true."""

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.bundle.archive_server import ArchiveServer

from unichoir.bundle.download import ATTEMPTS, discard, download, shown
from unichoir.bundle.sources import archive_sources
from unichoir.errors import DownloadError

NAME = "model.tar.gz"
PATH = f"/listed/{NAME}"
CONTENT = random.Random(1).randbytes(1_000_000)


@pytest.fixture
def target(server: ArchiveServer, tmp_path: Path) -> Path:
    server.archives[NAME] = CONTENT
    return tmp_path / "archive"


def fetch(server: ArchiveServer, target: Path, size: int | None = None) -> None:
    download(server.url + PATH, target, name="the model", size=size)


def ranges(server: ArchiveServer) -> list[tuple[str, int]]:
    return [(wanted, status) for _, wanted, status in server.log]


def test_a_whole_file_with_its_progress(
    server: ArchiveServer, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch(server, target, len(CONTENT))
    assert target.read_bytes() == CONTENT
    assert ranges(server) == [("", 200)]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"the model: downloading {server.url}{PATH} (1.0 MB)"
    assert [line.partition(": ")[2] for line in lines[1:]] == [f"{n} % of 1.0 MB" for n in (25, 50, 75, 100)]


def test_a_connection_that_breaks_off_goes_on(
    server: ArchiveServer, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.cuts = [300_000, 400_000]
    fetch(server, target)
    assert target.read_bytes() == CONTENT
    assert ranges(server) == [("", 200), ("bytes=300000-", 206), ("bytes=700000-", 206)]
    assert "the connection broke off after 300 kB of 1.0 MB; going on at 300 kB" in capsys.readouterr().err


def test_the_next_call_goes_on(server: ArchiveServer, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.cuts = [300_000, *[0] * ATTEMPTS]
    with pytest.raises(DownloadError, match=r"broke off after 300 kB of 1.0 MB; 300 kB are kept") as error:
        fetch(server, target)
    assert server.url + PATH in str(error.value)
    server.cuts.clear()
    server.log.clear()
    fetch(server, target)
    assert target.read_bytes() == CONTENT
    assert ranges(server) == [("bytes=300000-", 206)]
    assert "(1.0 MB, of which 300 kB are here already)" in capsys.readouterr().err


def test_a_server_without_ranges_starts_over(server: ArchiveServer, target: Path) -> None:
    server.ranges, server.cuts = False, [300_000]
    fetch(server, target)
    assert target.read_bytes() == CONTENT
    assert ranges(server) == [("", 200), ("bytes=300000-", 200)]


def test_a_file_without_a_tag_starts_over(server: ArchiveServer, target: Path) -> None:
    server.etags, server.cuts = False, [300_000]
    fetch(server, target)
    assert target.read_bytes() == CONTENT
    assert ranges(server) == [("", 200), ("", 200)]


def test_parts_of_two_versions_are_never_joined(
    server: ArchiveServer, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.cuts = [300_000, *[0] * ATTEMPTS]
    with pytest.raises(DownloadError):
        fetch(server, target)
    server.cuts.clear()
    server.archives[NAME] = CONTENT[::-1]
    fetch(server, target)
    assert target.read_bytes() == CONTENT[::-1]
    assert ranges(server)[-1] == ("bytes=300000-", 200)


def test_a_part_from_another_place_is_not_used(server: ArchiveServer, target: Path) -> None:
    server.shift, server.cuts = 7, [300_000]
    fetch(server, target)
    assert target.read_bytes() == CONTENT
    assert ranges(server) == [("", 200), ("bytes=300000-", 206), ("", 200)]


def test_a_bar_on_a_terminal() -> None:
    main, terminal = os.openpty()
    code = """
from unichoir.bundle.messages import showing
with showing("the model", 0, 2_000_000) as show:
    show(1_000_000)
"""
    environment = {**os.environ, "COLUMNS": "100", "TERM": "xterm"}
    subprocess.run([sys.executable, "-c", code], stderr=terminal, stdout=subprocess.PIPE, env=environment, check=True)
    os.close(terminal)
    shown = os.read(main, 1 << 16).decode()
    os.close(main)
    assert "the model" in shown
    assert "1.0/2.0 MB" in shown


def test_a_complete_file_is_not_sent_again(server: ArchiveServer, target: Path) -> None:
    fetch(server, target)
    fetch(server, target, len(CONTENT))
    assert target.read_bytes() == CONTENT
    assert ranges(server) == [("", 200), (f"bytes={len(CONTENT)}-", 416)]
    discard(target)
    assert list(target.parent.iterdir()) == []


def test_failures_that_may_pass_are_tried_again(server: ArchiveServer, target: Path) -> None:
    server.statuses = [503, 429]
    fetch(server, target)
    assert target.read_bytes() == CONTENT
    server.statuses = [503] * ATTEMPTS
    discard(target)
    with pytest.raises(DownloadError, match="the server answers 503 Service Unavailable"):
        fetch(server, target)
    assert len(server.log) == 3 + ATTEMPTS


def test_what_is_missing_is_asked_for_once(server: ArchiveServer, target: Path) -> None:
    server.missing.add(PATH)
    with pytest.raises(DownloadError, match=rf"{PATH}: the server answers 404 Not Found"):
        fetch(server, target)
    server.missing.clear()
    server.statuses = [403]
    with pytest.raises(DownloadError, match="403 Forbidden"):
        fetch(server, target)
    assert len(server.log) == 1
    assert not target.exists()


def test_another_size_than_listed_is_refused_before_it_is_fetched(server: ArchiveServer, target: Path) -> None:
    with pytest.raises(DownloadError, match=r"the server offers 1000000 bytes, the list says 999999"):
        fetch(server, target, len(CONTENT) - 1)
    assert not target.exists()


def test_a_web_page_is_not_an_archive(server: ArchiveServer, target: Path) -> None:
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(DownloadError, match=r"sends a web page \(text/html\), not an archive"):
        fetch(server, target)
    assert not target.exists()


def test_redirects_lead_to_web_servers_only(server: ArchiveServer, target: Path) -> None:
    server.redirects["/old"] = f"{server.url}{PATH}"
    download(f"{server.url}/old", target, name="the model")
    assert target.read_bytes() == CONTENT
    server.redirects["/old"] = "ftp://127.0.0.1/file"
    with pytest.raises(DownloadError, match=r"leads to ftp://127\.0\.0\.1/file"):
        download(f"{server.url}/old", target, name="the model")
    for url in ("file:///etc/hostname", "data:,text", "model.tar.gz", "http://127.0.0.1:x/"):
        with pytest.raises(DownloadError):
            download(url, target, name="the model")


def test_nobody_answers(target: Path) -> None:
    with pytest.raises(DownloadError, match=r"http://127\.0\.0\.1:1/x: Connection refused"):
        download("http://127.0.0.1:1/x", target, name="the model")


def test_a_full_disk_names_the_file_and_keeps_the_part(
    server: ArchiveServer, target: Path, limit_files: Callable[[int], None]
) -> None:
    limit_files(600_000)
    with pytest.raises(OSError, match="File too large") as error:
        fetch(server, target)
    limit_files(-1)
    assert error.value.filename == str(target)
    begin = target.stat().st_size
    fetch(server, target)
    assert target.read_bytes() == CONTENT
    assert ranges(server)[-1] == (f"bytes={begin}-", 206)
    assert begin > 0


def test_secrets_are_not_shown() -> None:
    assert shown("https://me:secret@host/a.tgz?Expires=1&Signature=abc") == "https://host/a.tgz?..."
    assert shown("https://wenet.org.cn/downloads?models=wenet&version=a.tar.gz").endswith(
        "?models=wenet&version=a.tar.gz"
    )


def test_where_an_archive_is(server: ArchiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.archives[NAME] = CONTENT
    sources, problem = archive_sources(NAME)
    assert [each.url for each in sources] == [server.url + PATH, f"{server.url}/get?version={NAME}"]
    assert [each.size for each in sources] == [len(CONTENT)] * 2
    assert problem == ""
    for content, reason in (
        (b'{"Data": []}', f"does not list {NAME}"),
        (b'{"Data": {}}', "not a list of archives"),
        (b'{"Data": [{"Key": "model.tar.gz"}]}', "has no 'Url'"),
        (b"<html>", "not JSON"),
        (b"[" * (1 << 22), "not JSON"),
        (b" " * (1 << 23), "not a list"),
    ):
        server.list = content
        sources, problem = archive_sources(NAME)
        assert [each.url for each in sources] == [f"{server.url}/get?version={NAME}"]
        assert reason in problem
        assert f"{server.url}/list" in problem
    server.missing.add("/list")
    assert "404" in archive_sources(NAME)[1]
    monkeypatch.setenv("UNICHOIR_WENET_ARCHIVES", "")
    with pytest.raises(DownloadError, match="404"):
        archive_sources(NAME)
    monkeypatch.setenv("UNICHOIR_WENET_LIST", "")
    with pytest.raises(DownloadError, match="both empty"):
        archive_sources(NAME)
