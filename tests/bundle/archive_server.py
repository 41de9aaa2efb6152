"""A server with WeNet's list of archives and the archives themselves, which misbehaves on demand."""

import hashlib
import io
import json
import re
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class ArchiveServer(ThreadingHTTPServer):
    """`/list` is the list, `/listed/NAME` and `/get?version=NAME` serve `archives[NAME]`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.archives: dict[str, bytes] = {}
        self.list: bytes | None = None
        """What is sent instead of the list."""
        self.unlisted: set[str] = set()
        self.sizes: dict[str, int] = {}
        """Sizes in the list that aren't true."""
        self.missing: set[str] = set()
        """Paths that don't exist."""
        self.statuses: list[int] = []
        """What the next requests for archives get."""
        self.cuts: list[int] = []
        """After so many bytes, the connection of the next requests for archives closes."""
        self.ranges = True
        self.etags = True
        self.shift = 0
        """How many bytes behind the requested one a range begins."""
        self.kind = "application/gzip"
        self.redirects: dict[str, str] = {}
        self.held: threading.Event | None = None
        """Half of an archive is sent before this is set; `reached` says that it was."""
        self.reached = threading.Event()
        self.log: list[tuple[str, str, int]] = []
        """Requests for archives: path, range, status."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def variables(self) -> dict[str, str]:
        """The environment of a process that pulls from here."""
        return {
            "UNICHOIR_WENET_LIST": f"{self.url}/list",
            "UNICHOIR_WENET_ARCHIVES": f"{self.url}/get?version=",
            "no_proxy": "127.0.0.1",
        }

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients go away in tests, which is no news."""

    @contextmanager
    def running(self) -> Iterator["ArchiveServer"]:
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            if self.held is not None:
                self.held.set()
            self.shutdown()
            self.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: ArchiveServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        if self.path in server.redirects:
            self.reply(302, b"", {"Location": server.redirects[self.path]})
        elif self.path in server.missing:
            self.reply(404, b"")
        elif self.path == "/list":
            entries = [
                {"Key": name, "Size": server.sizes.get(name, len(content)), "Url": f"{server.url}/listed/{name}"}
                for name, content in server.archives.items()
                if name not in server.unlisted
            ]
            self.reply(200, json.dumps({"Code": 200, "Data": entries}).encode() if server.list is None else server.list)
        elif match := re.fullmatch(r"/(?:listed/|get\?version=)(.+)", self.path):
            self.archive(match[1])
        else:
            self.reply(404, b"")

    def archive(self, name: str) -> None:
        server, wanted = self.server, self.headers.get("Range", "")
        content = server.archives.get(name)
        tag = f'"{hashlib.md5(content).hexdigest()}"' if content is not None and server.etags else ""
        headers = {"Content-Type": server.kind, **({"ETag": tag} if tag else {})}
        status, begin = 200, 0
        if server.statuses:
            status, content = server.statuses.pop(0), b""
        elif content is None:
            status, content = 404, b""
        elif wanted and server.ranges and self.headers.get("If-Range", tag) == tag:
            begin = int(wanted.removeprefix("bytes=").rstrip("-")) + server.shift
            status = 206 if begin < len(content) else 416
            place = f"{begin}-{len(content) - 1}" if status == 206 else "*"
            headers["Content-Range"] = f"bytes {place}/{len(content)}"
            content = content[begin:]
        server.log.append((self.path, wanted, status))
        cut = server.cuts.pop(0) if server.cuts and status < 300 else None
        self.reply(status, content, headers, cut)

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        held = self.server.held if headers else None
        if held is not None:
            half = len(body) // 2
            self.wfile.write(body[:half])
            self.wfile.flush()
            self.server.reached.set()
            held.wait()
            body = body[half:]
        self.wfile.write(body if cut is None else body[:cut])
        self.close_connection = self.close_connection or cut is not None


def make_archive(source: Path, top: str = "20210601_u2++_conformer_exp/", mode: str = "w:gz") -> bytes:
    """Return the archive of a checkpoint as it is published: with other files, in a folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        if top:
            folder = tarfile.TarInfo(top.rstrip("/"))
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
        for name in ("train.yaml", "final.pt", "units.txt", "global_cmvn"):
            tar.add(source / name, arcname=top + name)
        for name in ("test_attention_rescoring/text", "wer", "train.log"):
            member = tarfile.TarInfo(top + name)
            member.size = 5
            tar.addfile(member, io.BytesIO(b"other"))
    return buffer.getvalue()
