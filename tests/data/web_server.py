"""A web server on loopback that serves data to tests."""

import re
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class WebServer:
    """Serves a folder with byte ranges, records every request, and misbehaves on demand."""

    folder: Path
    url: str
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    """(path, Range header, bytes sent)"""
    failures: list[int] = field(default_factory=list)
    """What the next requests get instead: a status, or 0 for a connection closed in the middle of the content."""
    knows_ranges: bool = True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: WebServer

    def do_GET(self) -> None:
        web, wanted = self.web, self.headers.get("Range", "")
        path = web.folder / urllib.parse.unquote(self.path).lstrip("/")
        failure = web.failures.pop(0) if web.failures else None
        content, status = (path.read_bytes(), HTTPStatus.OK) if path.is_file() else (b"", HTTPStatus.NOT_FOUND)
        bounds = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted)
        if failure:
            content, status = b"", HTTPStatus(failure)
        elif bounds and web.knows_ranges and status == HTTPStatus.OK:
            begin, last = map(int, bounds.groups())
            beyond = begin >= len(content)
            content, status = content[begin : last + 1], HTTPStatus.PARTIAL_CONTENT
            if beyond:
                status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
        length = len(content)
        if failure == 0:
            content, self.close_connection = content[: length // 2], True
        web.requests.append((self.path, wanted, len(content)))
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[WebServer]:
    """Serve `folder`, which is created if necessary."""
    folder.mkdir(exist_ok=True)
    handler = type("Handler", (_Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        handler.web = WebServer(folder=folder, url=f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield handler.web
        server.shutdown()
        thread.join()
