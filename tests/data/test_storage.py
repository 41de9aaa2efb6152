import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import fsspec
import pytest
from tests.data.conftest import upload

from unichoir.data import storage
from unichoir.data.storage import exists, is_url, join, open_binary, parent, read_bytes, suffix
from unichoir.errors import UnichoirError

CONTENT = bytes(range(256)) * 40


@pytest.mark.parametrize(
    ("location", "url", "folder", "ending"),
    [
        ("a/b.tar", False, "a", ".tar"),
        ("/a/b", False, "/a", ""),
        ("C:/a/b.JSONL", False, "C:/a", ".jsonl"),
        ("s3://bucket/a/b.tar", True, "s3://bucket/a", ".tar"),
        ("s3://bucket/b#1?.tar", True, "s3://bucket/", ".tar"),
        ("https://host/a/list.jsonl?token=x/y.z", True, "https://host/a", ".jsonl"),
        ("https://host", True, "https://host", ""),
    ],
)
def test_parts_of_locations(location, url, folder, ending):
    assert (is_url(location), parent(location), suffix(location)) == (url, folder, ending)


@pytest.mark.parametrize(
    ("folder", "relative", "joined"),
    [
        ("a", "b.tar", "a/b.tar"),
        ("a", "/b.tar", "/b.tar"),
        ("a", "s3://x/b.tar", "s3://x/b.tar"),
        ("s3://bucket/a", "b c#1.tar", "s3://bucket/a/b c#1.tar"),
        ("s3://bucket/a", "../b.tar", "s3://bucket/b.tar"),
        ("s3://bucket", "b.tar", "s3://bucket/b.tar"),
        ("s3://bucket/a", "/data/b.tar", "/data/b.tar"),
        ("https://host/a/", "b c#1.tar", "https://host/a/b%20c%231.tar"),
        ("https://host", "./b.tar", "https://host/b.tar"),
    ],
)
def test_paths_are_relative_to_a_folder(folder, relative, joined):
    assert join(folder, relative) == joined


