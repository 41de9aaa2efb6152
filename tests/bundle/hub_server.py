"""A server for real folders with the part of the Hugging Face hub's HTTP API that downloads need."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", "v1", COMMIT)


class Hub(ThreadingHTTPServer):
    """Serves the folders `root/organisation/name` as repositories."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.gated: set[str] = set()
        self.private: set[str] = set()
        self.interrupted: set[str] = set()
        """Files whose first download breaks off in the middle."""
        self.log: list[str] = []
        """What was asked for about models: method, path and, if there is one, the range."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator["Hub"]:
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith(("/api/models/", "/org/")):
            self.server.log.append(" ".join(filter(None, (self.command, path, self.headers["Range"]))))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            self.api(match[1], match[2], match[3] or "main")
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.file(match[1], match[2], match[3])
        else:
            self.fail(404, "")

    def api(self, repo: str, what: str | None, revision: str) -> None:
        if self.found(repo, revision):
            root = self.server.root / repo
            files = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
            if what == "tree":
                entries = [
                    {"type": "file", "path": name, "size": path.stat().st_size, "oid": etag(path)}
                    for name, path in files.items()
                ]
                self.reply(json.dumps(entries).encode())
            else:
                siblings = [{"rfilename": name} for name in files]
                info = {"_id": "1", "id": repo, "modelId": repo, "sha": COMMIT, "tags": [], "downloads": 0}
                self.reply(json.dumps({**info, "private": False, "likes": 0, "siblings": siblings}).encode())

    def file(self, repo: str, revision: str, name: str) -> None:
        path = self.server.root / repo / name
        if repo in self.server.gated:
            self.fail(403, "GatedRepo")
        elif self.found(repo, revision):
            if not path.is_file():
                self.fail(404, "EntryNotFound")
                return
            content = path.read_bytes()
            headers = {"ETag": f'"{etag(path)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            first = int(re.findall(r"bytes=(\d+)-", self.headers["Range"] or "bytes=0-")[0])
            if first:
                headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            self.reply(content[first:], headers, 206 if first else 200, cut=name in self.server.interrupted)

    def found(self, repo: str, revision: str) -> bool:
        if repo in self.server.private:
            self.fail(401, "")
        elif not (self.server.root / repo).is_dir():
            self.fail(404, "RepoNotFound")
        elif revision not in REVISIONS:
            self.fail(404, "RevisionNotFound")
        else:
            return True
        return False

    def fail(self, status: int, code: str) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": code} if code else {}
        self.reply(b"", headers, status)

    def reply(self, body: bytes, headers: dict[str, str] | None = None, status: int = 200, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET" and cut:
            self.server.interrupted.clear()
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif self.command == "GET":
            self.wfile.write(body)


def etag(path: Path) -> str:
    """Return git's hash of a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