def test_local_files(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    assert read_bytes(str(path)) == CONTENT
    assert read_bytes(str(path), 100, 57) == CONTENT[100:157]
    with pytest.raises(OSError, match="truncated: 60 bytes are missing"):
        read_bytes(str(path), len(CONTENT) - 40, 100)
    with pytest.raises(FileNotFoundError):
        read_bytes(str(tmp_path / "none"))
    assert (exists(str(path)), exists(str(tmp_path / "none"))) == (True, False)
    with open_binary(str(path)) as file:
        assert file.read() == CONTENT


def test_a_web_server_sends_the_bytes_asked_for_and_no_others(web):
    (web.folder / "file").write_bytes(CONTENT)
    url = f"{web.url}/file"
    assert read_bytes(url, 100, 57) == CONTENT[100:157]
    assert read_bytes(url, 0, len(CONTENT)) == CONTENT
    assert read_bytes(url, 5, 0) == b""
    assert read_bytes(url) == CONTENT
    assert web.requests == [
        ("/file", "bytes=100-156", 57),
        ("/file", f"bytes=0-{len(CONTENT) - 1}", len(CONTENT)),
        ("/file", "", len(CONTENT)),
    ]


def test_what_a_web_server_lacks(web):
    (web.folder / "file").write_bytes(CONTENT)
    assert (exists(f"{web.url}/file"), exists(f"{web.url}/none")) == (True, False)
    with pytest.raises(FileNotFoundError, match="No such file") as caught:
        read_bytes(f"{web.url}/none", 0, 10)
    assert caught.value.filename == f"{web.url}/none"
    with pytest.raises(OSError, match="truncated: 60 bytes are missing"):
        read_bytes(f"{web.url}/file", len(CONTENT) - 40, 100)
    with pytest.raises(OSError, match="truncated: 10 bytes are missing"):
        read_bytes(f"{web.url}/file", len(CONTENT) + 5, 10)
    web.knows_ranges = False
    with pytest.raises(OSError, match="does not support byte ranges"):
        read_bytes(f"{web.url}/file", 0, 10)


def test_failures_that_may_pass_are_tried_again(web):
    (web.folder / "file").write_bytes(CONTENT)
    web.failures = [503, 0, 429]
    assert read_bytes(f"{web.url}/file", 1000, 2000) == CONTENT[1000:3000]
    assert len(web.requests) == 4
    web.failures = [500] * storage.ATTEMPTS
    with pytest.raises(OSError, match="the server answers 500") as caught:
        read_bytes(f"{web.url}/file")
    assert caught.value.filename == f"{web.url}/file"
    assert not web.failures


def test_failures_that_stay_are_not_tried_again(web):
    web.failures = [403, 403]
    with pytest.raises(OSError, match="the server answers 403"):
        read_bytes(f"{web.url}/file")
    with pytest.raises(OSError, match="the server answers 403"):
        exists(f"{web.url}/file")
    assert len(web.requests) == 2


def test_no_server(web, tmp_path):
    from http.server import HTTPServer, SimpleHTTPRequestHandler

    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        port = server.server_port
    with pytest.raises(OSError, match=str(port)) as caught:
        read_bytes(f"http://127.0.0.1:{port}/file")
    assert caught.value.filename == f"http://127.0.0.1:{port}/file"
    with pytest.raises(OSError, match="Protocol not known: nothing"):
        read_bytes("nothing://host/file")


def test_a_url_is_read_from_front_to_back_in_blocks(web, monkeypatch):
    monkeypatch.setattr(storage, "BLOCK_BYTES", 4096)
    (web.folder / "file").write_bytes(CONTENT)
    with open_binary(f"{web.url}/file") as file:
        pieces = iter(lambda: file.read(100), b"")
        assert b"".join(pieces) == CONTENT
        assert [sent for _, _, sent in web.requests if sent] == [4096, 4096, 2048]
        file.seek(7000)
        assert (file.read(3), file.tell()) == (CONTENT[7000:7003], 7003)


def test_an_object_store(object_store, tmp_path):
    (tmp_path / "a b#1").write_bytes(CONTENT)
    upload(tmp_path, f"{object_store}/storage")
    url = f"{object_store}/storage/a b#1"
    assert read_bytes(url) == CONTENT
    assert read_bytes(url, 100, 57) == CONTENT[100:157]
    assert (exists(url), exists(f"{object_store}/storage/none")) == (True, False)
    with pytest.raises(OSError, match="truncated: 10 bytes are missing"):
        read_bytes(url, len(CONTENT) + 5, 10)
    with pytest.raises(OSError, match="truncated: 60 bytes are missing"):
        read_bytes(url, len(CONTENT) - 40, 100)
    with pytest.raises(FileNotFoundError) as caught:
        read_bytes("s3://no-such-bucket/file")
    assert caught.value.filename == "s3://no-such-bucket/file"


def test_an_object_store_that_is_overloaded(web, monkeypatch):
    # To a client a bucket is a folder on a web server.
    options = {"endpoint_url": web.url, "key": "test", "secret": "test"}
    monkeypatch.setitem(fsspec.config.conf, "s3", options)
    (web.folder / "bucket").mkdir()
    (web.folder / "bucket/file").write_bytes(CONTENT)
    web.failures = [503, 0, 500]
    assert read_bytes("s3://bucket/file", 100, 57) == CONTENT[100:157]
    assert web.requests[-1] == ("/bucket/file", "bytes=100-156", 57)
    assert len(web.requests) == 4


def test_spawned_processes_read_urls(web):
    (web.folder / "file").write_bytes(CONTENT)
    assert read_bytes(f"{web.url}/file", 0, 5) == CONTENT[:5]
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert pool.submit(read_bytes, f"{web.url}/file", 100, 57).result() == CONTENT[100:157]


FORKED = """
import os, sys
from unichoir.data.storage import read_bytes
first = read_bytes(sys.argv[1], 0, 5)
child = os.fork()
if child == 0:
    os._exit(0 if read_bytes(sys.argv[1], 0, 5) == first else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_forked_processes_read_urls(web):
    (web.folder / "file").write_bytes(CONTENT)
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED, f"{web.url}/file"], check=True, timeout=60)
    assert len(web.requests) == 2


@pytest.mark.parametrize(
    ("missing", "url", "extra"),
    [
        ("fsspec", "https://host/file", "train"),
        ("aiohttp", "https://host/file", "train"),
        ("fsspec", "s3://bucket/file", "train"),
        ("s3fs", "s3://bucket/file", "s3"),
    ],
)
def test_a_missing_extra_is_named(missing, url, extra):
    program = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from unichoir.data.storage import read_bytes\n"
        "from unichoir.errors import UnichoirError\n"
        f"try: read_bytes({url!r}, 0, 1)\n"
        "except UnichoirError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    hint = f"pip install 'unichoir[{extra}]' (no {missing})"
    assert done.stdout.strip() == f"{url}: reading it needs an extra: {hint}"


def test_other_missing_packages_are_named_in_the_words_of_fsspec(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UnichoirError, match=r"gs://bucket/file: .*gcsfs"):
        read_bytes("gs://bucket/file")
